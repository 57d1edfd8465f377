"""What the processor can do, and TensorFlow's own word for whether oneDNN is on."""

import os
import subprocess
import sys

import numpy as np
import pytest

from keras_effv2 import processor

# what NumPy 1.26 and 2.4 call the same machines, and what TensorFlow 2.21 does there by itself
MACHINES = [
    (["SSE42", "AVX", "F16C", "FMA3", "AVX2"], "AVX2", "off"),
    (["X86_V3"], "AVX2", "off"),
    (["AVX2", "AVX512F", "AVX512CD", "AVX512_SKX"], "AVX-512", "off"),
    (["X86_V3", "X86_V4", "AVX512_ICL"], "AVX-512 with VNNI", "on"),
    (["X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR"], "AVX-512 with bfloat16", "on"),
]


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends a machine of these instructions, on which nothing was chosen."""
    monkeypatch.delenv(processor.ONEDNN, raising=False)

    def pretend(found):
        told = {"SIMD Extensions": {"baseline": ["SSE"], "found": found}}
        monkeypatch.setattr(np, "show_config", lambda mode: told)

    return pretend


@pytest.mark.parametrize("found, instructions, onednn", MACHINES)
def test_instructions(found, instructions, onednn, machine):
    machine(found)
    assert (processor.instructions(), processor.onednn()) == (instructions, onednn)


def test_onednn_is_turned_on_where_it_would_be_off(machine, monkeypatch):
    monkeypatch.setattr(sys, "modules", {})  # TensorFlow is not imported yet
    machine(["X86_V3", "X86_V4", "AVX512_ICL"])
    assert not processor.prefer_onednn()
    machine(["X86_V3"])
    assert processor.prefer_onednn() and os.environ[processor.ONEDNN] == "1"
    assert processor.onednn() == "on"
    monkeypatch.setenv(processor.ONEDNN, "0")  # the user's choice stays
    assert not processor.prefer_onednn() and processor.onednn() == "off"


def test_an_imported_tensorflow_is_left_alone(machine, monkeypatch):
    machine(["X86_V3"])
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert not processor.prefer_onednn() and processor.ONEDNN not in os.environ


def test_tensorflow_says_the_same():
    environment = {key: value for key, value in os.environ.items() if key != processor.ONEDNN}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "0"
    code = "from keras_effv2 import processor; import tensorflow; print(processor.onednn())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ("oneDNN custom operations are on" in done.stderr) == (done.stdout == "on\n")
