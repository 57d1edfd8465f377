"""What a model's outputs say: probabilities, of which classes."""

import collections

import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import graph, imagenet, layers
from keras_effv2.arguments import check_kind
from keras_effv2.data import Split
from keras_effv2.data.tables import composed


def probabilities(model, traced=True):
    """A function from images to probabilities, by the head that the model has.

    The outputs of a softmax or sigmoid are probabilities already, the same as of `model.predict`.
    One logit is that of a sigmoid. Of several logits the model's `Pixels` layer says whether they
    are a softmax's or sigmoids', where it knows this head; else they are a softmax's.

    Args:
        model: A `keras.Model` from images to one vector `(batch, outputs)`.
        traced: Whether to make a graph of it first, once for every size of pictures. That takes about
            as long as four pictures without one.

    Returns:
        A function from images `(n, height, width, channels)`, as the model takes them, to a float32
        tensor `(n, outputs)`. It raises `ValueError` where the model gives numbers that are not
        finite.

    Raises:
        ValueError: If it is unknown what the outputs are.
    """
    layers.require_tensorflow("Evaluation")
    graph.check_outputs(model)
    own = graph.activation_of(model)
    count = model.outputs[0].shape[-1]
    if own == "softmax" and count == 1:
        raise ValueError(
            f"Model {model.name!r} ends in a softmax over one output, which is 1 whatever the "
            "picture. Let it end in a sigmoid, or in a softmax over two outputs."
        )
    wanted = {"softmax": tf.identity, "sigmoid": tf.identity, None: tf.nn.softmax}[own]
    if own is None and (count == 1 or graph.said_of_head(model, "activation") == "sigmoid"):
        wanted = tf.sigmoid

    def compute(images):
        return wanted(tf.cast(model(images, training=False), tf.float32))

    graphs = tf.function(compute, autograph=False)

    def predict(images):
        images = tf.convert_to_tensor(images)
        any_number = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
        scores = (graphs.get_concrete_function(any_number) if traced else compute)(images)
        if not np.isfinite(scores).all():
            graph.check_weights(model)
            raise ValueError(
                f"Model {model.name!r} gives no numbers (NaN): its weights are finite, so the pictures are "
                "not, or float16 is too small for them."
            )
        return scores

    return predict


def predicted(model, split, batch_size=32, image_size=None):
    """What a model says of every picture of a split, and what is right.

    Args:
        model: A `keras.Model`.
        split: A `Split`.
        batch_size: Images at a time.
        image_size: Side in pixels; None takes the model's.

    Returns:
        Probabilities float32 `(n, classes)`; the labels as bool `(n, classes)`; the names of the
        model's classes.
    """
    predict, side = probabilities(model), graph.side_of(model, image_size)
    outputs, names = match_classes(model, split.class_names)
    batches = split.eval_batches(
        image_size=side, batch_size=min(batch_size, len(split)), **geometry(model)
    )
    scores, labels = [], []
    for number, (images, targets, mask) in enumerate(batches):
        if number == 0:
            warn_of_small_pixels(images)
        keep = mask.numpy() > 0
        scores.append(by_class(predict(images))[keep])
        labels.append(np.zeros(scores[-1].shape, bool))
        labels[-1][:, outputs] = targets.numpy()[keep] > 0
    return np.concatenate(scores), np.concatenate(labels), names


def check_split(name, split):
    """Refuses what is no split of pictures, such as the whole data, or has none."""
    check_kind(name, split, Split, "a split of pictures, such as `data.validation`")
    if not len(split):
        raise ValueError(f"`{name}` has no pictures. Give a split that has some.")


def are_independent(model):
    """Whether a model's outputs are probabilities each by itself, of two labels or more."""
    own = graph.activation_of(model) or graph.said_of_head(model, "activation")
    return own == "sigmoid" and model.outputs[0].shape[-1] > 1


def likeliest(scores, targets):
    """The label of every picture, `(n,)`; of several the one that the model finds likeliest."""
    return np.where(targets, scores, -1.0).argmax(1)


def geometry(model):
    """How the model's pictures are cut and resized, as `Split.eval_batches` takes it."""
    pixels = layers.find_pixels(model)
    return {"crop": pixels.crop, "resize": pixels.resize} if pixels else {}


def said(model, scores):
    """The classes that a model says by its own thresholds.

    Args:
        model: A `keras.Model`.
        scores: Its probabilities `(n, classes)`, as `by_class` gives them.

    Returns:
        For every picture an array of columns, the likeliest first. Sigmoids with thresholds say any
        number of them; other heads one, or none where the likeliest is less sure than
        `unknown_below`.
    """
    thresholds, least = (graph.said_of_head(model, k) for k in ("thresholds", "unknown_below"))
    order = np.argsort(-scores, axis=1, kind="stable")
    if thresholds:
        return [own[row[own] >= np.array(thresholds)[own]] for own, row in zip(order, scores)]
    named = np.max(scores, 1) >= (least or 0.0)
    return [own[:1] if sure else own[:0] for own, sure in zip(order, named)]


def by_class(scores):
    """Probabilities `(n, classes)`; the one output of two classes is that of the second class."""
    scores = np.asarray(scores)
    return np.hstack([1 - scores, scores]) if scores.shape[1] == 1 else scores


def match_classes(model, class_names):
    """Finds the classes of data among those of a model, by name where the model knows names.

    Of a model without names that has as many outputs as an ImageNet, classes that all have names or
    WordNet ids of that ImageNet are found by these, in any number and order.

    Args:
        model: A `keras.Model` from images to one vector. One output stands for two classes.
        class_names: Names of the data's classes.

    Returns:
        For every class its column in what `by_class` gives, int array, and the names of the columns.

    Raises:
        ValueError: If a class is unknown to the model, or the numbers differ.
    """
    count = max(2, model.outputs[0].shape[-1])
    own = graph.said_of_head(model, "class_names") or _of_imagenet(count, class_names)
    if not own:
        if count != len(class_names):
            raise ValueError(
                f"The model has {model.outputs[0].shape[-1]} outputs and no class names, the data "
                f"has {len(class_names)} classes. Evaluate it on data with {count} classes."
            )
        return np.arange(count), tuple(class_names)
    own = tuple(map(composed, own))
    places = {name: place for place, name in enumerate(own)}
    unknown = [name for name in class_names if composed(name) not in places]
    if unknown:
        raise ValueError(
            f"The model does not know the class {unknown[0]!r}. Its classes: "
            f"{', '.join(own[:10])}{' ...' if len(own) > 10 else ''}. Rename the class folder."
        )
    return np.array([places[composed(name)] for name in class_names]), own


def _of_imagenet(count, class_names):
    """The names of an ImageNet's classes, or their WordNet ids, if all of the data's are among them."""
    if count in imagenet.LABELS:
        for own in zip(*imagenet.labels(count), strict=True):
            if set(class_names) <= set(own):
                _check_once(class_names, own, count)
                return own
    return None


def _check_once(class_names, own, count):
    """Refuses names of two classes of an ImageNet: a crane is a bird, and a machine."""
    twice = {name for name, times in collections.Counter(own).items() if times > 1}
    for name in twice.intersection(class_names):
        ids = [wordnet for wordnet, other in imagenet.labels(count) if other == name]
        raise ValueError(
            f"{name!r} is the name of several classes of ImageNet: {', '.join(ids)}. Call the class "
            "folders by their WordNet ids."
        )


def warn_of_small_pixels(images):
    """Warns of a batch that looks like 0..1 where 0..255 is wanted."""
    if float(np.max(images)) <= 1.0:
        logging.warning(
            "The largest pixel of the first batch is %.3g: models here take 0..255, not 0..1.",
            float(np.max(images)),
        )
