"""ViT_REL, as a page: patches, then blocks of relative attention at one width.

The convolution-free end of the CoAtNet paper's comparison of layouts (Dai et al. 2021,
arXiv 2106.04803, section 2.2). The paper gives no widths and trains none of them further: there are
no published rows, `variants.layout("ViT_REL")` makes one.
"""

import math
import typing

import keras

from keras_effv2 import layers
from keras_effv2.models import application, coatnet
from keras_effv2.variants.vit_rel import PATCH, VARIANTS, Variant

BLOCKS = {"transformer": coatnet.transformer_block}


def features(x, variant, drop_path, prefix=""):
    """(b, h, w, 3) -> {"reduction_4": (b, h / 16, w / 16, channels)}."""
    (stage,) = variant.stages
    grid = tuple(math.ceil((side or variant.image_size) / PATCH) for side in x.shape[1:3])
    x = layers.Conv2D(
        stage.channels,
        PATCH,
        strides=PATCH,
        padding="same",
        kernel_initializer=layers.Normal(),
        name=prefix + "stem_conv",
    )(x)
    for r in range(stage.repeats):
        name = f"{prefix}block1{application.block_letters(r)}_"
        make = BLOCKS[stage.block]
        x = make(x, stage, 1, variant, grid, drop_path, r / stage.repeats, name)
    return {"reduction_4": x}


FAMILY = application.Family(
    title="Dai et al. 2021, https://arxiv.org/abs/2106.04803, section 2.2. No weights exist",
    features=features,
    top=lambda x, variant, prefix: x,
    neck=coatnet.neck,
    multiple=PATCH,
    levels=("reduction_4",),
)


def build(variant: Variant, **arguments: typing.Any) -> keras.Model:
    """Builds a row; arguments as the builders', but the only level of `features=` is reduction_4."""
    return application.build(variant, FAMILY, **arguments)


__all__ = ["VARIANTS", "Variant", "build"]
