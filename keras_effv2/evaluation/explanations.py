"""Where a model looks: Grad-CAM and attention maps."""

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing
import tensorflow as tf

from keras_effv2 import graph, layers
from keras_effv2.arguments import check_array, check_kind


def gradcam(
    model: keras.Model,
    images: numpy.typing.ArrayLike,
    class_index: int | Sequence[int] | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Shows which parts of images speak for a class.

    Args:
        model: A functional classifier; models may be nested in it. One output stands for two
            classes: it speaks for class 1, and against class 0.
        images: `(n, h, w, c)` as the model takes them.
        class_index: Class, one number or one an image; None takes the best.
        layer: Name of the layer whose map is looked at; None takes the last with a feature map.

    Returns:
        float32 array `(n, h, w)` in [0, 1], at the size of the images.

    Raises:
        ValueError: If there is no such layer or class, or the model's logits are unknown.

    Source: Selvaraju et al. 2016, https://arxiv.org/abs/1610.02391.
    """
    layers.require_tensorflow("Grad-CAM")
    given, flat = _checked(model, images), graph.flattened(model)
    features = _feature_map(flat, model.name, given.shape[-1], layer)
    both = keras.Model(flat.input, [features, graph.logits_of(flat).outputs[0]])
    with tf.GradientTape() as tape:
        features, outputs = both(given, training=False)
        if outputs.shape[-1] == 1:
            outputs = tf.concat([-outputs, outputs], -1)
        chosen = _chosen(class_index, outputs)
        score = tf.reduce_sum(outputs * tf.cast(chosen, outputs.dtype))
    gradients = tape.gradient(score, features)
    weights = tf.reduce_mean(gradients, (1, 2), keepdims=True)
    heat = tf.cast(tf.nn.relu(tf.reduce_sum(weights * features, -1, keepdims=True)), tf.float32)
    heat /= tf.maximum(tf.reduce_max(heat, (1, 2, 3), keepdims=True), 1e-12)
    return tf.image.resize(heat, given.shape[1:3])[..., 0].numpy()


def _checked(model, images):
    """Images as a model takes them, float32."""
    check_kind("model", model, keras.Model, "a keras.Model")
    channels = model.inputs[0].shape[-1]
    wanted = f"an array (n, height, width, {channels}) as the model takes it"

    def fits(shape):
        return len(shape) == 4 and all(shape) and shape[-1] == channels

    return tf.cast(check_array("images", images, wanted, fits), tf.float32)


def _feature_map(flat, name, channels, layer):
    """The tensor of a layer, by default of the last one that gives more channels than a picture."""
    maps = {x.name: made for x, _, (made, *_) in graph.calls(flat) if len(made.shape) == 4}
    if layer is None:
        large = [name for name, made in maps.items() if made.shape[-1] > channels]
        if not large:
            raise ValueError(f"Model {name!r} has no layer with a feature map.")
        layer = large[-1]
    if layer not in maps:
        raise ValueError(
            f"Model {name!r} has no feature map {layer!r}. Last: {', '.join([*maps][-6:])}."
        )
    return maps[layer]


def _chosen(class_index, outputs):
    """One-hot float32 `(n, classes)` of the classes asked for."""
    count, classes = outputs.shape
    if class_index is None:
        return tf.one_hot(tf.argmax(outputs, -1), classes)
    index = np.asarray(class_index)
    whole = index.dtype.kind in "iu" and index.shape in ((), (count,))
    if not whole or not ((index >= 0) & (index < classes)).all():
        raise ValueError(
            f"`class_index` is one class out of 0 to {classes - 1}, or one for each of the {count} "
            f"images. Received: {class_index!r}."
        )
    return tf.one_hot(np.broadcast_to(index, (count,)), classes)


def attention_maps(model, images, layer=None):
    """The attention of a CoAtNet layer: float32 `(n, heads, queries, keys)`; the last by default.

    Raises:
        ValueError: If the model has no relative attention.
    """
    layers.require_tensorflow("An attention map")
    given = _checked(model, images)
    own = [x for x in model.layers if type(x).__name__ == "RelativeAttention"]
    if layer is not None:
        own = [x for x in own if x.name == layer]
    if not own:
        raise ValueError(f"Model {model.name!r} has no such layer of relative attention.")
    before = keras.Model(model.inputs[0], own[-1].input)(given, training=False)
    return own[-1](before, return_attention=True)[1].numpy()
