"""SiLU and GELU beside closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from keras_effv2 import layers


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_silu_and_its_derivatives(dtype, tolerance):
    x = np.concatenate([np.linspace(-30, 30, 601), [0.0, 1e-8, -80.0, 80.0]])
    x = tf.cast(tf.constant(x), dtype)
    exact = np.asarray(tf.cast(x, tf.float64))
    with tf.GradientTape() as second, tf.GradientTape() as first:
        first.watch(x)
        second.watch(x)
        y = layers.silu(x)
        slope = first.gradient(y, x)
    s = 1 / (1 + np.exp(-exact))
    wanted = (
        exact * s,
        s * (1 + exact * (1 - s)),
        s * (1 - s) * (2 + exact * (1 - 2 * s)),
    )
    for ours, right in zip((y, slope, second.gradient(slope, x)), wanted, strict=True):
        ours = np.asarray(tf.cast(ours, tf.float64))
        np.testing.assert_allclose(ours, right, atol=tolerance * max(1, np.abs(right).max()))


def test_gelu_of_float64_keeps_its_digits():
    x = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(layers.gelu(tf.constant(x)), x * special.ndtr(x), atol=1e-14)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_in_16_bits_is_rounded_once(name, training):
    x = tf.cast(tf.constant(np.linspace(-6, 6, 4001)), tf.bfloat16)
    exact = np.asarray(tf.cast(x, tf.float64))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = getattr(layers, name)(x)
    cube = np.sqrt(2 / np.pi) * (exact + 0.044715 * exact**3)
    phi = np.exp(-(exact**2) / 2) / np.sqrt(2 * np.pi)
    slope = 0.5 * (1 + np.tanh(cube)) + 0.5 * exact * (1 - np.tanh(cube) ** 2) * np.sqrt(
        2 / np.pi
    ) * (1 + 3 * 0.044715 * exact**2)
    wanted = {
        ("gelu", False): exact * special.ndtr(exact),
        ("gelu", True): special.ndtr(exact) + exact * phi,
        ("gelu_tanh", False): 0.5 * exact * (1 + np.tanh(cube)),
        ("gelu_tanh", True): slope,
    }[name, training]
    ours = tape.gradient(y, x) if training else y
    assert ours.dtype == tf.bfloat16
    ours = np.asarray(tf.cast(ours, tf.float64))
    np.testing.assert_allclose(ours, wanted, rtol=2**-8, atol=1e-5)
