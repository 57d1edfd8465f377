"""CoAtNet-0..7, as a page. Shapes: (batch, height, width, channels).

Dai et al. 2021, "CoAtNet: Marrying Convolution and Attention for All Data Sizes", arXiv 2106.04803.
No official code and no official weights were released. What the paper leaves open follows the
blocks that its authors' colleagues published (google-research/maxvit, tensorflow/models
`official/projects/maxvit`), the only choices that give the paper's parameter counts.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_effv2 import layers
from keras_effv2.imagenet import decode_predictions, preprocess_input
from keras_effv2.models import application
from keras_effv2.variants.coatnet import VARIANTS, Stage, Variant

# --------------------------------------------------------------------------- relative attention


@keras.saving.register_keras_serializable(layers.PACKAGE)
class RelativeAttention(keras.layers.Layer):
    """Self-attention over a feature map, with a learned bias per head and relative offset.

    The bias of query (i, j) and key (k, l) is `relative_bias[head, i - k + H - 1, j - l + W - 1]`,
    added to the scaled product before the softmax (section 2.1 of the paper). On a map other than
    the H x W it was built for, the table is resized by half-pixel bilinear interpolation, at every
    call, so it goes on learning.

    Args:
        channels: Width of queries, keys, values and output, a multiple of `head_size`.
        head_size: Channels of one head.
        grid: `(H, W)`, the feature map the table of biases is made for.

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

    def __init__(self, channels, head_size, grid, **kwargs):
        super().__init__(**kwargs)
        if channels % head_size:
            raise ValueError(
                f"`channels` is a multiple of `head_size`. Received: channels={channels}, "
                f"head_size={head_size}."
            )
        self.channels = channels
        self.head_size = head_size
        self.heads = channels // head_size
        self.grid = tuple(grid)

    def build(self, input_shape):
        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        width, heads, size = input_shape[-1], self.heads, self.head_size
        self.qkv_kernel = weight("qkv_kernel", (width, 3, heads, size), _normal())
        self.qkv_bias = weight("qkv_bias", (3, heads, size), "zeros")
        self.relative_bias = weight(
            "relative_bias", (heads, 2 * self.grid[0] - 1, 2 * self.grid[1] - 1), _normal()
        )
        self.out_kernel = weight("out_kernel", (heads, size, self.channels), _normal())
        self.out_bias = weight("out_bias", (self.channels,), "zeros")

    def call(self, inputs, return_attention=False):
        height, width = ops.shape(inputs)[1:3]
        tokens = height * width
        x = ops.reshape(inputs, (-1, tokens, inputs.shape[-1]))  # (b, n, c)
        kernel = ops.reshape(self.qkv_kernel, (inputs.shape[-1], 3 * self.channels))
        qkv = ops.matmul(x, kernel) + ops.reshape(self.qkv_bias, (3 * self.channels,))
        qkv = ops.reshape(qkv, (-1, tokens, 3, self.heads, self.head_size))
        query, key, value = (ops.transpose(qkv[:, :, i], (0, 2, 1, 3)) for i in range(3))
        query = query * ops.cast(self.head_size**-0.5, query.dtype)  # each (b, heads, n, size)
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        # float32 under every policy: the softmax of bfloat16 logits is off by per cents.
        logits = ops.cast(logits, "float32") + self.bias(height, width)
        attention = ops.softmax(logits, axis=-1)  # (b, heads, n, n)
        x = ops.matmul(ops.cast(attention, value.dtype), value)  # (b, heads, n, size)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, tokens, self.channels))
        x = ops.matmul(x, ops.reshape(self.out_kernel, (self.channels, self.channels)))
        x = ops.reshape(x + self.out_bias, (-1, height, width, self.channels))
        return (x, attention) if return_attention else x

    def bias(self, height, width):
        """The bias of every query and key of a map: `(heads, h * w, h * w)`, float32."""
        table = ops.cast(self.relative_bias, "float32")
        static = isinstance(height, int) and isinstance(width, int)
        if not static or (height, width) != self.grid:
            table = _resize(table, self.grid, height, width, ops)
        table = ops.take(table, _offsets(height), axis=1)  # (heads, hq, hk, 2w - 1)
        table = ops.take(table, _offsets(width), axis=3)  # (heads, hq, hk, wq, wk)
        table = ops.transpose(table, (0, 1, 3, 2, 4))
        return ops.reshape(table, (self.heads, height * width, height * width))

    def fit_weight(self, name, array):
        """Resizes a table from a checkpoint made at another image size."""
        if name != "relative_bias" or array.ndim != 3 or array.shape[0] != self.heads:
            raise ValueError(f"{self.name}/{name} cannot be fitted from shape {array.shape}.")
        source = tuple((side + 1) // 2 for side in array.shape[1:])
        return np.asarray(_resize(array, source, *self.grid, np), array.dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "head_size": self.head_size,
            "grid": self.grid,
        }


def _offsets(side):
    """Query index minus key index, shifted to start at 0: `(side, side)`."""
    index = ops.arange(side, dtype="int32")
    return index[:, None] - index[None, :] + side - 1


def _resize(table, source, height, width, xp):
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


# --------------------------------------------------------------------------------------- pieces


@keras.saving.register_keras_serializable(layers.PACKAGE)
def gelu_tanh(x):
    """GELU by its tanh approximation, as in the published blocks."""
    return keras.activations.gelu(x, approximate=True)


ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": gelu_tanh}


def _normal():
    return keras.initializers.RandomNormal(stddev=0.02)


def _conv(x, channels, kernel, stride, name, bias):
    return layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=bias,
        kernel_initializer=_normal(),
        name=name,
    )(x)


def _batch_norm(x, name):
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)


def _layer_norm(x, name):
    return keras.layers.LayerNormalization(epsilon=1e-5, name=name)(x)


def _pool(x, stride, name):
    """Max pooling, equation 4."""
    return keras.layers.MaxPooling2D(stride, padding="same", name=name)(x) if stride > 1 else x


def _shortcut(x, channels, stride, name):
    x = _pool(x, stride, name + "shortcut_pool")
    if x.shape[-1] == channels:
        return x
    return _conv(x, channels, 1, 1, name + "shortcut_conv", bias=True)


def _add(shortcut, x, drop_path, depth, name, part=""):
    x = layers.DropPath(drop_path, depth=depth, name=f"{name}{part}drop")(x)
    # The shortcut first: Keras walks the graph recursively, first input first.
    return keras.layers.Add(name=f"{name}{part}add")([shortcut, x])


def mbconv_block(x, stage, stride, variant, grid, drop_path, depth, name):
    """Pre-activation MBConv: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    shortcut = _shortcut(x, stage.channels, stride, name)
    hidden = 4 * stage.channels
    at_expand = stride if variant.stride_at == "expand" else 1
    x = _batch_norm(x, name + "pre_bn")
    x = _conv(x, hidden, 1, at_expand, name + "expand_conv", bias=False)
    x = _batch_norm(x, name + "expand_bn")
    x = keras.layers.Activation(ACTIVATIONS[variant.gelu], name=name + "expand_activation")(x)
    x = layers.DepthwiseConv2D(
        3,
        strides=stride // at_expand,
        padding="same",
        use_bias=False,
        depthwise_initializer=_normal(),
        name=name + "dwconv",
    )(x)
    x = _batch_norm(x, name + "bn")
    x = keras.layers.Activation(ACTIVATIONS[variant.gelu], name=name + "activation")(x)
    x = layers.squeeze_excite(x, stage.channels // 4, "silu", name, _normal)
    x = _conv(x, stage.channels, 1, 1, name + "project_conv", bias=True)
    return _add(shortcut, x, drop_path, depth, name)


def transformer_block(x, stage, stride, variant, grid, drop_path, depth, name):
    """Relative attention and FFN: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    shortcut = _shortcut(x, stage.channels, stride, name)
    x = _layer_norm(x, name + "attention_norm")
    x = _pool(x, stride, name + "attention_pool")
    x = RelativeAttention(stage.channels, variant.head_size, grid, name=name + "attention")(x)
    x = shortcut = _add(shortcut, x, drop_path, depth, name, "attention_")
    x = _layer_norm(x, name + "ffn_norm")
    x = _dense(x, 4 * stage.channels, name + "ffn_expand")
    x = keras.layers.Activation(ACTIVATIONS[variant.gelu], name=name + "ffn_activation")(x)
    x = _dense(x, stage.channels, name + "ffn_project")
    return _add(shortcut, x, drop_path, depth, name, "ffn_")


def _dense(x, channels, name, **kwargs):
    return keras.layers.Dense(channels, kernel_initializer=_normal(), name=name, **kwargs)(x)


BLOCKS = {"mbconv": mbconv_block, "transformer": transformer_block}

# ------------------------------------------------------------------------------------- assembly


def features(x, variant, drop_path, prefix=""):
    """(b, h, w, 3) -> {"reduction_i": (b, h / 2**i, w / 2**i, channels)} for i in 1..5."""
    sides = [side or variant.image_size for side in x.shape[1:3]]
    x = _conv(x, variant.stem, 3, 2, prefix + "stem_conv1", bias=True)  # (b, h/2, w/2, stem)
    x = _batch_norm(x, prefix + "stem_bn")
    x = keras.layers.Activation(ACTIVATIONS[variant.gelu], name=prefix + "stem_activation")(x)
    x = _conv(x, variant.stem, 3, 1, prefix + "stem_conv2", bias=True)
    blocks = sum(stage.repeats for stage in variant.stages)
    reductions, block = [], 0
    for s, stage in enumerate(variant.stages, start=1):
        for r in range(stage.repeats):
            stride = stage.stride if r == 0 else 1
            if stride == 2:
                reductions.append(x)
            reduction = 2 ** (len(reductions) + 1)
            grid = tuple(math.ceil(side / reduction) for side in sides)
            name = f"{prefix}block{s}{application.block_letters(r)}_"
            make = BLOCKS[stage.block]
            x = make(x, stage, stride, variant, grid, drop_path, block / blocks, name)
            block += 1
    reductions.append(x)
    return dict(zip(application.REDUCTIONS, reductions))


def neck(x, variant, prefix=""):
    """(b, c) -> (b, variant.hidden): the hidden layer that the parameter counts ask for."""
    x = keras.layers.LayerNormalization(epsilon=1e-5, dtype="float32", name=prefix + "top_norm")(x)
    return _dense(x, variant.hidden, prefix + "top_hidden", activation="tanh", dtype="float32")


FAMILY = application.Family(
    title="Dai et al. 2021, https://arxiv.org/abs/2106.04803. No official weights exist",
    features=features,
    top=lambda x, variant, prefix: x,
    neck=neck,
    multiple=32,
)


def build(variant, **arguments):
    """Builds any row, also one that is not in the table; arguments as the builders below."""
    return application.build(variant, FAMILY, **arguments)


# --------------------------------------------------------------------------------- public names

CoAtNet0 = application.builder(VARIANTS["CoAtNet0"], FAMILY)
CoAtNet1 = application.builder(VARIANTS["CoAtNet1"], FAMILY)
CoAtNet2 = application.builder(VARIANTS["CoAtNet2"], FAMILY)
CoAtNet3 = application.builder(VARIANTS["CoAtNet3"], FAMILY)
CoAtNet4 = application.builder(VARIANTS["CoAtNet4"], FAMILY)
CoAtNet5 = application.builder(VARIANTS["CoAtNet5"], FAMILY)
CoAtNet6 = application.builder(VARIANTS["CoAtNet6"], FAMILY)
CoAtNet7 = application.builder(VARIANTS["CoAtNet7"], FAMILY)

__all__ = [
    *VARIANTS,
    "VARIANTS",
    "RelativeAttention",
    "Stage",
    "Variant",
    "build",
    "decode_predictions",
    "preprocess_input",
]
