"""What a run is made of: which models, recipes and workdirs fit, and which are refused."""

import dataclasses
import errno
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import dense, mirrored, tiny_data

from keras_effv2 import layers, recipes
from keras_effv2.data import Data, Split
from keras_effv2.phases import Phase, ramp
from keras_effv2.training import checkpoints


def test_relative_attention_goes_through_the_phases(tiny_coatnet, quiet_train):
    phases = ramp(2, 2, image_size=(32, 64), multiple_of=32)
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, phases=phases)
    model = tiny_coatnet(classes=4, input_shape=(64, 64, 3))
    tables = [v.numpy() for v in model.trainable_variables if "relative_bias" in v.path]
    result = quiet_train(model, tiny_data(), recipe)
    assert result.traces == 1 and [row["image_size"] for row in result.history] == [32, 64]
    moved = [v.numpy() for v in model.trainable_variables if "relative_bias" in v.path]
    assert moved and all(not np.array_equal(a, b) for a, b in zip(tables, moved, strict=True))


@pytest.mark.parametrize("size, eval_size, wrong", [(48, 64, 48), (64, 100, 100)])
def test_relative_attention_takes_multiples_of_32(
    size, eval_size, wrong, tiny_coatnet, quiet_train
):
    phases = (Phase(0, 1, image_size=size),)
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-3, phases=phases, eval_size=eval_size)
    with pytest.raises(ValueError, match=f"multiples of 32 pixels. Received .* {wrong} pixels"):
        quiet_train(tiny_coatnet(classes=4), tiny_data(), recipe)


class Unregistered(keras.layers.Layer):
    """A layer that Keras cannot find by its name."""

    def call(self, x):
        return x


def test_layers_of_ones_own_are_no_obstacle(quiet_train, tmp_path):
    def build():
        inputs = keras.Input((None, None, 3))
        x = keras.layers.GlobalAveragePooling2D()(Unregistered()(inputs))
        return keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))

    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-3)
    result = quiet_train(build, tiny_data(), recipe)
    loaded = keras.models.load_model(
        tmp_path / "run" / "model.keras", custom_objects={"Unregistered": Unregistered}
    )
    assert getattr(loaded, "optimizer", None) is None
    for one, other in zip(result.model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["model.keras", "labels.txt", "summary.json", "history.png"])
def test_a_disk_that_is_full_at_the_end_costs_no_training(name, quiet_train, tmp_path, monkeypatch):
    """The checkpoint is there: the same call writes what is missing, and trains no step."""
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-3)
    replace = os.replace

    def full(source, target):
        if os.path.basename(target) == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=f"{name} could not be written .No space left.*Make room"):
            quiet_train(lambda: dense(4), tiny_data(), recipe)
    assert not (tmp_path / "run" / name).exists()
    result = quiet_train(lambda: dense(4), tiny_data(), recipe)
    assert result.resumed_from == result.steps == 6 and (tmp_path / "run" / name).stat().st_size
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".1")]


def test_refusals(quiet_train, tmp_path):
    recipe, data = recipes.Recipe("tiny", "tests", 1, 8, 1e-3), tiny_data()
    half = dataclasses.replace(recipe, precision="mixed_bfloat16")

    def refused(
        message, *, model=train_tiny.build, data=data, recipe=recipe, error=ValueError, **options
    ):
        with pytest.raises(error, match=message):
            quiet_train(model, data, recipe, **options)

    refused("7 outputs, colours has 4 classes", model=lambda: dense(7))
    refused("batch of 64 is larger than", recipe=dataclasses.replace(recipe, batch_size=64))
    refused("does not divide into 2 replicas", strategy=mirrored(2), recipe=_of_batch(recipe, 7))
    parts = dataclasses.replace(recipe, accumulate=5)
    refused("does not divide into 1 replica of 5 parts each. Choose a multiple of 5", recipe=parts)
    refused("`strategy` is one of", strategy="two")
    refused("pass a function", model=dense(4), strategy=_tpu_like())
    with checkpoints.locked(tmp_path / "run"):
        refused("Another process trains in", error=RuntimeError)
    quiet_train(lambda: dense(4), data, recipe)
    changed = dataclasses.replace(recipe, learning_rate=2e-3)
    refused("another recipe; changed: learning_rate: 0.001 -> 0.002", recipe=changed)
    refused("changed: parameters: 16 -> 28", model=lambda: dense(4, hidden=3))
    other = dataclasses.replace(data, train=data.train.select(np.arange(40)))
    refused("another recipe; changed: .*training pictures: 48 -> 40", data=other)
    way_out = r"built in float32\. .*effv2 train --recipe.precision=float32"
    refused(f"mixed_bfloat16, but model .* {way_out}", model=dense(4), recipe=half)
    refused("Received: s3://b/run. Mount the s3:// store", workdir="s3://b/run")
    names = ("red", "green", "blue", "no\ncolour")
    part = Split(names, data.train.labels, data.train.pictures)
    lines = Data("lines", names, part)
    refused(r"The label 'no\\ncolour' has a line break", data=lines)
    refused("works on one device; this strategy has 2", strategy=mirrored(2), jit_compile=True)


def _of_batch(recipe, size):
    return dataclasses.replace(recipe, batch_size=size)


def _tpu_like():
    """A strategy that takes models built in its scope only."""
    return tf.distribute.MultiWorkerMirroredStrategy()


def flat(side):
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_head_that_takes_one_size_is_trained_at_it(replicas, quiet_train):
    """With scikit-learn's count of its hits; another size is one sentence."""
    recipe, strategy = recipes.Recipe("tiny", "tests", 2, 8, 1e-2), "one"
    if replicas > 1:
        strategy = mirrored(replicas)
    model = flat(16)
    result = quiet_train(model, tiny_data(), recipe, strategy=strategy)
    assert [row["image_size"] for row in result.history] == [16, 16]
    split = tiny_data().validation
    said = model.predict(tf.image.resize(split.pictures, (16, 16)), verbose=0).argmax(1)
    assert (said == split.labels).mean() == pytest.approx(result.history[-1]["val_accuracy"])
    phases = (Phase(0, 2, image_size=24),)
    message = "takes pictures of 16 pixels alone: .*Flatten.* 24 pixels: give 16, or pool"
    for changes in ({"phases": phases}, {"eval_size": 24}):
        with pytest.raises(ValueError, match=message):
            quiet_train(flat(16), tiny_data(), dataclasses.replace(recipe, **changes))


@pytest.mark.parametrize("head", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_head_and_its_loss_fit_each_other(head, loss, quiet_train, tmp_path):
    """What the model says is what was trained: its own outputs have the loss that is reported."""
    inputs = keras.Input((None, None, 3))
    before = layers.Pixels("128", temperature=0.5, unknown_below=0.9, thresholds=[0.5] * 4)
    x = keras.layers.GlobalAveragePooling2D()(before(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4, activation=head)(x))
    phases = (Phase(0, 1, image_size=32),)
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-2, loss=loss, phases=phases)
    if head not in (None, loss):
        with pytest.raises(ValueError, match=f"ends in a {head}, .* {loss} .*loss='{head}'"):
            quiet_train(model, tiny_data(), recipe)
        return
    row = quiet_train(model, tiny_data(), recipe).history[-1]
    stored = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert layers.find_pixels(stored).activation == loss
    for pixels in (before, layers.find_pixels(stored)):  # it was judged before it was trained
        assert (pixels.temperature, pixels.unknown_below, pixels.thresholds) == (None, None, None)
    split = tiny_data().validation
    outputs = stored.predict(split.pictures.astype("float32"), verbose=0).astype("float64")
    targets = np.eye(4)[split.labels]
    if head is None:
        powers = np.exp(outputs)
        outputs = powers / (1 + powers if loss == "sigmoid" else powers.sum(1, keepdims=True))
    losses = -targets * np.log(outputs)
    if loss == "sigmoid":
        losses -= (1 - targets) * np.log(1 - outputs)
    assert losses.sum(1).mean() == pytest.approx(row["val_loss"], rel=1e-4)
