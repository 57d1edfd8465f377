"""EfficientNetV2 and CoAtNet for Keras 3: networks, progressive learning, export.

What a saved model may hold is imported here, so that Keras finds it. Training, data, evaluation and
export need TensorFlow and are imported when first used.
"""

import importlib

import keras

from keras_effv2 import imagenet, layers, optimizers, recipes, weights
from keras_effv2.models import (
    coatnet,
    efficientnet_v2,
    list_models,
    load_variant,
    model_info,
    save_variant,
    scale,
)
from keras_effv2.models.coatnet import (
    CoAtNet0,
    CoAtNet1,
    CoAtNet2,
    CoAtNet3,
    CoAtNet4,
    CoAtNet5,
    CoAtNet6,
    CoAtNet7,
)
from keras_effv2.models.efficientnet_v2 import (
    EfficientNetV2B0,
    EfficientNetV2B1,
    EfficientNetV2B2,
    EfficientNetV2B3,
    EfficientNetV2L,
    EfficientNetV2M,
    EfficientNetV2S,
    EfficientNetV2XL,
)
from keras_effv2.progressive import Phase, ProgressiveLearning, ramp
from keras_effv2.version import __version__
from keras_effv2.weights import list_weights

if keras.backend.backend() == "tensorflow":  # where a saved model may hold a HubLayer
    from keras_effv2 import hub  # noqa: F401

# name -> (module, attribute); an attribute of None is the module itself
_LAZY = {
    "augment": ("augment", None),
    "data": ("data", None),
    "train": ("training", "train"),
    "freeze": ("finetuning", "freeze"),
    "evaluate": ("evaluation", "evaluate"),
    "gradcam": ("evaluation", "gradcam"),
    "export": ("exporting", "export"),
    "export_hub": ("exporting", "export_hub"),
    "HubLayer": ("hub", "HubLayer"),
    "finetune": ("finetuning", "finetune"),
}

__all__ = [
    "__version__",
    "CoAtNet0",
    "CoAtNet1",
    "CoAtNet2",
    "CoAtNet3",
    "CoAtNet4",
    "CoAtNet5",
    "CoAtNet6",
    "CoAtNet7",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetV2B3",
    "EfficientNetV2L",
    "EfficientNetV2M",
    "EfficientNetV2S",
    "EfficientNetV2XL",
    "Phase",
    "ProgressiveLearning",
    "coatnet",
    "efficientnet_v2",
    "imagenet",
    "layers",
    "list_models",
    "list_weights",
    "load_variant",
    "model_info",
    "optimizers",
    "ramp",
    "recipes",
    "save_variant",
    "scale",
    "weights",
    *_LAZY,
]


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module 'keras_effv2' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(f"keras_effv2.{module}")
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value  # `keras_effv2.export` is the function, also after its module loaded
    return value


def __dir__():
    return sorted({*globals(), *_LAZY})
