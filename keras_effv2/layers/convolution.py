"""Convolutions and squeeze-excite, in the fastest form for the device."""

import keras
from keras import ops

from keras_effv2.layers.backend import HALVES, PACKAGE, jax_on_cpus, on_cpus


def _is_pixel(x):
    return tuple(x.shape[1:3]) == (1, 1)


@keras.saving.register_keras_serializable(PACKAGE)
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, whose 1x1 convolutions are matrix products where that is faster.

    TensorFlow's CPU kernels need about half the time for the gradients of a product that they need
    for those of the same convolution, and a third for maps of one pixel. The same values up to
    rounding, the same weights and names as Keras' layer.
    """

    def call(self, inputs, training=False):
        if not (self._is_product() and (training or _is_pixel(inputs)) and on_cpus()):
            return super().call(inputs)
        *around, channels = ops.shape(inputs)
        x = ops.reshape(inputs, (-1, channels))  # (b * h * w, c)
        x = ops.matmul(x, ops.reshape(self.kernel, (channels, self.filters)))
        x = x + self.bias if self.use_bias else x
        return self.activation(ops.reshape(x, (*around, self.filters)))

    def _is_product(self):
        one = tuple(self.kernel_size) == tuple(self.strides) == (1, 1)
        return one and self.groups == 1 and self.data_format == "channels_last"


@keras.saving.register_keras_serializable(PACKAGE)
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D`, in the form that CPUs compute fastest.

    TensorFlow's kernels need five times as long for its gradients in bfloat16 as in float32, so with
    a mixed policy it trains in float32. JAX has slow kernels for all of it, but makes one pass of a
    sum of shifted maps. Weights and names are those of Keras' layer.
    """

    def call(self, inputs, training=False):
        half = self.compute_dtype in HALVES
        if self._is_sum_of_shifts() and jax_on_cpus():
            x = _sum_of_shifts(inputs, self.kernel, self.strides[0], self.padding)
        elif training and half and not self.use_bias and on_cpus():
            x = ops.depthwise_conv(
                ops.cast(inputs, "float32"),
                ops.cast(self.kernel, "float32"),
                strides=self.strides,
                padding=self.padding,
                data_format=self.data_format,
                dilation_rate=self.dilation_rate,
            )
        else:
            return super().call(inputs)
        return self.activation(ops.cast(x, self.compute_dtype))

    def _is_sum_of_shifts(self):
        plain = self.depth_multiplier == 1 and tuple(self.dilation_rate) == (1, 1)
        return plain and not self.use_bias and self.data_format == "channels_last"


def _sum_of_shifts(x, kernel, stride, padding):
    """A depthwise convolution as a sum over the kernel's places: float32 `(b, h, w, c)`."""
    size = kernel.shape[:2]
    if padding == "same":
        total = [max(k - (side % stride or stride), 0) for k, side in zip(size, x.shape[1:3])]
        x = ops.pad(x, [(0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)])
    ends = [side - k + 1 for k, side in zip(size, x.shape[1:3])]  # of the kernel's first place
    x, kernel = ops.cast(x, "float32"), ops.cast(kernel, "float32")
    return sum(
        x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] * kernel[i, j, :, 0]
        for i in range(size[0])
        for j in range(size[1])
    )


def squeeze_excite(x, width, activation, name, kernel_initializer):
    """Gates channels by a small network of their means: `(b, h, w, c)` -> `(b, h, w, c)`.

    Source: Hu et al. 2018, https://arxiv.org/abs/1709.01507.

    Args:
        x: Tensor `(batch, height, width, channels)`.
        width: Channels of the bottleneck, a positive integer.
        activation: Activation inside the bottleneck; the gate is a sigmoid.
        name: Prefix of the layers' names.
        kernel_initializer: A function that makes an initializer.
    """
    channels = x.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=name + "se_squeeze")(x)
    gate = Conv2D(
        width,
        1,
        activation=activation,
        kernel_initializer=kernel_initializer(),
        name=name + "se_reduce",
    )(gate)
    gate = Conv2D(
        channels,
        1,
        activation="sigmoid",
        kernel_initializer=kernel_initializer(),
        name=name + "se_expand",
    )(gate)
    # x first: Keras walks the graph recursively, first input first, and the gate is the long way.
    return keras.layers.Multiply(name=name + "se_excite")([x, gate])
