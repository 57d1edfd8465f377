"""Batch normalisation beside Keras'."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from keras_effv2 import layers


@pytest.mark.parametrize(
    "dtype, tolerance", [("float32", 2e-5), ("mixed_bfloat16", 3e-2), ("float64", 2e-5)]
)
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


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_batch_norm_in_16_bits_is_rounded_once(dtype):
    rng = np.random.default_rng(0)
    kind = tf.as_dtype(dtype.removeprefix("mixed_"))
    x = tf.cast(tf.constant(rng.normal(2, 3, (2, 5, 7, 16))), kind)
    layer = layers.BatchNormalization(dtype=dtype)
    layer.build(x.shape)
    gamma, beta, mean = rng.normal(size=(3, 16)).astype("float32")
    variance = rng.uniform(0.5, 2, 16).astype("float32")
    layer.set_weights([gamma, beta, mean, variance])
    gamma, beta, mean, variance = (np.asarray(w, "float64") for w in layer.get_weights())
    y = layer(x, training=False)
    assert y.dtype == kind
    exact = (np.asarray(tf.cast(x, tf.float64)) - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(np.asarray(tf.cast(y, tf.float64)), exact, rtol=2**-8, atol=1e-5)


def test_frozen_batch_norm_does_not_move():
    layer = layers.BatchNormalization(trainable=False)
    x = tf.random.normal((4, 3, 3, 2)) + 5
    y = layer(x, training=True)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [0, 0])


def test_many_layers_over_replicas_are_traced_in_linear_time(monkeypatch):
    """TensorFlow looks through what comes before a sum over replicas: no further than that layer."""
    from tensorflow.python.ops import op_selector

    walk, seen = op_selector.get_backward_walk_ops, []

    def counting(*args, **kwargs):
        seen.append(walk(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(op_selector, "get_backward_walk_ops", counting)
    strategy = mirrored(2)
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((4, 4, 3)), *(layers.BatchNormalization() for _ in range(8))]
        )

    def gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True))
        return tape.gradient(loss, [w.value for w in model.trainable_weights])

    tf.function(lambda: strategy.run(gradient, (tf.ones((2, 4, 4, 3)),))).get_concrete_function()
    assert len(seen) >= 2 * 8
    assert max(map(len, seen)) < 40
