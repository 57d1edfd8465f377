"""The shared layers against Keras' own and closed forms."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effv2 import layers


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("mixed_bfloat16", 3e-2)])
def test_batch_norm_equals_keras(dtype, tolerance):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(2, 3, (8, 6, 6, 5)), tf.float32)
    ours = layers.BatchNormalization(momentum=0.9, dtype=dtype)
    theirs = keras.layers.BatchNormalization(momentum=0.9, dtype=dtype)
    upstream = tf.constant(rng.normal(size=x.shape), tf.float32)
    results = []
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.gamma.assign(np.arange(1, 6))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
        sources = [x, layer.gamma.value, layer.beta.value]
        results.append([y, *tape.gradient(loss, sources), *layer.weights, layer(x, training=False)])
    for a, b in zip(*results, strict=True):
        a, b = (np.asarray(tf.cast(tf.convert_to_tensor(v), tf.float32)) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()))
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]


def test_frozen_batch_norm_does_not_move():
    layer = layers.BatchNormalization(trainable=False)
    x = tf.random.normal((4, 3, 3, 2)) + 5
    y = layer(x, training=True)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [0, 0])


def test_dropping_keeps_the_expectation():
    x = tf.ones((20_000, 4))
    for layer, rate in (
        (layers.Dropout(0.3, seed=1), 0.3),
        (layers.DropPath(0.6, depth=0.5, seed=1), 0.3),
    ):
        y = layer(x, training=True).numpy()
        assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
        assert y.mean() == pytest.approx(1, abs=0.02)
        np.testing.assert_allclose(y[y > 0], 1 / 0.7, rtol=1e-5)
        np.testing.assert_array_equal(layer(x, training=False), x)
    rows = y.reshape(20_000, 4)
    assert (rows.max(1) == rows.min(1)).all()  # whole samples


def test_compiled_step_obeys_a_varied_rate():
    layer = layers.Dropout(0.0, seed=1)
    layer.vary_rate()
    traces = []

    @tf.function
    def step(x):
        traces.append(1)
        return layer(x, training=True)

    x = tf.ones((200, 200))
    for rate in (0.0, 0.5, 0.2):
        layer.rate = rate
        assert float(tf.reduce_mean(tf.cast(step(x) == 0, tf.float32))) == pytest.approx(
            rate, abs=0.02
        )
    assert len(traces) == 1
    assert layer.weights == [] and layer.get_config()["rate"] == pytest.approx(0.2)


def test_contract_of_a_file_is_checked(tiny_effnet, tmp_path):
    tiny_effnet(pixels="128").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="made for pixels='128'.*pixels='127.5'"):
        tiny_effnet(pixels="127.5").load_weights(tmp_path / "a.weights.h5")


_BACKEND = """
import os, sys
os.environ["KERAS_BACKEND"] = sys.argv[1]
import builtins, importlib
real = builtins.__import__
def guarded(name, *args, **kwargs):
    if name.split(".")[0] == "tensorflow" and sys.argv[1] != "tensorflow":
        raise ImportError("tensorflow is not installed")
    return real(name, *args, **kwargs)
builtins.__import__ = guarded
sys.path.insert(0, sys.argv[2])
import numpy as np
import keras
from keras_effv2.models import coatnet, efficientnet_v2
import rows
images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
outputs = []
for family, row in ((efficientnet_v2, rows.efficientnet), (coatnet, rows.coatnet)):
    model = family.build(row, weights=None, classes=10, classifier_activation=None)
    random = np.random.default_rng(1)
    for weight in model.weights:
        value = random.normal(0, 0.1, weight.shape)
        weight.assign(np.abs(value) + 0.9 if weight.name in ("gamma", "moving_variance") else value)
    outputs.append(keras.ops.convert_to_numpy(model(images)))
np.save(sys.argv[3], np.stack(outputs))
"""

_ROWS = """
import dataclasses
from keras_effv2.models import coatnet as c, efficientnet_v2 as e
row = e.VARIANTS["EfficientNetV2B0"]
stages = tuple(dataclasses.replace(s, repeats=2, channels=8) for s in row.stages)
efficientnet = dataclasses.replace(row, stages=stages, stem=8, top=16, pixels="128")
row = c.VARIANTS["CoAtNet0"]
stages = tuple(dataclasses.replace(s, repeats=2, channels=8) for s in row.stages)
coatnet = dataclasses.replace(row, stages=stages, stem=8, head_size=4, hidden=16)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same(backend, tmp_path):
    pytest.importorskip(backend)
    (tmp_path / "rows.py").write_text(_ROWS)
    outputs = []
    for name in ("tensorflow", backend):
        path = tmp_path / f"{name}.npy"
        subprocess.run(
            [sys.executable, "-c", _BACKEND, name, str(tmp_path), str(path)],
            check=True,
            capture_output=True,
        )
        outputs.append(np.load(path))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-4 * np.abs(outputs[0]).max())
