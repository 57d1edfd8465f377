"""TF Hub exports of small models, against the live model and numpy."""

import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from exported import LABELS, close, fresh, lively, logits, pictures, pooled, small

import keras_effv2 as kev
from keras_effv2 import layers
from keras_effv2.exporting import reusable

TF_KERAS = """
import sys, numpy as np, tensorflow as tf, tf_keras, tensorflow_hub as hub
images = np.load("images.npz")["images"]
layer = hub.KerasLayer("hub", trainable=True)
model = tf_keras.Sequential([layer])
found = {"outputs": model(images, training=False)}
before = [v.numpy() for v in layer.variables]
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(model(images, training=True) ** 2)
found["reached"] = [g is not None and bool(np.any(g)) for g in tape.gradient(loss, layer.trainable_weights)]
found["moved"] = [bool(np.any(v.numpy() != old)) for v, old in zip(layer.variables, before)]
found["shapes"] = np.array([str(v.shape) for v in layer.variables])
found["losses"] = [float(x) for x in layer.losses]
layer.trainable = False
before = [v.numpy() for v in layer.variables]
model(images, training=True)
found["frozen moved"] = [bool(np.any(v.numpy() != old)) for v, old in zip(layer.variables, before)]
assert not {"keras_effv2"} & set(sys.modules)
np.savez("found.npz", **found)
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tf_keras_fine_tunes_the_export(tmp_path):
    pytest.importorskip("tensorflow_hub")
    model = small(kernel_regularizer="l2", bias_regularizer="l1")
    kev.export_hub(model, tmp_path / "hub")
    images = pictures(4, 32, 32)
    np.savez(tmp_path / "images.npz", images=images / 255)
    found = fresh(TF_KERAS, tmp_path, TF_USE_LEGACY_KERAS="1")
    close(found["outputs"], logits(model, images))
    assert found["reached"].tolist() == [True] * len(model.trainable_weights)
    assert sum(found["moved"]) == 2  # mean and variance
    assert not found["frozen moved"].any()
    kernel, bias = model.get_layer("head").get_weights()
    wanted = [0.01 * np.sum(kernel**2), 0.01 * np.sum(np.abs(bias))]
    assert found["losses"].tolist() == pytest.approx(wanted, rel=1e-5)


def test_penalties_are_those_that_keras_adds(tmp_path, monkeypatch):
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 1, kernel_regularizer="l2", trainable=False)(inputs)
    x = keras.layers.DepthwiseConv2D(3, depthwise_regularizer="l2")(x)
    x = layers.BatchNormalization(gamma_regularizer="l1")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = lively(
        keras.Model(inputs, keras.layers.Dense(3, "softmax", kernel_regularizer="l2")(x))
    )
    for kind, count in (("classification", 3), ("feature_vector", 2)):
        kev.export_hub(model, tmp_path / kind, kind)
        module = tf.saved_model.load(str(tmp_path / kind))
        losses = module.regularization_losses
        assert len(losses) == count
        np.testing.assert_allclose([loss() for loss in losses], model.losses[:count], rtol=1e-5)


@pytest.mark.parametrize("name", ["vector.tar.gz", "vector"])
def test_feature_vector(name, tmp_path, monkeypatch):
    if name == "vector":  # one of the two is enough to see the check pass
        monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    model, images = small(), pictures(3, 32, 48)
    model.get_layer("conv").trainable = False
    kev.export_hub(model, tmp_path / "made" / name, kind="feature_vector", labels=LABELS)
    assert [file.name for file in (tmp_path / "made").iterdir()] == [name]
    folder = tmp_path / "made" / name
    if name.endswith(".gz"):
        with tarfile.open(folder) as tar:
            assert "saved_model.pb" in tar.getnames()  # no folder around it
            tar.extractall(tmp_path / "unpacked", filter="data")
        folder = tmp_path / "unpacked"
    module = tf.saved_model.load(str(folder))
    close(module(images / 255, training=False), pooled(model, images))
    assert len(module.variables) == 5 and len(module.trainable_variables) == 2  # gamma and beta


def test_feature_vector_ends_before_any_head(tmp_path, monkeypatch):
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    images, body = pictures(3, 32, 48), small()
    x = body.get_layer("head").input
    mixed = keras.layers.Activation("softmax", dtype="float32")(keras.layers.Dense(10)(x))
    bare = keras.ops.softmax(keras.layers.Dense(10)(x))
    inputs = keras.Input((None, None, 3))
    nested = keras.Model(body.input, body.get_layer("head").input)(inputs)
    cases = {"mixed": (body.input, mixed), "bare": (body.input, bare), "nested": (inputs, nested)}
    for name, ends in cases.items():
        kev.export_hub(keras.Model(*ends), tmp_path / name, kind="feature_vector")
        module = tf.saved_model.load(str(tmp_path / name))
        close(module(images / 255, training=False), pooled(body, images))
    with pytest.raises(ValueError, match="no layer GlobalAveragePooling2D of its own"):
        kev.export_hub(keras.Model(inputs, body(inputs)), tmp_path / "x", kind="feature_vector")


def test_pixels_are_normalised_once(tmp_path, monkeypatch):
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    model, images = small(), pictures(2, 32, 32)
    bare = keras.models.clone_model(
        model,
        clone_function=lambda x: x.__class__.from_config(
            {**x.get_config(), "enabled": False} if isinstance(x, layers.Pixels) else x.get_config()
        ),
    )
    bare.set_weights(model.get_weights())
    kev.export_hub(bare, tmp_path / "hub")
    close(tf.saved_model.load(str(tmp_path / "hub"))(images / 255), logits(model, images))


def test_rates_vary_on_after_an_export(tmp_path, monkeypatch):
    """An export during a training must not switch progressive dropout off."""
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    model = small()
    dropouts = [x for x in layers.walk(model) if hasattr(x, "vary_rate")]
    for layer in dropouts:
        layer.vary_rate()
        layer.rate = 0.0
    step = tf.function(lambda x: model(x, training=True))
    images = tf.constant(pictures(2, 32, 32))
    before = step(images).numpy()
    kev.export_hub(model, tmp_path / "hub")
    kev.export(model, tmp_path / "lean", images=pictures(2, 32, 32))
    for layer in dropouts:
        layer.rate = 0.9
    assert dropouts and not np.allclose(step(images), before, atol=1e-4)


def test_layers_of_keras_that_draw_at_random(tmp_path, monkeypatch):
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, small()(keras.layers.RandomFlip()(inputs)))
    kev.export_hub(model, tmp_path / "hub")
    images = pictures(2, 32, 32)
    served = tf.saved_model.load(str(tmp_path / "hub"))(images / 255, training=False)
    close(tf.nn.softmax(served), model(images, training=False))


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_what_stands_before_a_hub_layer_takes_hub_images(scale, tmp_path, monkeypatch):
    """Unless it scales them: then the model takes 0..255, and its export 0..1 all the same."""
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    inner = kev.export_hub(small(), tmp_path / "inner")
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Resizing(32, 32)(inputs)
    x = x if scale == 1 else keras.layers.Rescaling(scale)(x)
    model = keras.Model(inputs, keras.layers.Dense(4)(kev.HubLayer(inner)(x)))
    kev.export_hub(model, tmp_path / "hub")
    images = pictures(2, 48, 48) / 255
    close(tf.saved_model.load(str(tmp_path / "hub"))(images), model(images / scale))


def test_mirrored_mixed_precision_model_exports(tmp_path):
    images = pictures(4, 32, 32)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    strategy = mirrored(2)
    try:
        with strategy.scope():
            model = small()
    finally:
        keras.config.set_dtype_policy(policy)
    before = model.get_layer("norm").moving_mean.numpy()
    tf.function(lambda: strategy.run(lambda: model(tf.constant(images), training=True)))()
    assert np.any(model.get_layer("norm").moving_mean.numpy() != before)
    kev.export_hub(model, tmp_path / "hub")
    module = tf.saved_model.load(str(tmp_path / "hub"))
    outputs = module(images / 255, training=False)
    wanted = tf.nn.log_softmax(tf.cast(logits(model, images), "float32"))
    assert outputs.dtype == tf.float32
    close(tf.nn.log_softmax(outputs), wanted, 0.02)  # bfloat16 has three digits
    for mine, theirs in zip(model.weights, module.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
