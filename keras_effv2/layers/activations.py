"""SiLU and GELU, in the fastest form for the device.

TensorFlow's kernels for CPUs compute most functions of 16-bit numbers one number after the other, so
there they are computed in float32: the same values, rounded once, at the end.
"""

import keras
from keras import ops

from keras_effv2.layers.backend import HALVES, PACKAGE, on_cpus


@keras.saving.register_keras_serializable(PACKAGE)
def silu(x):
    """`x * sigmoid(x)`; on CPUs its gradient is made in fewer passes over memory than TensorFlow's.

    With y = x s, s = sigmoid(x), the derivative is s + y (1 - s), here as s (1 + x - y) where one
    kernel gives s times the incoming gradient, or, in 16 bits, as y + s (1 - y) with s from the
    float32 kernel: those for 16 bits compute number by number.
    """
    if not on_cpus():
        return keras.activations.silu(x)
    import tensorflow as tf

    @tf.custom_gradient
    def forward(x):
        y = tf.nn.silu(x)

        def gradient(upstream):
            with tf.control_dependencies([upstream]):  # not before, where it would fill memory
                if x.dtype.name in HALVES:
                    s = tf.cast(tf.sigmoid(tf.cast(x, tf.float32)), x.dtype)
                    return upstream * (y + s * (1 - y))
                return tf.raw_ops.SoftplusGrad(gradients=upstream, features=x) * ((x - y) + 1)

        return y, gradient

    return forward(x)


@keras.saving.register_keras_serializable(PACKAGE)
def gelu_tanh(x):
    """GELU by its tanh approximation: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415."""
    return _in_float32(lambda x: keras.activations.gelu(x, approximate=True), x)


@keras.saving.register_keras_serializable(PACKAGE)
def gelu(x):
    """The exact GELU by erf, for which ONNX has an operation; Keras takes erfc."""
    return _in_float32(lambda x: 0.5 * x * (1.0 + ops.erf(x * 2**-0.5)), x)


def _in_float32(function, x):
    if keras.backend.standardize_dtype(x.dtype) in HALVES and on_cpus():
        return ops.cast(function(ops.cast(x, "float32")), x.dtype)
    return function(x)
