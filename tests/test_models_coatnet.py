"""CoAtNet-0..7 compute what they computed before timm's relatives came beside them."""

import dataclasses
import pathlib
import zlib

import numpy as np
import pytest

from keras_effv2.models import application, coatnet

# written at commit 9ffd7d8, bit for bit the same on that machine after the change
STORED = pathlib.Path(__file__).parent / "data" / "coatnet_outputs.npz"


def row(number, stride_at):
    stages = tuple(
        dataclasses.replace(stage, repeats=min(2, stage.repeats), channels=8 if i < 2 else 16)
        for i, stage in enumerate(coatnet.VARIANTS[f"CoAtNet{number}"].stages)
    )
    return dataclasses.replace(
        coatnet.VARIANTS[f"CoAtNet{number}"],
        stages=stages,
        stem=8,
        head_size=4,
        hidden=16,
        stride_at=stride_at,
    )


def fill(model):
    """Weights by their names, so that the order of layers does not matter."""
    for weight in model.weights:
        value = np.random.default_rng(zlib.crc32(weight.path.encode())).normal(size=weight.shape)
        if weight.name in ("gamma", "moving_variance"):
            value = 1 + 0.2 * np.abs(value)
        elif weight.name in ("beta", "moving_mean", "bias"):
            value = 0.1 * value
        elif weight.name != "relative_bias":
            value = value * 0.3 / np.sqrt(np.prod(weight.shape[:-1])) * 3
        weight.assign(value.astype("float32"))
    return model


@pytest.mark.parametrize("stride_at", ["expand", "depthwise"])
@pytest.mark.parametrize("number", range(8))
def test_outputs_are_those_that_were_stored(number, stride_at):
    images = np.random.default_rng(1).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    ends = {"weights": None, "input_shape": (64, 96, 3)}
    head = {"classes": 10, "classifier_activation": None}
    given = {"logits": fill(coatnet.build(row(number, stride_at), **ends, **head))(images)}
    levels = fill(coatnet.build(row(number, stride_at), features=application.REDUCTIONS, **ends))
    given.update({key: np.ravel(x)[::97] for key, x in levels(images).items()})
    with np.load(STORED) as stored:
        for key, value in given.items():
            wanted = stored[f"{number}/{stride_at}/{key}"]
            np.testing.assert_allclose(value, wanted, atol=1e-6 * np.abs(wanted).max(), rtol=0)
