"""The families of networks."""

from keras_effv2.models import coatnet, efficientnet_v2, vit_rel
from keras_effv2.models.info import list_models, model_info
from keras_effv2.models.layouts import layout
from keras_effv2.models.scaling import scale
from keras_effv2.models.variants import (
    VARIANTS,
    builder,
    find,
    load_variant,
    save_variant,
    side_multiple,
)

__all__ = [
    "VARIANTS",
    "builder",
    "coatnet",
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
