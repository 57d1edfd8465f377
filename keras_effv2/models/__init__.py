"""The families of networks."""

from keras_effv2.models import coatnet, coatnet_rw, efficientnet_v2, vit_rel
from keras_effv2.models.families import builder, side_multiple
from keras_effv2.variants import (
    VARIANTS,
    find,
    layout,
    list_models,
    load_variant,
    model_info,
    save_variant,
    scale,
)

__all__ = [
    "VARIANTS",
    "builder",
    "coatnet",
    "coatnet_rw",
    "efficientnet_v2",
    "find",
    "layout",
    "list_models",
    "load_variant",
    "model_info",
    "save_variant",
    "scale",
    "side_multiple",
    "vit_rel",
]
