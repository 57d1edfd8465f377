"""Random kernels: on TensorFlow Keras' own, on JAX the same distribution without a compilation."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_effv2 import layers

SHAPE = (3, 3, 40, 50)
PAIRS = {
    "normal": (layers.Normal, lambda seed: keras.initializers.RandomNormal(0.0, 0.02, seed)),
    "fan out": (
        layers.FanOutNormal,
        lambda seed: keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed),
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_they_are_those_of_keras(kind):
    ours, theirs = (make(seed=7) for make in PAIRS[kind])
    for shape in (SHAPE, (5, 5, 16, 1), (32, 8)):
        np.testing.assert_allclose(ours(shape), theirs(shape), rtol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    np.testing.assert_array_equal(again(SHAPE), ours(SHAPE))
    first, second = (PAIRS[kind][0]()((8, 8)) for _ in range(2))
    assert not np.allclose(first, second)


ON_JAX = """
import numpy as np
from jax_notes import compilations
from keras_effv2 import layers

compiled = compilations()
for make, deviation in ((layers.Normal, 0.02), (layers.FanOutNormal, (2 / 450) ** 0.5)):
    drawn, other, same = (make(seed=seed)((3, 3, 40, 50), "float32") for seed in (1, 2, 1))
    z = np.asarray(drawn, "float64").ravel() / deviation
    moments = np.array([(z**power).mean() for power in (1, 2, 3, 4)])
    errors = np.sqrt(np.array([1, 2, 15, 96]) / z.size)  # standard ones
    assert (abs(moments - [0, 1, 0, 3]) < 4 * errors).all(), moments
    assert np.array_equal(drawn, same) and not np.allclose(drawn, other)
assert not compiled, compiled
assert str(layers.Normal()((2, 2), "bfloat16").dtype) == "bfloat16"
"""


def test_on_jax_nothing_is_compiled_for_them():
    """Moments of a normal distribution; XLA compiles a program a shape for Keras' own."""
    pytest.importorskip("jax")
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", ON_JAX], check=True, env=environment)
