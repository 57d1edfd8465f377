"""What builds the rows of `variants`: a page a family."""

from keras_effv2.models import coatnet, coatnet_rw, efficientnet_v2, vit_rel
from keras_effv2.models.families import builder
from keras_effv2.variants import VARIANTS, list_models, model_info

__all__ = [
    "VARIANTS",
    "builder",
    "coatnet",
    "coatnet_rw",
    "efficientnet_v2",
    "list_models",
    "model_info",
    "vit_rel",
]
