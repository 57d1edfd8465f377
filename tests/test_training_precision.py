"""The precision that chooses itself: by the times of steps, kept by the run."""

import json

import keras
import pytest
import train_tiny
from conftest import dense, tiny_data

from keras_effv2 import processor, recipes, searching, timing
from keras_effv2.training import precision

RECIPE = recipes.Recipe("tiny", "tests", 1, 8, 1e-3, precision="auto")
# flags of /proc/cpuinfo: Haswell, Ice Lake, Zen 4, Sapphire Rapids, a Raspberry Pi
PROCESSORS = [
    ("flags\t\t: fpu sse2 fma avx f16c avx2", False),
    ("flags\t\t: fpu avx2 avx512f avx512_vnni avx512_vbmi2", False),
    ("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni", True),
    ("flags\t\t: fpu avx2 amx_bf16 amx_tile amx_int8", True),
    ("Features\t: fp asimd evtstrm crc32 cpuid", False),
]


@pytest.mark.parametrize("told, does", PROCESSORS)
def test_what_multiplies_halves(told, does, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "_TOLD", str(tmp_path / "cpuinfo"))
    assert not processor.multiplies_bfloat16()  # no such file, as on other systems
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{told}\nbugs\t\t: spectre_v1\n")
    assert processor.multiplies_bfloat16() is does


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends how many seconds a step takes in each precision."""

    def step(model, *size):
        return lambda name=model.dtype_policy.name: name

    def pretend(**seconds):
        monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: len(seconds) > 1)
        monkeypatch.setattr(timing, "train_step", step)
        monkeypatch.setattr(timing, "seconds", lambda step, clock: seconds[step()])

    return pretend


def test_half_precision_has_to_be_faster_by_a_tenth(machine):
    machine(float32=1.0, mixed_bfloat16=0.95)
    chosen, why = precision.fastest(train_tiny.build, RECIPE)
    assert chosen == "float32" and "1000 ms in float32, 950 ms in mixed_bfloat16; half" in why
    machine(float32=1.0, mixed_bfloat16=0.85)
    assert precision.fastest(train_tiny.build, RECIPE)[0] == "mixed_bfloat16"
    machine(float32=1.0)
    chosen, why = precision.fastest(lambda: pytest.fail("was built"), RECIPE)
    assert chosen == "float32" and "neither AVX512_BF16 nor AMX" in why
    assert keras.config.dtype_policy().name == "float32"


def test_a_run_keeps_what_was_chosen(machine, quiet_train, tmp_path):
    machine(float32=1.0, mixed_bfloat16=0.5)
    result = quiet_train(train_tiny.build, tiny_data(), RECIPE)
    assert result.model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["precision"] == (
        "mixed_bfloat16"
    )
    machine()  # nothing is timed when the run is asked for again
    assert quiet_train(train_tiny.build, tiny_data(), RECIPE).resumed_from == result.steps


def test_steps_of_both_precisions_run(monkeypatch):
    """Nothing pretended: what is chosen is one of them, and the sentence has both times."""
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: True)
    chosen, why = precision.fastest(train_tiny.build, RECIPE)
    assert chosen in ("float32", "mixed_bfloat16") and why.count(" ms in ") == 2


def test_what_cannot_be_timed_is_refused(quiet_train, tmp_path):
    with pytest.raises(ValueError, match="pass a function that builds the model"):
        quiet_train(dense(4), tiny_data(), RECIPE)
    with pytest.raises(ValueError, match="one precision"):
        searching.search(tiny_data(), tmp_path / "search", space="small", recipe=RECIPE, trials=1)
