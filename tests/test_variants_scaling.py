"""The scaling rule beside the published rows, which google/automl wrote."""

import dataclasses

import pytest
from conftest import tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2.models import efficientnet_v2
from keras_effv2.variants import scaling

ZERO = {"repeats": 0, "channels": 0, "stem": 0, "top": 0, "image_size": 0, "dropout": 0}
# published - rule, by hand from the tables of effnetv2_configs.py and efficientnetv1_params
RESIDUALS = {
    "B0": {},
    "B1": {},
    "B2": {},
    "B3": {},
    "S": {"channels": [0, 0, 0, -8, 0, -16]},
    "M": {"channels": [0, 0, 0, 8, 0, 0, 0]},
    "L": {},
    "XL": {
        "repeats": [0, 0, 0, 4, 0, 0, 0],
        "channels": [0, 0, 0, 0, 32, 128, 0],
        "image_size": 32,
    },
}


@pytest.mark.parametrize("size", RESIDUALS)
def test_published_rows_less_the_rule(size):
    found = scaling.residuals(f"EfficientNetV2{size}")
    assert set(found) == set(ZERO)
    for column, value in found.items():
        wanted = RESIDUALS[size].get(column, 0)
        assert value == (wanted or [0] * len(value) if isinstance(value, list) else wanted), column


@pytest.mark.parametrize("step, size", [(1, "B1"), (2, "B2"), (3, "B3"), (7, "L")])
def test_exact_steps_are_the_published_rows(step, size):
    row = kev.efficientnet_v2.VARIANTS[f"EfficientNetV2{size}"]
    scaled = kev.scale("EfficientNetV2B0", step)
    assert scaled.name == f"EfficientNetV2B0-step{step}" and scaled.weights is None
    other = {"name": row.name, "pixels": row.pixels, "weights": row.weights}
    assert dataclasses.replace(scaled, **other) == row
    assert kev.model_info(scaled)["parameters"] == kev.model_info(row)["parameters"]


@pytest.mark.parametrize("step, millions", [(4, 23.43), (5, 53.95), (7, 118.52)])
def test_parameters_by_the_rule(step, millions):
    found = kev.model_info(kev.scale("EfficientNetV2B0", step))["trainable_parameters"]
    assert found / 1e6 == pytest.approx(millions, abs=0.006)


def test_a_searched_network_of_five_stages_scales(tmp_path):
    stages = tuple(
        efficientnet_v2.Stage(block, n, stride, e, c, k)
        for block, n, stride, e, c, k in (
            ("fused", 1, 1, 1, 16, 3),
            ("fused", 2, 2, 4, 24, 5),
            ("mbconv", 1, 2, 1, 40, 3),
            ("mbconv", 2, 2, 6, 64, 5),
            ("mbconv", 1, 2, 4, 96, 3),
        )
    )
    base = tiny_efficientnet_row(stages=stages, stem=16, top=256, image_size=64)
    kev.save_variant(base, tmp_path / "winner.json")
    big = kev.scale(tmp_path / "winner.json", 5)
    assert [(s.block, s.kernel, s.expansion) for s in big.stages[:5]] == [
        (s.block, s.kernel, s.expansion) for s in stages
    ]
    # width 1.6, depth 2.2; one layer more in the last stage but one; a last stage of 160
    assert [s.repeats for s in big.stages] == [3, 5, 3, 7, 3, 5]
    assert [s.channels for s in big.stages] == [24, 40, 64, 104, 152, 256]
    assert [s.stride for s in big.stages] == [1, 2, 2, 2, 2, 1]
    assert (big.stem, big.top, big.image_size, big.dropout) == (24, 256, 160, 0.3)
    model = efficientnet_v2.build(big, classes=10)
    assert model.count_params() == kev.model_info(big, classes=10)["parameters"]


def test_from_a_later_step_nothing_is_added_twice():
    medium = kev.scale("EfficientNetV2B0", 5)
    large = kev.scale(medium, 7, from_step=5)
    assert len(large.stages) == 7 and large.stages[-1].stride == 1
    small = kev.scale("EfficientNetV2B0", 4)
    assert len(kev.scale(small, 5, from_step=4).stages) == 7
    assert kev.scale(small, 4, from_step=4).stages == small.stages
    assert kev.scale(small, 4, from_step=4).image_size == small.image_size
    assert "do not apply" in scaling.explain(small, 5, 4)


B0 = efficientnet_v2.VARIANTS["EfficientNetV2B0"]
ONE_STAGE = dataclasses.replace(B0, name="one", stages=B0.stages[:1])


def test_explain_prints_the_residuals():
    text = scaling.explain("EfficientNetV2B0", 5)
    assert "EfficientNetV2L: exact" in text and "EfficientNetV2B3: exact" in text
    assert "EfficientNetV2M: channels 0 0 0 8 0 0 0" in text
    assert "new 5" in text and "new 512" in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("EfficientNetV2B0", 9), ["0 to 8", "width 1.6, depth 2.2", "9"]),
        (("EfficientNetV2B0", 2.5), ["2.5"]),
        (("EfficientNetV2B0", True), ["0 to 8", "True"]),
        ((ONE_STAGE, 5), ["last stage but one", "one has one stage", "up to 4"]),
        (("EfficientNetV2B0", 3, 4), ["at least `from_step`"]),
        (("CoAtNet0", 3), ["CoAtNet0", "EfficientNetV2"]),
        (("EfficientNetV3", 3), ["There is no model"]),
    ],
)
def test_what_cannot_be_scaled(arguments, words):
    with pytest.raises(ValueError) as error:
        kev.scale(*arguments)
    for word in words:
        assert word in str(error.value)
