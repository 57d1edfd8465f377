"""The TF Hub export of a whole network, in a process that has TensorFlow only."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import tiny_coatnet_row, tiny_efficientnet_row
from exported import LABELS, close, fresh, lively, logits, pictures

import keras_effv2 as kev
from keras_effv2 import layers
from keras_effv2.exporting import card
from keras_effv2.models import coatnet, efficientnet_v2

PLAIN = """
import sys, numpy as np, tensorflow as tf
module = tf.saved_model.load("hub")
images, odd = (tf.constant(x) / 255 for x in np.load("images.npz").values())
found = {
    "default": module(images),
    "inference": module(images, training=False),
    "served": module.signatures["serving_default"](images)["outputs"],
    "odd": module(odd, training=False),
    "labels": open(module.labels.asset_path.numpy()).read().splitlines(),
    **module.features(odd),
}
served = module.signatures["features"](odd)
assert all(np.array_equal(served[key], found[key]) for key in served)
found |= {f"before {i}": v.numpy() for i, v in enumerate(module.variables)}
found |= {f"training {i}": module(images, training=True) for i in range(2)}
found |= {f"after {i}": v.numpy() for i, v in enumerate(module.variables)}
assert not {"keras_effv2", "tf_keras", "tensorflow_hub"} & set(sys.modules)
np.savez("found.npz", **found)
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A tiny EfficientNetV2, its export, and what a process with only TensorFlow finds in it."""
    folder = tmp_path_factory.mktemp("network")
    model = lively(efficientnet_v2.build(tiny_efficientnet_row(), weights=None, classes=10))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    assert kev.export_hub(model, folder / "hub", labels=LABELS) == str(folder / "hub")
    images, odd = pictures(), pictures(1, 72, 40)
    np.savez(folder / "images.npz", images, odd)
    found = fresh(PLAIN, folder)
    return types.SimpleNamespace(model=model, folder=folder, images=images, odd=odd, found=found)


def test_hub_outputs_are_the_live_logits(network):
    wanted = logits(network.model, network.images)
    assert np.ptp(wanted, axis=0).max() > 0.5  # they follow the images
    for key in ("inference", "default", "served"):
        close(network.found[key], wanted)
    close(network.found["odd"], logits(network.model, network.odd))
    assert network.found["labels"].tolist() == LABELS


def test_hub_training_drops_at_random(network):
    first, second = (network.found[f"training {i}"] for i in range(2))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - network.found["inference"]).max() > 1e-3


def test_hub_feature_maps_are_those_of_the_builder(network):
    pyramid = efficientnet_v2.build(
        tiny_efficientnet_row(), weights=None, features=[f"reduction_{i}" for i in range(1, 6)]
    )
    for layer in pyramid.layers:
        if layer.weights:
            layer.set_weights(network.model.get_layer(layer.name).get_weights())
    for key, wanted in pyramid(network.odd, training=False).items():
        close(network.found[key], wanted.numpy())


def variables(network, when):
    card = json.loads((network.folder / "hub/assets.extra/keras_effv2.json").read_text())
    return {path: network.found[f"{when} {i}"] for i, path in enumerate(card["variables"])}


def test_hub_variables_are_the_weights_and_nothing_else(network):
    before = variables(network, "before")
    assert list(before) == [weight.path for weight in network.model.weights]
    for weight in network.model.weights:
        np.testing.assert_array_equal(before[weight.path], weight.numpy())
    stored = tf.train.list_variables(str(network.folder / "hub/variables/variables"))
    numbers = sum(int(np.prod(shape)) for name, shape in stored if "_CHECKPOINTABLE" not in name)
    seeds = sum(hasattr(layer, "seed_generator") for layer in network.model.layers)
    counter = 1  # `save_counter` of tf.train.Checkpoint
    assert numbers <= network.model.count_params() + 2 * seeds + counter


def test_hub_batch_statistics_move_exactly(network):
    before, after = (variables(network, when) for when in ("before", "after"))
    kernel = before["stem_conv/kernel"]
    x = np.pad((network.images - 128) / 128, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = sum(x[:, i : i + 63 : 2, j : j + 63 : 2] @ kernel[i, j] for i in range(3) for j in range(3))
    for name, batch in (("mean", x.mean((0, 1, 2))), ("variance", x.var((0, 1, 2)))):
        moving = before[f"stem_bn/moving_{name}"]
        for _ in range(2):
            moving = 0.9 * moving + 0.1 * batch
        np.testing.assert_allclose(after[f"stem_bn/moving_{name}"], moving, atol=1e-5)
    for path in before:
        if "moving" not in path:
            np.testing.assert_array_equal(before[path], after[path])


def test_builder_loads_a_hub_export(network):
    row = tiny_efficientnet_row()
    model = efficientnet_v2.build(row, weights=str(network.folder / "hub"))
    close(model(network.odd).numpy(), network.model(network.odd).numpy(), 1e-6)
    assert layers.find_pixels(model).class_names == tuple(LABELS)
    with pytest.raises(ValueError, match="does not fit"):
        coatnet.build(tiny_coatnet_row(), weights=str(network.folder / "hub"), classes=10)


def test_model_card(network):
    text = (network.folder / "hub/assets.extra/MODEL_CARD.md").read_text()
    assert f"{network.model.count_params():,}" in text
    for word in (
        "Multiply-adds",
        "[0, 1]",
        "10 classes",
        "licence",
        "hub.KerasLayer",
        "HubLayer",
        "tf.saved_model",
    ):
        assert word in text


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "CoAtNet0"])
def test_multiply_adds_of_the_graph_are_those_of_the_tables(name):
    model = getattr(kev, name)(weights=None)
    assert card.multiply_adds(model, 224, 224) == kev.model_info(name, 224)["macs"]


@pytest.mark.slow
def test_hub_export_is_hardly_larger_than_its_weights(tmp_path):
    model = kev.EfficientNetV2B0(weights=None)
    kev.export_hub(model, tmp_path / "b0")
    size = sum(file.stat().st_size for file in (tmp_path / "b0").rglob("*") if file.is_file())
    assert size <= 1.1 * 4 * 7_200_312
