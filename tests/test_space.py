"""Spaces: the counts of their product formula, points, caps and what a space of one's own must be."""

import dataclasses
import json

import numpy as np
import pytest

import keras_effv2 as kev
from keras_effv2 import space as spaces
from keras_effv2.models import efficientnet_v2
from keras_effv2.models.efficientnet_v2 import Stage

# product over stages of layers * 2 blocks * 2 kernels * 3 expansions; 0 layers once
COUNTS = {
    "tiny": 24**5,
    "small": 24**3 * 36**3,
    "b0": 486 * 12**6 * 13,
    "b4": 48 * 60**5 * 49,
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_presets(name):
    assert spaces.SPACES[name].count() == COUNTS[name]
    assert COUNTS["b0"] == 18_865_446_912 and COUNTS["b4"] == 1_828_915_200_000


def two_stages(**changes):
    """Most stages have one choice; the last two have all."""
    values = {
        "channels": (8, 8, 8, 8, 8, 16),
        "strides": (1, 2, 2, 2, 2, 1),
        "stem": 8,
        "top": 16,
        "layers": ((1,),) * 4 + ((1, 2), (0, 1, 2)),
        "image_size": 64,
        "baseline": spaces.SPACES["tiny"].baseline,
    }
    return spaces.Space("two", **{**values, **changes})


def test_enumeration_has_the_count_and_no_network_twice():
    # blocks and kernels of the first four stages vary too: one choice of each but the expansion
    space = two_stages(blocks=("fused", "mbconv"), kernels=(3,), expansions=(1,))
    networks = list(space.networks())
    assert len(networks) == len(set(networks)) == space.count() == 2**4 * (2 * 2) * (1 + 2 * 2)
    names = {space.variant(rows).name for rows in networks}
    assert len(names) == len(networks)
    assert {len(rows) for rows in networks} == {5, 6}


def test_points_of_b0():
    """EfficientNetV2-B0 and EfficientNet-B0's kinds of blocks are networks of the space."""
    space = spaces.SPACES["b0"]
    published = efficientnet_v2.VARIANTS["EfficientNetV2B0"]
    assert space.values(published.stages) is not None
    assert space.rows(space.values(published.stages)) == published.stages
    assert space.baseline == published.stages
    assert kev.model_info(space.variant(published.stages))["parameters"] == 7_200_312
    # google/automl efficientnet_builder.py: kernel, repeats and expansion of its seven rows
    v1 = [(3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 3, 6), (5, 3, 6), (5, 4, 6), (3, 1, 6)]
    assert [(r.kernel, r.repeats, r.expansion) for r in space.origin] == v1
    assert {row.block for row in space.origin} == {"mbconv"}
    assert space.values(space.origin) is not None
    other = dataclasses.replace(published.stages[0], channels=24)
    assert space.values((other, *published.stages[1:])) is None


@pytest.mark.parametrize("name", COUNTS)
def test_baselines_are_networks_of_their_space(name):
    space = spaces.SPACES[name]
    for rows in (space.baseline, space.origin):
        assert space.values(rows) is not None


def test_widths_of_b4_are_those_of_step_4():
    space, scaled = spaces.SPACES["b4"], kev.scale("EfficientNetV2B0", 4)
    assert space.channels[:6] == tuple(stage.channels for stage in scaled.stages)
    assert (space.stem, space.top, space.image_size) == (scaled.stem, scaled.top, scaled.image_size)


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3)]


@pytest.mark.parametrize("seed", [0, *SLOW])  # 40 rows
def test_every_drawn_row_builds_and_is_counted(seed):
    random = np.random.default_rng(seed)
    for name in ("tiny", "small") * 5:
        space = spaces.SPACES[name]
        values = space.draw(random)
        row = space.variant(space.rows(values))
        assert space.rows(space.values(row.stages)) == row.stages
        model = efficientnet_v2.build(row, classes=5)
        assert model.count_params() == kev.model_info(row, classes=5)["parameters"]


def test_same_rows_same_name_whatever_the_space_is_called():
    space = spaces.SPACES["tiny"]
    other = dataclasses.replace(space, name="other", image_size=96)
    assert space.variant(space.baseline).name == other.variant(space.baseline).name
    assert space.variant(space.baseline).name.startswith("search-")
    wider = dataclasses.replace(space, stem=24)
    assert space.variant(space.baseline).name != wider.variant(space.baseline).name


def test_a_network_over_the_cap_is_refused_by_arithmetic():
    space = spaces.SPACES["tiny"]
    baseline = space.variant(space.baseline)
    largest = space.variant(
        tuple(Stage("fused", 2, s, 6, c, 5) for c, s in zip(space.channels, space.strides))
    )
    assert spaces.too_large(baseline, baseline, 10, 1.0, 1.0) is None
    assert "trainable parameters" in spaces.too_large(largest, baseline, 10, 2.0, 100.0)
    assert "macs" in spaces.too_large(largest, baseline, 10, 100.0, 2.0)
    # the same comparison with counts of built models
    built = [efficientnet_v2.build(v, classes=10) for v in (largest, baseline)]
    ratio = np.divide(*(sum(np.prod(w.shape) for w in m.trainable_weights) for m in built))
    assert f"{ratio:.2f} times" in spaces.too_large(largest, baseline, 10, 2.0, 100.0)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"strides": (1, 2, 2, 1, 2, 1)}, ["exactly four are 2"]),
        ({"strides": (1, 2, 2, 2, 2)}, ["one entry a stage"]),
        ({"strides": (4, 2, 2, 2, 2, 1)}, ["1 or 2"]),
        ({"image_size": 32}, ["64 or more", "32", "scaled up"]),
        ({"layers": ((0, 1),) + ((1,),) * 5}, ["stage 1", "from 1"]),
        ({"layers": ((1,),) * 5 + ((),)}, ["stage 6"]),
        ({"layers": ((1,),) * 5 + ((1, 1),)}, ["offered once"]),
        ({"layers": ((1,),) * 5 + ((0, 1),), "strides": (1, 1, 2, 2, 2, 2)}, ["stage 6", "from 1"]),
        ({"blocks": ("dense",)}, ["'fused', 'mbconv'", "dense"]),
        ({"kernels": (4,)}, ["4"]),
        ({"kernels": ()}, ["offered once"]),
        ({"expansions": (0, 1)}, ["expansions", "from 1"]),
        ({"stem": 0}, ["`stem`"]),
        ({"baseline": ()}, ["`baseline`"]),
    ],
)
def test_a_space_that_cannot_be_searched(changes, words):
    with pytest.raises(ValueError, match="The space 'two' cannot be searched") as error:
        two_stages(**changes)
    for word in words:
        assert word in str(error.value)


def test_an_unknown_space():
    with pytest.raises(ValueError, match="'huge'. Spaces: tiny, small, b0, b4"):
        spaces.find("huge")
    assert spaces.find(two_stages()) == two_stages()


def test_a_space_of_ones_own_is_a_file(tmp_path):
    """As `dataclasses.asdict` and json write it; what is wrong with it stands in one sentence."""
    small = spaces.SPACES["small"]
    wide = dataclasses.replace(small, name="wide", kernels=(3, 5, 7), origin=small.baseline)
    path = tmp_path / "wide.json"
    path.write_text(json.dumps(dataclasses.asdict(wide)))
    assert spaces.find(path) == wide == spaces.find(str(path))
    content = dataclasses.asdict(wide)
    for wrong, words in (
        ({**content, "kernel": [3]}, "unexpected keyword argument 'kernel'"),
        ({**content, "strides": [1] * 6}, "exactly four are 2"),
        ({**content, "baseline": [{"block": "fused"}]}, "missing 4 required"),
        ([], "no attribute 'items'"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"wide.json is no space: .*{words}"):
            spaces.find(path)
    with pytest.raises(FileNotFoundError, match="There is no file none.json of a space"):
        spaces.find("none.json")
