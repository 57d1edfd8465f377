"""Which layers learn."""

import keras

from keras_effv2 import graph, layers
from keras_effv2.arguments import check_kind

POLICIES = ("none", "batch_norm", "backbone")


def freeze(model: keras.Model, policy: str) -> keras.Model:
    """Says which layers learn.

    Args:
        model: A model of this package.
        policy: `"none"`: everything learns. `"batch_norm"`: everything but batch normalisation,
            whose statistics stay. `"backbone"`: only the head learns, the last dense layer.

    Returns:
        The model.

    Raises:
        ValueError: If the policy is unknown, or there is no head to learn.

    Example:

        freeze(model, "backbone")   # first the head
        freeze(model, "batch_norm")  # then everything
    """
    check_kind("model", model, keras.Model, "a keras.Model")
    if policy not in POLICIES:
        raise ValueError(f"`policy` is one of {', '.join(POLICIES)}. Received: {policy!r}.")
    head = graph.head_of(model) if policy == "backbone" else None
    if head is not None and not isinstance(head, keras.layers.Dense):
        raise ValueError(
            f"Model {model.name!r} ends in {head.name!r} and has no head; with policy='backbone' "
            "nothing would learn. Build it with include_top=True."
        )
    model.trainable = True  # else its layers' own flags count for nothing
    for layer in layers.walk(model):
        if isinstance(layer, keras.Model):
            continue
        norm = isinstance(layer, keras.layers.BatchNormalization)
        learns = {"none": True, "batch_norm": not norm, "backbone": layer is head}
        layer.trainable = learns[policy]
    return model
