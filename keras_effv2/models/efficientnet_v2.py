"""EfficientNetV2-B0..XL, as a page. Shapes: (batch, height, width, channels).

Tan & Le 2021, "EfficientNetV2: Smaller Models and Faster Training", arXiv 2104.00298. Where paper
and released code differ, the code counts: its numbers are those of google/automl,
`efficientnetv2/effnetv2_configs.py`, and its checkpoints load here.
"""

import typing

import keras

from keras_effv2 import layers
from keras_effv2.imagenet import decode_predictions, preprocess_input
from keras_effv2.models import application
from keras_effv2.variants.efficientnet_v2 import VARIANTS, Stage, Variant

# --------------------------------------------------------------------------------------- pieces


def _conv(x, channels, kernel, stride, name):
    return layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=layers.FanOutNormal(),
        name=name,
    )(x)


def _norm(x, name, activation_name=None):
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=name)(x)
    return keras.layers.Activation(layers.silu, name=activation_name)(x) if activation_name else x


def fused_block(x, stage, stride, drop_path, depth, name):
    """Fused-MBConv: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    inputs = x
    if stage.expansion == 1:
        x = _conv(x, stage.channels, stage.kernel, stride, name + "project_conv")
        x = _norm(x, name + "project_bn", name + "project_activation")
    else:
        width = inputs.shape[-1] * stage.expansion
        x = _conv(x, width, stage.kernel, stride, name + "expand_conv")
        x = _norm(x, name + "expand_bn", name + "expand_activation")
        x = _conv(x, stage.channels, 1, 1, name + "project_conv")
        x = _norm(x, name + "project_bn")
    return _residual(x, inputs, stride, drop_path, depth, name)


def mbconv_block(x, stage, stride, drop_path, depth, name):
    """MBConv with squeeze-excite: (b, h, w, c) -> (b, h / stride, w / stride, stage.channels)."""
    inputs = x
    if stage.expansion != 1:  # google/automl `MBConvBlock`: nothing to expand, no layer
        x = _conv(x, inputs.shape[-1] * stage.expansion, 1, 1, name + "expand_conv")
        x = _norm(x, name + "expand_bn", name + "expand_activation")
    x = layers.DepthwiseConv2D(
        stage.kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=layers.FanOutNormal(),
        name=name + "dwconv2",
    )(x)
    x = _norm(x, name + "bn", name + "activation")
    # a quarter of the block's input, not of the expanded channels
    width = max(1, inputs.shape[-1] // 4)
    x = layers.squeeze_excite(x, width, layers.silu, name, layers.FanOutNormal)
    x = _conv(x, stage.channels, 1, 1, name + "project_conv")
    x = _norm(x, name + "project_bn")
    return _residual(x, inputs, stride, drop_path, depth, name)


def _residual(x, inputs, stride, drop_path, depth, name):
    if stride != 1 or inputs.shape[-1] != x.shape[-1]:
        return x
    x = layers.DropPath(drop_path, depth=depth, name=name + "drop")(x)
    # The shortcut first: Keras walks the graph recursively, first input first, and through the
    # branch the walk through XL would be deeper than Python's recursion limit.
    return keras.layers.Add(name=name + "add")([inputs, x])


BLOCKS = {"fused": fused_block, "mbconv": mbconv_block}

# ------------------------------------------------------------------------------------- assembly


def features(x, variant, drop_path, prefix=""):
    """(b, h, w, 3) -> {"reduction_i": (b, h / 2**i, w / 2**i, channels)} for i in 1..5."""
    x = _conv(x, variant.stem, 3, 2, prefix + "stem_conv")  # (b, h/2, w/2, stem)
    x = _norm(x, prefix + "stem_bn", prefix + "stem_activation")
    blocks = sum(stage.repeats for stage in variant.stages)
    reductions, block = [], 0
    for s, stage in enumerate(variant.stages, start=1):
        for r in range(stage.repeats):
            stride = stage.stride if r == 0 else 1
            if stride == 2:
                reductions.append(x)
            name = f"{prefix}block{s}{application.block_letters(r)}_"
            x = BLOCKS[stage.block](x, stage, stride, drop_path, block / blocks, name)
            block += 1
    reductions.append(x)
    return dict(zip(application.REDUCTIONS, reductions))


def top(x, variant, prefix=""):
    """(b, h/32, w/32, c) -> (b, h/32, w/32, variant.top)."""
    x = _conv(x, variant.top, 1, 1, prefix + "top_conv")
    return _norm(x, prefix + "top_bn", prefix + "top_activation")


FAMILY = application.Family(
    title="Tan & Le 2021, https://arxiv.org/abs/2104.00298",
    features=features,
    top=top,
    neck=lambda x, variant, prefix: x,
)


def build(variant: Variant, **arguments: typing.Any) -> keras.Model:
    """Builds any row, also one that is not in the table; arguments as the builders below."""
    return application.build(variant, FAMILY, **arguments)


# --------------------------------------------------------------------------------- public names

EfficientNetV2B0 = application.builder(VARIANTS["EfficientNetV2B0"], FAMILY)
EfficientNetV2B1 = application.builder(VARIANTS["EfficientNetV2B1"], FAMILY)
EfficientNetV2B2 = application.builder(VARIANTS["EfficientNetV2B2"], FAMILY)
EfficientNetV2B3 = application.builder(VARIANTS["EfficientNetV2B3"], FAMILY)
EfficientNetV2S = application.builder(VARIANTS["EfficientNetV2S"], FAMILY)
EfficientNetV2M = application.builder(VARIANTS["EfficientNetV2M"], FAMILY)
EfficientNetV2L = application.builder(VARIANTS["EfficientNetV2L"], FAMILY)
EfficientNetV2XL = application.builder(VARIANTS["EfficientNetV2XL"], FAMILY)

__all__ = [
    *VARIANTS,
    "VARIANTS",
    "Stage",
    "Variant",
    "build",
    "decode_predictions",
    "preprocess_input",
]
