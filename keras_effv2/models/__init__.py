"""The two families of networks."""

from keras_effv2.models import coatnet, efficientnet_v2
from keras_effv2.models.info import VARIANTS, list_models, model_info

__all__ = ["VARIANTS", "coatnet", "efficientnet_v2", "list_models", "model_info"]
