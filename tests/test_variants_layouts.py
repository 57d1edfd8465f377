"""The layouts of the CoAtNet paper: counts at equal size, and ViT_REL as a small family."""

import json

import keras
import numpy as np
import pytest
from conftest import tiny_coatnet_row

import keras_effv2 as kev
from keras_effv2 import models, variants
from keras_effv2.models import coatnet, vit_rel

# at CoAtNet-0's size and 224 px: blocks of stage 3, parameters and MACs over those of CCTT
MATCHED = {
    "CCCC": (8, 1.016, 0.935),
    "CCCT": (6, 1.000, 0.882),
    "CCTT": (5, 1.000, 1.000),
    "CTTT": (5, 1.011, 1.254),
}
# unmatched: five blocks everywhere, millions of parameters
UNMATCHED = {"CCCC": 20.9, "CCCT": 23.5, "CCTT": 25.0, "CTTT": 25.3}


@pytest.mark.parametrize("letters", MATCHED)
def test_staged_layouts_are_of_one_size(letters):
    repeats, parameters, macs = MATCHED[letters]
    base, row = kev.model_info("CoAtNet0"), variants.layout(letters)
    info = kev.model_info(row)
    assert [stage.repeats for stage in row.stages] == [2, 3, repeats, 2]
    ratios = [info[key] / base[key] for key in ("trainable_parameters", "macs")]
    assert ratios == pytest.approx([parameters, macs], abs=6e-4)


@pytest.mark.parametrize("letters", UNMATCHED)
def test_unmatched_layouts(letters):
    info = kev.model_info(variants.layout(letters, repeats=(2, 3, 5, 2)))
    assert info["trainable_parameters"] / 1e6 == pytest.approx(UNMATCHED[letters], abs=0.06)


def test_cctt_is_coatnet():
    row = variants.layout("CCTT")
    assert row.stages == coatnet.VARIANTS["CoAtNet0"].stages


def test_vit_rel_counts_by_hand():
    """12 c^2 and its biases, norms and table a block; patches, norm, hidden layer and head."""
    row = variants.layout("ViT_REL")
    (stage,) = row.stages
    c, n = stage.channels, stage.repeats
    assert (c, n) == (384, 14)
    block = 12 * c * c + 3 * c + c + 4 * c + c + 4 * c + 12 * 27 * 27
    wanted = 16 * 16 * 3 * c + c + n * block + 2 * c + c * c + c + c * 1000 + 1000
    info = kev.model_info(row)
    assert info["trainable_parameters"] == wanted
    base = kev.model_info("CoAtNet0")
    assert info["parameters"] / base["parameters"] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("letters", ["CCCC", "CTTT", "ViT_REL"])
def test_small_layouts_build_and_are_counted(letters, tmp_path):
    row = variants.layout(letters, base=tiny_coatnet_row())
    model = models.builder(row)(classes=3, input_shape=(64, 64, 3))
    info = kev.model_info(row, 64, classes=3)
    assert model.count_params() == info["parameters"]
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    outputs = model(images).numpy()
    assert outputs.shape == (2, 3) and np.ptp(outputs) > 0
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images), outputs)
    kev.save_variant(row, tmp_path / "row.json")
    assert kev.load_variant(tmp_path / "row.json") == row


def test_vit_rel_has_one_level():
    row = variants.layout("ViT_REL", base=tiny_coatnet_row(), repeats=(1,))
    level = vit_rel.build(row, features=["reduction_4"])(np.zeros((1, 64, 96, 3), "float32"))
    assert level["reduction_4"].shape == (1, 4, 6, 8)
    with pytest.raises(ValueError, match="out of reduction_4. Received.*reduction_5"):
        vit_rel.build(row, features=["reduction_5"])
    with pytest.raises(ValueError, match="multiples of 16"):
        vit_rel.build(row, input_shape=(72, 64, 3))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda stages: stages * 2, "A ViT_REL has one stage. Received: 2"),
        (lambda stages: [{**stages[0], "stride": 2}], r"0 stages have stride 2.*strides \[2\]"),
    ],
)
def test_a_file_of_a_vit_rel_has_one_stage_that_halves_nothing(change, said, tmp_path):
    path = tmp_path / "row.json"
    variants.save_variant(variants.layout("ViT_REL"), path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "stages": change(content["stages"])}))
    with pytest.raises(ValueError, match=f"row.json: {said}"):
        variants.load_variant(path)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("TCCC",), ["no C after a T", "'TCCC'"]),
        (("CTCT",), ["CTTT"]),
        (("CCT",), ["four stages"]),
        (("CCXT",), ["'CCXT'"]),
        (("CCTT", "CoAtNet6"), ["four stages", "CoAtNet6"]),
        (("CCTT", "EfficientNetV2B0"), ["EfficientNetV2B0"]),
        (("CCTT", "CoAtNet0", (1, 2)), ["`repeats` has a number a stage, 4 for CCTT"]),
        (("ViT_REL", "CoAtNet0", None, (8, 8)), ["`channels` has a number a stage, 1 for"]),
    ],
)
def test_what_is_no_layout(arguments, words):
    with pytest.raises(ValueError) as error:
        variants.layout(*arguments)
    for word in words:
        assert word in str(error.value)
