"""The CoAtNets that have trained weights, as a page. Shapes: (batch, height, width, channels).

These are networks of Ross Wightman's ("rw"), trained and published with timm under Apache-2.0
(`timm/models/maxxvit.py`). They are relatives of the paper's CoAtNet-0..7 (`coatnet.py`), drawn
before their authors' blocks were known, and no number below means a model of the paper. What all
rows share, and what differs from the paper's: SiLU; MBConv four times as wide inside as its input;
attention of the width of the block's input; an edge of zeros on both sides of strided convolutions;
the last norm before the pooling, and no hidden layer in the head.
"""

import typing

import keras

from keras_effv2 import layers
from keras_effv2.imagenet import decode_predictions, preprocess_input
from keras_effv2.models import application, coatnet
from keras_effv2.models.attention import RelativeAttention
from keras_effv2.variants.coatnet_rw import HEAD_SIZE, VARIANTS, Stage, Variant

# --------------------------------------------------------------------------------------- pieces


def _edged(x, kernel, stride, name):
    """Where a convolution strides: zeros on both sides, as PyTorch pads; "same" has them behind."""
    if stride == 1 or kernel == 1:
        return x, "same"
    return keras.layers.ZeroPadding2D(kernel // 2, name=name + "_edge")(x), "valid"


def _conv(x, channels, kernel, stride, name, bias=False):
    x, padding = _edged(x, kernel, stride, name)
    return layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_initializer=layers.FanOutNormal(),
        name=name,
    )(x)


def _depthwise(x, kernel, stride, name, multiplier=1, bias=False):
    x, padding = _edged(x, kernel, stride, name)
    return layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding=padding,
        depth_multiplier=multiplier,
        use_bias=bias,
        depthwise_initializer=layers.FanOutNormal(),
        name=name,
    )(x)


def _batch_norm(x, name, activation_name=None):
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
    return keras.layers.Activation(layers.silu, name=activation_name)(x) if activation_name else x


def _norm(x, kind, name):
    if kind == "batch":
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-6, name=name)(x)
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(x)


def _pool(x, kind, stride, name):
    if stride == 1:
        return x
    if kind == "mean":
        return keras.layers.AveragePooling2D(2, padding="same", name=name)(x)
    # 3x3 around every second pixel; "same" with stride 2 would be around the ones between
    x = keras.layers.MaxPooling2D(3, strides=1, padding="same", name=name)(x)
    return keras.layers.MaxPooling2D(1, strides=2, name=name + "_stride")(x)


def _shortcut(x, channels, stride, kind, bias, name):
    x = _pool(x, kind, stride, name + "shortcut_pool")
    if x.shape[-1] == channels:
        return x
    return _conv(x, channels, 1, 1, name + "shortcut_conv", bias)


def _ffn(x, kind, name):
    channels = x.shape[-1]
    x = _norm(x, kind, name + "ffn_norm")
    x = keras.layers.Dense(4 * channels, name=name + "ffn_expand")(x)
    x = keras.layers.Activation(layers.gelu, name=name + "ffn_activation")(x)
    return keras.layers.Dense(channels, name=name + "ffn_project")(x)


def mbconv_block(x, stage, stride, variant, grid, drop_path, depth, name):
    """Pre-activation MBConv: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    width, bias = x.shape[-1], variant.biases == "all"

    def excite(x):
        return layers.squeeze_excite(x, width, variant.excite_activation, name, layers.FanOutNormal)

    shortcut = _shortcut(x, stage.channels, stride, variant.pool, bias, name)
    x = _batch_norm(x, name + "pre_bn", variant.pre_activation and name + "pre_activation")
    if variant.stride_at == "pool":
        x, stride = _pool(x, "mean", stride, name + "pool"), 1
    x = _conv(x, 4 * width, 1, 1, name + "expand_conv")
    x = _batch_norm(x, name + "expand_bn", name + "expand_activation")
    x = _depthwise(x, 3, stride, name + "dwconv")
    x = excite(x) if variant.excite == "early" else x
    x = _batch_norm(x, name + "bn", name + "activation")
    x = excite(x) if variant.excite == "late" else x
    x = _conv(x, stage.channels, 1, 1, name + "project_conv", bias)
    return coatnet.add(shortcut, x, drop_path, depth, name)


def convnext_block(x, stage, stride, variant, grid, drop_path, depth, name):
    """ConvNeXt: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    shortcut = _shortcut(x, stage.channels, stride, variant.pool, True, name)
    x = _depthwise(x, 7, stride, name + "dwconv", stage.channels // x.shape[-1], bias=True)
    x = _ffn(x, variant.norm, name)
    return coatnet.add(shortcut, x, drop_path, depth, name)


def transformer_block(x, stage, stride, variant, grid, drop_path, depth, name):
    """Relative attention and FFN: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    width, bias = x.shape[-1], variant.biases != "none"
    shortcut = _shortcut(x, stage.channels, stride, variant.pool, bias, name)
    x = _norm(x, variant.norm, name + "attention_norm")
    x = _pool(x, variant.pool, stride, name + "attention_pool")
    x = RelativeAttention(stage.channels, HEAD_SIZE, grid, width, name=name + "attention")(x)
    x = shortcut = coatnet.add(shortcut, x, drop_path, depth, name, "attention_")
    return coatnet.add(shortcut, _ffn(x, variant.norm, name), drop_path, depth, name, "ffn_")


BLOCKS = {"mbconv": mbconv_block, "convnext": convnext_block, "transformer": transformer_block}

# ------------------------------------------------------------------------------------- assembly


def features(x, variant, drop_path, prefix=""):
    """(b, h, w, 3) -> {"reduction_i": (b, h / 2**i, w / 2**i, channels)} for i in 1..5."""
    sides = [side or variant.image_size for side in x.shape[1:3]]
    x = _conv(x, variant.stem // 2, 3, 2, prefix + "stem_conv1")  # (b, h/2, w/2, stem / 2)
    if variant.stages[0].block == "convnext":
        x = _norm(x, variant.norm, prefix + "stem_norm")
        x = keras.layers.Activation(layers.gelu, name=prefix + "stem_activation")(x)
    else:
        x = _batch_norm(x, prefix + "stem_norm", prefix + "stem_activation")
    x = _conv(x, variant.stem, 3, 1, prefix + "stem_conv2")
    return coatnet.pyramid(x, sides, variant, BLOCKS, drop_path, prefix)


FAMILY = application.Family(
    title="One of timm's CoAtNets by Ross Wightman, none of the paper's: `models/coatnet_rw.py`",
    features=features,
    top=lambda x, variant, prefix: _norm(x, variant.norm, prefix + "final_norm"),
    neck=lambda x, variant, prefix: x,
    multiple=32,
)


def build(variant: Variant, **arguments: typing.Any) -> keras.Model:
    """Builds any row, also one that is not in the table; arguments as the builders below."""
    return application.build(variant, FAMILY, **arguments)


# --------------------------------------------------------------------------------- public names

CoAtNetNanoRW = application.builder(VARIANTS["CoAtNetNanoRW"], FAMILY)
CoAtNetNanoRW2 = application.builder(VARIANTS["CoAtNetNanoRW2"], FAMILY)
CoAtNeXtNanoRW = application.builder(VARIANTS["CoAtNeXtNanoRW"], FAMILY)
CoAtNet0RW = application.builder(VARIANTS["CoAtNet0RW"], FAMILY)
CoAtNet0RWBN = application.builder(VARIANTS["CoAtNet0RWBN"], FAMILY)
CoAtNet1RW = application.builder(VARIANTS["CoAtNet1RW"], FAMILY)
CoAtNet1RWMax = application.builder(VARIANTS["CoAtNet1RWMax"], FAMILY)
CoAtNet1RW2 = application.builder(VARIANTS["CoAtNet1RW2"], FAMILY)
CoAtNet2RW = application.builder(VARIANTS["CoAtNet2RW"], FAMILY)
CoAtNet3RW = application.builder(VARIANTS["CoAtNet3RW"], FAMILY)

__all__ = [
    *VARIANTS,
    "VARIANTS",
    "Stage",
    "Variant",
    "build",
    "decode_predictions",
    "preprocess_input",
]
