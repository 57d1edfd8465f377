"""Rows by name and by file, kernels and the missing expand convolution."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
from conftest import tiny_coatnet_row, tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2 import models, variants
from keras_effv2.layers import Pixels
from keras_effv2.models import efficientnet_v2
from keras_effv2.models.attention import RelativeAttention
from keras_effv2.models.efficientnet_v2 import Stage


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels, target, stride", [(8, 8, 1), (8, 24, 2), (3, 5, 1)])
def test_mbconv_of_expansion_1_has_no_expand_layers(kernel, channels, target, stride):
    inputs = keras.Input((64, 64, channels))
    stage = Stage("mbconv", 1, stride, 1, target, kernel)
    model = keras.Model(inputs, efficientnet_v2.mbconv_block(inputs, stage, stride, 0.0, 0, "a_"))
    assert not [layer.name for layer in model.layers if "expand_" in layer.name.split("se_")[0]]
    c, d, k, r = channels, target, kernel, max(1, channels // 4)
    assert trainable(model) == k * k * c + 2 * c + (2 * c * r + r + c) + c * d + 2 * d


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("expansion", [1, 4])
def test_fused_block_takes_the_kernel(kernel, expansion):
    inputs = keras.Input((64, 64, 8))
    stage = Stage("fused", 1, 1, expansion, 16, kernel)
    model = keras.Model(inputs, efficientnet_v2.fused_block(inputs, stage, 1, 0.0, 0, "a_"))
    k, e, c, d = kernel, expansion, 8, 16
    wanted = k * k * c * d + 2 * d if e == 1 else k * k * c * e * c + 2 * e * c + e * c * d + 2 * d
    assert trainable(model) == wanted


def mixed_row():
    """Every block with every kernel and expansion that a search draws."""
    strides = (1, 2, 2, 2, 2, 1)
    kinds = [(block, e, k) for block in ("fused", "mbconv") for e in (1, 4, 6) for k in (3, 5)]
    stages = tuple(
        Stage(block, 2, strides[i % 6], e, 8 * (1 + i // 2 % 2), k)
        for i, (block, e, k) in enumerate(kinds)
    )
    return [tiny_efficientnet_row(stages=part) for part in (stages[:6], stages[6:])]


def numbers_kept(model):
    """Numbers an image of all maps that a network's convolutions, products and the like read."""
    reads = (keras.layers.Dense, keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    reads += (keras.layers.BatchNormalization, keras.layers.LayerNormalization, RelativeAttention)
    maps, inside = {}, 0
    for layer in model.layers:
        (x, *_) = layer._inbound_nodes[0].input_tensors or [None]
        gelu = isinstance(layer, keras.layers.Activation) and "gelu" in layer.activation.__name__
        if isinstance(layer, reads) or gelu:
            while isinstance(x._keras_history.operation, (keras.layers.ZeroPadding2D, Pixels)):
                (x,) = x._keras_history.operation._inbound_nodes[0].input_tensors
            maps[id(x)] = math.prod(x.shape[1:])
        if isinstance(layer, RelativeAttention):
            n = x.shape[1] * x.shape[2]
            queries_keys_values, weighted = 3 * n * layer.width, n * layer.width
            inside += queries_keys_values + weighted + 3 * layer.heads * n * n
    return sum(maps.values()) + inside


@pytest.mark.parametrize(
    "name",
    ["EfficientNetV2B0", "CoAtNet0", "CoAtNetNanoRW", "CoAtNetNanoRW2", "CoAtNeXtNanoRW"],
)
def test_activations_are_the_maps_that_layers_read(name):
    model = models.builder(name)(weights=None, input_shape=(96, 160, 3))
    assert kev.model_info(name, (96, 160))["activations"] == numbers_kept(model)


@pytest.mark.parametrize("row", mixed_row(), ids=["fused", "mbconv"])
def test_counts_equal_the_built_model(row):
    model = efficientnet_v2.build(row, classes=7)
    info = kev.model_info(row, classes=7)
    assert model.count_params() == info["parameters"]
    assert trainable(model) == info["trainable_parameters"]


@pytest.mark.parametrize("row", [*mixed_row(), tiny_coatnet_row()], ids=["fused", "mbconv", "C"])
def test_a_file_holds_every_column(row, tmp_path):
    path = tmp_path / "row.json"
    kev.save_variant(row, path)
    assert kev.load_variant(path) == row
    assert variants.find(str(path)) == row == variants.find(path) == variants.find(row)
    assert kev.model_info(str(path)) == kev.model_info(row)
    model = models.builder(path)(classes=3)
    assert model.count_params() == kev.model_info(row, classes=3)["parameters"]
    assert [*tmp_path.iterdir()] == [path]


def test_every_published_row_survives_its_file(tmp_path):
    for name, row in variants.VARIANTS.items():
        kev.save_variant(row, tmp_path / "row.json")
        assert kev.load_variant(tmp_path / "row.json") == row == variants.find(name)


def test_a_searched_network_has_no_weights_and_says_so(tmp_path):
    kev.save_variant(tiny_efficientnet_row(), tmp_path / "mine.json")
    with pytest.raises(ValueError, match="No weights of TinyEfficientNetV2 were ever released"):
        models.builder(tmp_path / "mine.json")(weights="imagenet")


@pytest.mark.parametrize(
    "model, error, words",
    [
        ("EfficientNetV2B9", ValueError, ["Did you mean EfficientNetV2B", "CoAtNet7", ".json"]),
        ("nonsense", ValueError, ["'nonsense'", "EfficientNetV2XL"]),
        ("none.json", FileNotFoundError, ["none.json", "save_variant"]),
        (3, ValueError, ["int"]),
    ],
)
def test_a_model_that_is_not_there(model, error, words):
    with pytest.raises(error) as caught:
        variants.find(model)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"format": 2}, ["format", "update"]),
        ({"family": "resnet"}, ["coatnet", "'resnet'"]),
        ({"colour": 1}, ["'colour'", "image_size"]),
        ({"name": None}, ["`name` is str"]),
        ({"image_size": 0}, ["`image_size` is 1 or more", "0"]),
        ({"image_size": True}, ["`image_size` is int", "True"]),
        ({"image_size": "64"}, ["`image_size` is int", "'64'"]),
        ({"dropout": 1.5}, ["[0, 1)", "1.5"]),
        ({"pixels": "raw"}, ["'127.5'", "'raw'"]),
        ({"weights": 3}, ["`weights` is str or null"]),
        ({"stages": []}, ["`stages`"]),
        ({"stages": [3]}, ["stage 1", "3"]),
    ],
)
def test_a_file_is_checked_column_by_column(changes, words, tmp_path):
    path = tmp_path / "row.json"
    kev.save_variant(tiny_efficientnet_row(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError) as error:
        kev.load_variant(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"block": "dense"}, ["stage 2", "'fused', 'mbconv'", "'dense'"]),
        ({"kernel": 4}, ["odd", "4"]),
        ({"stride": 3}, ["1, 2", "3"]),
        ({"stride": 1}, ["4 stages have stride 2"]),
        ({"repeats": -1}, ["1 or more"]),
        ({"channels": None}, ["`channels` is int"]),
        ({"width": 8}, ["'width'", "expansion"]),
    ],
)
def test_a_stage_is_checked_column_by_column(changes, words, tmp_path):
    path = tmp_path / "row.json"
    kev.save_variant(tiny_efficientnet_row(), path)
    content = json.loads(path.read_text())
    content["stages"][1].update(changes)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        kev.load_variant(path)
    for word in words:
        assert word in str(error.value)


def test_a_missing_column_and_a_torn_file(tmp_path):
    path = tmp_path / "row.json"
    kev.save_variant(tiny_efficientnet_row(), path)
    text = path.read_text()
    content = json.loads(text)
    del content["name"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'name' is missing"):
        kev.load_variant(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="cannot be read as a variant"):
        kev.load_variant(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="names no family"):
        kev.load_variant(path)
    with pytest.raises(ValueError, match="NAME.json"):
        kev.save_variant(tiny_efficientnet_row(), tmp_path / "row.txt")
    with pytest.raises(ValueError, match="writes a Variant.*str"):
        kev.save_variant("EfficientNetV2B0", path)


def test_columns_with_a_default_may_be_left_out(tmp_path):
    path = tmp_path / "row.json"
    kev.save_variant(tiny_efficientnet_row(), path)
    content = json.loads(path.read_text())
    del content["dropout"], content["stages"][0]["kernel"]
    path.write_text(json.dumps(content))
    assert kev.load_variant(path) == dataclasses.replace(tiny_efficientnet_row(), dropout=0.2)
