"""Where a model looks: Grad-CAM and attention maps."""

import keras
import tensorflow as tf

from keras_effv2 import graph


def gradcam(model, images, class_index=None, layer=None):
    """Shows which parts of images speak for a class.

    Args:
        model: A functional classifier; models may be nested in it.
        images: `(n, h, w, c)` as the model takes them.
        class_index: Class, one number or one an image; None takes the best.
        layer: Name of the layer whose map is looked at; None takes the last with a feature map.

    Returns:
        float32 array `(n, h, w)` in [0, 1], at the size of the images.

    Raises:
        ValueError: If there is no such layer.

    Source: Selvaraju et al. 2016, https://arxiv.org/abs/1610.02391.
    """
    flat = graph.flattened(model)
    maps = {x.name: made for x, _, (made, *_) in graph.calls(flat) if len(made.shape) == 4}
    if layer is None:
        # what has no more channels than a picture is a picture
        large = [name for name, made in maps.items() if made.shape[-1] > images.shape[-1]]
        if not large:
            raise ValueError(f"Model {model.name!r} has no layer with a feature map.")
        layer = large[-1]
    if layer not in maps:
        raise ValueError(
            f"Model {model.name!r} has no feature map {layer!r}. Last: {', '.join([*maps][-6:])}."
        )
    both = keras.Model(flat.input, [maps[layer], graph.logits_of(flat).outputs[0]])
    images = tf.cast(images, tf.float32)
    with tf.GradientTape() as tape:
        features, outputs = both(images, training=False)
        if class_index is None:
            class_index = tf.argmax(outputs, -1)
        chosen = tf.one_hot(tf.broadcast_to(class_index, (images.shape[0],)), outputs.shape[-1])
        score = tf.reduce_sum(outputs * chosen)
    gradients = tape.gradient(score, features)
    weights = tf.reduce_mean(gradients, (1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, -1, keepdims=True))
    heat = tf.cast(heat, tf.float32) / tf.maximum(
        tf.cast(tf.reduce_max(heat, (1, 2, 3), keepdims=True), tf.float32), 1e-12
    )
    return tf.image.resize(heat, images.shape[1:3])[..., 0].numpy()


def attention_maps(model, images, layer=None):
    """The attention of a CoAtNet layer: float32 `(n, heads, queries, keys)`; the last by default.

    Raises:
        ValueError: If the model has no relative attention.
    """
    own = [x for x in model.layers if type(x).__name__ == "RelativeAttention"]
    if layer is not None:
        own = [x for x in own if x.name == layer]
    if not own:
        raise ValueError(f"Model {model.name!r} has no such layer of relative attention.")
    before = keras.Model(model.inputs[0], own[-1].input)(
        tf.cast(images, tf.float32), training=False
    )
    return own[-1](before, return_attention=True)[1].numpy()
