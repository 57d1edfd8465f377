"""Self-attention over feature maps with a table of relative biases: CoAtNet's, section 2.1."""

import keras
import numpy as np
from keras import ops

from keras_effv2 import layers


@keras.saving.register_keras_serializable(layers.PACKAGE)
class RelativeAttention(keras.layers.Layer):
    """Self-attention over a feature map, with a learned bias per head and relative offset.

    The bias of query (i, j) and key (k, l) is `relative_bias[head, i - k + H - 1, j - l + W - 1]`,
    added to the scaled product before the softmax (section 2.1 of the paper). On a map other than
    the H x W it was built for, the table is resized by half-pixel bilinear interpolation, at every
    call, so it goes on learning.

    Args:
        channels: Width of the output, and of queries, keys and values if `width` is None.
        head_size: Channels of one head.
        grid: `(H, W)`, the feature map the table of biases is made for.
        width: Width of queries, keys and values, a multiple of `head_size`.

    Call arguments:
        inputs: Tensor `(batch, height, width, any channels)`.
        return_attention: Whether to return the attention too, float32 and of shape
            `(batch, heads, height * width, height * width)`; rows (queries) sum to 1.

    Output shape:
        `(batch, height, width, channels)`.

    Example:

    >>> RelativeAttention(64, 32, grid=(7, 7))(keras.ops.ones((1, 5, 9, 48))).shape
    TensorShape([1, 5, 9, 64])
    """

    side_multiple = 32  # of a picture's side: the networks that attend halve it five times

    def __init__(self, channels, head_size, grid, width=None, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.head_size = head_size
        self.width = width or channels
        if self.width % head_size:
            raise ValueError(
                "The width of the queries is a multiple of `head_size`. Received: "
                f"{'width' if width else 'channels'}={self.width}, head_size={head_size}."
            )
        self.heads = self.width // head_size
        self.grid = tuple(grid)

    def build(self, input_shape):
        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        width, heads, size = input_shape[-1], self.heads, self.head_size
        self.qkv_kernel = weight("qkv_kernel", (width, 3, heads, size), layers.Normal())
        self.qkv_bias = weight("qkv_bias", (3, heads, size), "zeros")
        self.relative_bias = weight(
            "relative_bias", (heads, 2 * self.grid[0] - 1, 2 * self.grid[1] - 1), layers.Normal()
        )
        self.out_kernel = weight("out_kernel", (heads, size, self.channels), layers.Normal())
        self.out_bias = weight("out_bias", (self.channels,), "zeros")

    def call(self, inputs, return_attention=False):
        height, width = ops.shape(inputs)[1:3]
        tokens = height * width
        x = ops.reshape(inputs, (-1, tokens, inputs.shape[-1]))  # (b, n, c)
        kernel = ops.reshape(self.qkv_kernel, (inputs.shape[-1], 3 * self.width))
        qkv = ops.matmul(x, kernel) + ops.reshape(self.qkv_bias, (3 * self.width,))
        qkv = ops.reshape(qkv, (-1, tokens, 3, self.heads, self.head_size))
        # not by slices: TensorFlow makes the gradient of each as large as the whole
        query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
        query = query * ops.cast(self.head_size**-0.5, query.dtype)  # each (b, heads, n, size)
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        # float32 under every policy: the softmax of bfloat16 logits is off by per cents.
        logits = ops.cast(logits, "float32") + self.bias(height, width)
        attention = ops.softmax(logits, axis=-1)  # (b, heads, n, n)
        x = ops.matmul(ops.cast(attention, value.dtype), value)  # (b, heads, n, size)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, tokens, self.width))
        x = ops.matmul(x, ops.reshape(self.out_kernel, (self.width, self.channels)))
        x = ops.reshape(x + self.out_bias, (-1, height, width, self.channels))
        return (x, attention) if return_attention else x

    def bias(self, height, width):
        """The bias of every query and key of a map: `(heads, h * w, h * w)`, float32."""
        table = ops.cast(self.relative_bias, "float32")
        static = isinstance(height, int) and isinstance(width, int)
        if not static or (height, width) != self.grid:
            table = resize_table(table, self.grid, height, width, ops)
        # columns first: single numbers are picked from a small table, then whole blocks of them
        table = ops.take(table, _offsets(width), axis=2)  # (heads, 2h - 1, wq, wk)
        table = ops.take(table, _offsets(height), axis=1)  # (heads, hq, hk, wq, wk)
        table = ops.transpose(table, (0, 1, 3, 2, 4))
        return ops.reshape(table, (self.heads, height * width, height * width))

    def fit_weight(self, name, array):
        """Resizes a table from a checkpoint made at another image size, or has it computed."""
        if hasattr(array, "table"):  # what gives the bias of any offset, see `weights`
            return array.table(*self.grid)
        if name != "relative_bias" or array.ndim != 3 or array.shape[0] != self.heads:
            raise ValueError(f"{self.name}/{name} cannot be fitted from shape {array.shape}.")
        source = tuple((side + 1) // 2 for side in array.shape[1:])
        return np.asarray(resize_table(array, source, *self.grid, np), array.dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "head_size": self.head_size,
            "grid": self.grid,
            "width": self.width,
        }


def _offsets(side):
    """Query index minus key index, shifted to start at 0: `(side, side)`."""
    index = ops.arange(side, dtype="int32")
    return index[:, None] - index[None, :] + side - 1


def resize_table(table, source, height, width, xp):
    """Resizes `(heads, 2H - 1, 2W - 1)` to `(heads, 2h - 1, 2w - 1)`; `xp` is NumPy or keras.ops."""
    rows = _interpolation(2 * source[0] - 1, 2 * height - 1, xp)
    columns = _interpolation(2 * source[1] - 1, 2 * width - 1, xp)
    return xp.einsum("tr,hrc,uc->htu", rows, table, columns)


def _interpolation(source, target, xp):
    """The matrix of half-pixel bilinear interpolation without antialiasing: `(target, source)`."""
    scale = source / xp.cast(target, "float32") if xp is ops else source / target
    position = (xp.arange(target, dtype="float32") + 0.5) * scale - 0.5
    position = xp.clip(position, 0.0, source - 1.0)
    distance = xp.abs(position[:, None] - xp.arange(source, dtype="float32")[None, :])
    return xp.maximum(1.0 - distance, 0.0)
