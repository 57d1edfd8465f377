"""CoAtNet-0..7, as a page. Shapes: (batch, height, width, channels).

Dai et al. 2021, "CoAtNet: Marrying Convolution and Attention for All Data Sizes", arXiv 2106.04803.
No official code and no official weights were released. What the paper leaves open follows the
blocks that its authors' colleagues published (google-research/maxvit, tensorflow/models
`official/projects/maxvit`), the only choices that give the paper's parameter counts.
"""

import math
import typing

import keras

from keras_effv2 import layers
from keras_effv2.imagenet import decode_predictions, preprocess_input
from keras_effv2.models import application
from keras_effv2.models.attention import RelativeAttention
from keras_effv2.variants.coatnet import VARIANTS, Stage, Variant
from keras_effv2.variants.layouts import layout

# --------------------------------------------------------------------------------------- pieces


ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": layers.gelu_tanh}


def _conv(x, channels, kernel, stride, name, bias):
    return layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=bias,
        kernel_initializer=layers.Normal(),
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


def add(shortcut, x, drop_path, depth, name, part=""):
    """Adds a branch, which is dropped now and then in training, to its shortcut."""
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
        depthwise_initializer=layers.Normal(),
        name=name + "dwconv",
    )(x)
    x = _batch_norm(x, name + "bn")
    x = keras.layers.Activation(ACTIVATIONS[variant.gelu], name=name + "activation")(x)
    x = layers.squeeze_excite(x, stage.channels // 4, "silu", name, layers.Normal)
    x = _conv(x, stage.channels, 1, 1, name + "project_conv", bias=True)
    return add(shortcut, x, drop_path, depth, name)


def transformer_block(x, stage, stride, variant, grid, drop_path, depth, name):
    """Relative attention and FFN: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    shortcut = _shortcut(x, stage.channels, stride, name)
    x = _layer_norm(x, name + "attention_norm")
    x = _pool(x, stride, name + "attention_pool")
    x = RelativeAttention(stage.channels, variant.head_size, grid, name=name + "attention")(x)
    x = shortcut = add(shortcut, x, drop_path, depth, name, "attention_")
    x = _layer_norm(x, name + "ffn_norm")
    x = _dense(x, 4 * stage.channels, name + "ffn_expand")
    x = keras.layers.Activation(ACTIVATIONS[variant.gelu], name=name + "ffn_activation")(x)
    x = _dense(x, stage.channels, name + "ffn_project")
    return add(shortcut, x, drop_path, depth, name, "ffn_")


def _dense(x, channels, name, **kwargs):
    return keras.layers.Dense(channels, kernel_initializer=layers.Normal(), name=name, **kwargs)(x)


BLOCKS = {"mbconv": mbconv_block, "transformer": transformer_block}

# ------------------------------------------------------------------------------------- assembly


def features(x, variant, drop_path, prefix=""):
    """(b, h, w, 3) -> {"reduction_i": (b, h / 2**i, w / 2**i, channels)} for i in 1..5."""
    sides = [side or variant.image_size for side in x.shape[1:3]]
    x = _conv(x, variant.stem, 3, 2, prefix + "stem_conv1", bias=True)  # (b, h/2, w/2, stem)
    x = _batch_norm(x, prefix + "stem_bn")
    x = keras.layers.Activation(ACTIVATIONS[variant.gelu], name=prefix + "stem_activation")(x)
    x = _conv(x, variant.stem, 3, 1, prefix + "stem_conv2", bias=True)
    return pyramid(x, sides, variant, BLOCKS, drop_path, prefix)


def pyramid(x, sides, variant, makers, drop_path, prefix):
    """Runs the stages over the stem's map; `sides` are those of the picture, for tables of biases."""
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
            make = makers[stage.block]
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


def build(variant: Variant, **arguments: typing.Any) -> keras.Model:
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
    "layout",
    "preprocess_input",
]
