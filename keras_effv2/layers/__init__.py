"""The layers both families use, written with `keras.ops` for TensorFlow, JAX and PyTorch."""

from keras_effv2.layers.activations import gelu, gelu_tanh, silu
from keras_effv2.layers.backend import PACKAGE, Passes, portable, replicas, require_tensorflow
from keras_effv2.layers.batch_normalization import BatchNormalization
from keras_effv2.layers.convolution import Conv2D, DepthwiseConv2D, squeeze_excite
from keras_effv2.layers.dropout import Dropout, DropPath, ReplicaSeed
from keras_effv2.layers.initializers import FanOutNormal, Normal
from keras_effv2.layers.pixels import (
    PIXELS,
    SIDE,
    Pixels,
    check_pixels,
    check_preprocessing,
    find_pixels,
    normalize,
    takes_hub_images,
    walk,
)

__all__ = [
    "BatchNormalization",
    "Conv2D",
    "DepthwiseConv2D",
    "DropPath",
    "Dropout",
    "FanOutNormal",
    "Normal",
    "PACKAGE",
    "PIXELS",
    "Passes",
    "Pixels",
    "ReplicaSeed",
    "SIDE",
    "check_pixels",
    "check_preprocessing",
    "find_pixels",
    "gelu",
    "gelu_tanh",
    "normalize",
    "portable",
    "replicas",
    "require_tensorflow",
    "takes_hub_images",
    "silu",
    "squeeze_excite",
    "walk",
]
