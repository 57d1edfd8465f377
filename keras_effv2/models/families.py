"""What builds a row, whichever family it is of."""

from keras_effv2 import variants
from keras_effv2.models import application, coatnet, coatnet_rw, efficientnet_v2, vit_rel

_FAMILIES = {
    family.Variant: family.FAMILY for family in (efficientnet_v2, coatnet, coatnet_rw, vit_rel)
}


def builder(model):
    """The function that builds a model; arguments as those of `EfficientNetV2B0`.

    Args:
        model: As `variants.find`'s.

    Example:

    >>> builder("EfficientNetV2B0")(weights=None, classes=10).output_shape
    (None, 10)
    """
    variant = variants.find(model)
    return application.builder(variant, _FAMILIES[type(variant)])
