"""The networks as rows: what each is made of and what it costs. Keras is not needed to know it."""

from keras_effv2.variants.files import VARIANTS, find, load_variant, save_variant
from keras_effv2.variants.info import list_models, model_info
from keras_effv2.variants.layouts import layout
from keras_effv2.variants.scaling import scale

__all__ = [
    "VARIANTS",
    "find",
    "layout",
    "list_models",
    "load_variant",
    "model_info",
    "save_variant",
    "scale",
]
