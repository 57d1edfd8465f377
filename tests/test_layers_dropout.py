"""Random dropping: expectation, and a rate that the compiled step obeys."""

import numpy as np
import pytest
import tensorflow as tf

from keras_effv2 import layers


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
