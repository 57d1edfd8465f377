"""Random kernels, drawn in the fastest way for the backend.

On JAX Keras has XLA compile a program for every shape, which takes most of the time in which a network
is built; there NumPy draws them. On other backends the values are those of Keras' initializers.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_effv2.layers.backend import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Normal(keras.initializers.RandomNormal):
    """`keras.initializers.RandomNormal`: N(0, 0.02²) by default, as CoAtNets and ViTs here have it."""

    def __init__(self, mean=0.0, stddev=0.02, seed=None):
        super().__init__(mean, stddev, seed)

    def __call__(self, shape, dtype=None):
        if keras.backend.backend() != "jax" or not isinstance(self.seed, int):
            return super().__call__(shape, dtype)
        drawn = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        return ops.convert_to_tensor(self.mean + self.stddev * drawn, dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class FanOutNormal(keras.initializers.VarianceScaling):
    """N(0, 2 / fan_out), not truncated: google/automl `conv_kernel_initializer`, timm `_init_conv`.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852.
    """

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_out", "untruncated_normal", seed)

    def __call__(self, shape, dtype=None):
        fan_out = math.prod(shape[:-2]) * shape[-1]
        return Normal(0.0, math.sqrt(2.0 / fan_out), self.seed)(shape, dtype)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}
