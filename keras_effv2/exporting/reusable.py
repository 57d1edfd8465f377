"""Reusable SavedModels, which TF Hub's users can fine-tune."""

import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_effv2 import files, graph, layers
from keras_effv2.exporting.card import write_card
from keras_effv2.exporting.verification import verify
from keras_effv2.exporting.views import (
    any_size,
    check_head,
    constant_rates,
    labels_of,
    pooled,
    pyramid_of,
    saved_models_in,
)

KINDS = ("classification", "feature_vector")


def export_hub(
    model: keras.Model,
    path: str | os.PathLike,
    kind: str = "classification",
    labels: Sequence[str] | None = None,
) -> str:
    """Writes a reusable SavedModel that TF Hub's users can fine-tune.

    The loaded object is callable with images float32 in [0, 1], `(batch, height, width, channels)`
    of any batch and size, and a Python bool `training`; it has `variables`,
    `trainable_variables`, `regularization_losses` and the signature `serving_default`. Models of
    this package also get `features`, a function and a signature: images to a dictionary of the
    feature maps `reduction_1` .. `reduction_5`, in inference mode.

    A model without a `Pixels` layer is given 0..255, or [0, 1] where a `HubLayer` takes its input.
    A model that computes one size alone, such as one with `Flatten`, is exported at that size.

    Args:
        model: A functional `keras.Model` with one image input.
        path: Folder to write, or a name that ends in `.tar.gz`, in the layout of TF Hub and Kaggle;
            here or in a store (`gs://...`).
        kind: `"classification"` gives logits, `"feature_vector"` the pooled features.
        labels: Names of the classes; None takes those that the model carries.

    Returns:
        The path, when a fresh process has loaded the export and found what the model computes.

    Raises:
        ValueError: If `kind` is unknown or the model does not have it, or `path` is in a store that
            TensorFlow does not know.
        FileExistsError: If `path` exists.
        RuntimeError: If the written model computes something else; nothing is left then.

    Example:

    >>> import tempfile
    >>> inputs = keras.Input((None, None, 3))
    >>> x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    >>> model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    >>> path = export_hub(model, tempfile.mkdtemp() + "/pets", labels=["cat", "dog"])
    >>> tf.saved_model.load(path)(tf.zeros((1, 64, 64, 3))).shape
    TensorShape([1, 2])

    Source: https://www.tensorflow.org/hub/reusable_saved_models
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` is one of {', '.join(KINDS)}. Received: {kind!r}.")
    layers.require_tensorflow("Export")
    place = files.place(path, "The place of an export")
    if kind == "classification":
        graph.check_outputs(model)
        check_head(model)
    graph.check_weights(model)
    net = any_size(model)
    view = graph.logits_of(net) if kind == "classification" else pooled(net)
    labels = labels_of(model, kind, labels)
    with constant_rates(net), files.in_place(place) as folder:
        root = _reusable(net, view)
        if labels is not None:
            file = folder.parent / "labels.txt"
            file.write_text("\n".join(labels) + "\n", encoding="utf-8")
            root.labels = tf.saved_model.Asset(str(file))
        # the first trace becomes the default of calls without `training`
        signatures = {"serving_default": root.serve}
        if hasattr(root, "features"):
            signatures["features"] = root.features
        tf.saved_model.save(root, str(folder), signatures=signatures)
        write_card(folder, net, view, kind, labels)
        verify(folder, model, net, view if kind == "feature_vector" else None)
    return str(place)


def _reusable(net, view):
    """The object that is saved: TF Hub's interface around a Keras model."""
    pyramid = pyramid_of(net)
    compute = _from_hub_images(net, {"outputs": view.outputs[0], **pyramid})
    spec = tf.TensorSpec(tuple(net.inputs[0].shape), tf.float32, name="inputs")

    # each graph is written once, however many functions call it
    infer = tf.function(lambda inputs: compute(inputs, False), [spec])
    learn = tf.function(lambda inputs: compute(inputs, True), [spec])

    @tf.function
    def call(inputs, training=False):
        return (learn if training else infer)(inputs)["outputs"]

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    call.get_concrete_function(spec)

    root = tf.train.Checkpoint()
    root.__call__ = call
    root.serve = tf.function(lambda inputs: {"outputs": infer(inputs)["outputs"]}, [spec])
    if pyramid:
        root.features = tf.function(
            lambda inputs: {k: v for k, v in infer(inputs).items() if k in pyramid}, [spec]
        )
    root.variables = [v.value for v in view.weights]
    root.trainable_variables = [v.value for v in view.trainable_weights]
    root.regularization_losses = [
        _penalty(v) for v in view.trainable_weights if getattr(v, "regularizer", None) is not None
    ]
    weights = {id(v) for v in net.weights}
    root._seeds = [v.value for v in net.variables if id(v) not in weights]
    root._modules = saved_models_in(net)
    return root


def _from_hub_images(net, outputs):
    """A function from images in [0, 1] and `training` to a dictionary of float32 outputs."""
    pixels = layers.find_pixels(net)
    whole = keras.Model(net.inputs, outputs)

    def compute(images, training):
        if not layers.takes_hub_images(net):
            images = images * 255.0
        if pixels is not None and not pixels.enabled:
            images = layers.normalize(images, pixels.pixels)
        with layers.portable():  # whoever loads it may have other devices
            outputs = whole(images, training=training)
        return {key: tf.cast(x, tf.float32) for key, x in outputs.items()}

    return compute


def _penalty(weight):
    """A function without arguments; made here so that it closes over one weight only."""
    return tf.function(lambda: weight.regularizer(weight.value), [])
