"""Labelled pictures that come as arrays or as somebody's `tf.data.Dataset`."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_effv2.augment import Augment
from keras_effv2.data import batches
from keras_effv2.data.decoding import to_uint8
from keras_effv2.data.split import Split

_SAMPLE = 64  # pictures that are looked at before training


def labelled(pictures, steps=None, classes=None):
    """Makes training batches possible for a `Split`, `(images, labels)` or a `tf.data.Dataset`.

    Args:
        pictures: A `Split`; `(images, labels)` as `Split` takes them; or a `tf.data.Dataset` as
            `Stream` takes it.
        steps: Batches an epoch, of a dataset alone.
        classes: Number of classes; None: the largest label and one more.

    Returns:
        A `Split` or a `Stream`.

    Raises:
        ValueError: If images or labels are of other shapes, types or ranges.
    """
    if isinstance(pictures, Split):
        return pictures
    if isinstance(pictures, tf.data.Dataset):
        return Stream.of(pictures, steps, classes)
    if not isinstance(pictures, (tuple, list)) or len(pictures) != 2:
        raise ValueError(
            "Training takes a split of keras_effv2.data, (images, labels), or a tf.data.Dataset of "
            f"(image, label). Received: {type(pictures).__name__}."
        )
    images, labels = pictures
    labels = np.asarray(labels)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if classes is None:
        numeric = labels.dtype.kind in "iuf" and labels.ndim == 1 and labels.size
        classes = int(labels.max()) + 1 if numeric and np.isfinite(labels.max()) else 1
    return Split([str(i) for i in range(max(1, classes))], labels, images)


@dataclasses.dataclass(frozen=True)
class Stream:
    """Pictures in the order in which a dataset gives them; it has to shuffle itself.

    Attributes:
        dataset: A `tf.data.Dataset` of single pictures uint8 `(h, w, 3)` and labels float32
            `(classes,)`.
        class_names: Names of the classes.
        count: Pictures an epoch, or None.
        given_steps: Batches an epoch, or None to make them of all pictures.
        side: The median of the shorter sides of the first pictures, in pixels.
    """

    dataset: tf.data.Dataset
    class_names: tuple
    count: int | None
    given_steps: int | None
    side: int

    @classmethod
    def of(cls, dataset, steps=None, classes=None):
        """Takes a dataset as it comes.

        Args:
            dataset: Gives (image, label) or TFDS's dictionaries with `image` and `label`, one at a
                time or in batches; images of any size, uint8 or float of 0..255; labels integers or
                one-hot.
            steps: Batches an epoch; None: of all pictures, counted by going through them once
                unless the dataset knows.
            classes: Number of classes; None: as one-hot labels or the dataset's `class_names` have,
                else found by going through once.

        Raises:
            ValueError: If it gives something else, such as pixels in 0..1, or never ends and
                `steps` or `classes` is missing.
        """
        names = getattr(dataset, "class_names", None)
        paths = getattr(dataset, "file_paths", None)  # keras.utils.image_dataset_from_directory's
        single, is_known = _singles(_pairs(dataset))
        side = _check_pictures(single)
        spec = single.element_spec[1]
        if spec.shape.rank == 1:
            classes = spec.shape[0] or len(next(iter(single))[1])
        classes = len(names) if classes is None and names else classes
        count = len(paths) if paths else int(single.cardinality()) if is_known else None
        count = None if count is not None and count < 0 else count
        if classes is None or (count is None and steps is None):
            if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
                raise ValueError(
                    "The dataset never ends: give `steps`, the batches of an epoch, and `classes`, "
                    "the number of classes, where labels are integers."
                )
            count, largest = _go_through(single)
            classes = largest + 1 if classes is None else classes
        if names is None or len(names) != classes:
            names = [str(i) for i in range(classes)]

        def encode(image, label):
            return to_uint8(tf.cast(image, tf.float32)), _target(label, classes)

        single = single.map(encode, num_parallel_calls=tf.data.AUTOTUNE)
        return cls(single, tuple(names), count, steps, side)

    def steps(self, batch_size):
        """Batches an epoch."""
        if self.given_steps is not None:
            return self.given_steps
        if batch_size > self.count:
            raise ValueError(
                f"A batch of {batch_size} is larger than the dataset of {self.count} pictures. "
                f"Choose a batch size of at most {self.count}."
            )
        return self.count // batch_size

    def typical_side(self):
        """The median of the shorter sides of the first pictures, in pixels."""
        return self.side

    def train_batches(self, *, image_size, batch_size, seed=0, epoch=0, augment=None):
        """Makes one epoch of training batches, as `Split.train_batches` does."""
        pictures = self.dataset
        if self.given_steps is not None:
            pictures = pictures.repeat().take(self.given_steps * batch_size)
        stream = pictures.enumerate().map(lambda i, pair: (i, *pair))
        draw = batches.Draw(seed, epoch)
        return batches.of_training(stream, augment or Augment(), image_size, batch_size, draw)


def _pairs(dataset):
    """The dataset as pairs of image and label."""
    spec = dataset.element_spec
    if isinstance(spec, dict) and {"image", "label"} <= set(spec):
        return dataset.map(lambda row: (row["image"], row["label"]))
    is_pair = isinstance(spec, (tuple, list)) and len(spec) == 2
    if not is_pair or not all(isinstance(part, tf.TensorSpec) for part in spec):
        raise ValueError(
            "A dataset to train on gives (image, label), single or in batches. Received elements "
            f"of {spec}. Map it to such pairs."
        )
    return dataset


def _singles(pairs):
    """The dataset of single pictures, labels without a last axis of 1; and whether it was one."""
    image, label = pairs.element_spec
    if None in (image.shape.rank, label.shape.rank):  # as after tf.py_function
        first = next(iter(pairs), None)
        _refuse_nothing(first)
        ranks = [part.shape.rank for part in first]

        def shaped(*pair):
            return tuple(
                tf.ensure_shape(part, [None] * rank) for part, rank in zip(pair, ranks, strict=True)
            )

        pairs = pairs.map(shaped)
        image, label = pairs.element_spec
    wrong = image.shape.rank not in (3, 4) or image.dtype == tf.string
    if wrong or image.shape[-1] not in (3, None):
        raise ValueError(
            "Training takes pictures (height, width, 3) or batches of them, uint8 or float of "
            f"0..255. Received: {image.dtype.name} {image.shape}."
        )
    is_single = image.shape.rank == 3
    pairs = pairs if is_single else pairs.unbatch()
    rank = pairs.element_spec[1].shape.rank
    if rank > 1 or not (label.dtype.is_integer or label.dtype.is_floating):
        raise ValueError(
            "Labels are one integer a picture, or one-hot rows. Received: "
            f"{label.dtype.name} {label.shape}."
        )
    if rank == 1 and pairs.element_spec[1].shape[0] == 1:  # as label_mode="binary" gives
        pairs = pairs.map(lambda image, label: (image, label[0]))
    return pairs, is_single


def _check_pictures(single):
    """Refuses pixels of another range; the median of the shorter sides."""
    sides, lowest, highest = [], np.inf, -np.inf
    for image, _ in single.take(_SAMPLE):
        if image.shape[-1] != 3:
            raise ValueError(f"Training takes pictures (h, w, 3). Received: {image.shape}.")
        sides.append(min(image.shape[:2]))
        lowest, highest = min(lowest, np.min(image)), max(highest, np.max(image))
    _refuse_nothing(sides or None)
    is_scaled = single.element_spec[0].dtype.is_floating and highest <= 1
    if is_scaled or not (lowest >= 0 and highest <= 255):
        raise ValueError(
            f"Training takes pixels 0..255. The first pictures have {lowest:g} to {highest:g}: leave "
            "out what scales them, or multiply by 255; the model normalises pixels itself."
        )
    return int(np.median(sides))


def _refuse_nothing(found):
    if found is None:
        raise ValueError("The dataset to train on is empty.")


def _go_through(single):
    """Number of pictures and the largest label; refuses labels that are no class."""
    labels = single.map(lambda _, label: label)
    if single.element_spec[1].shape.rank == 1:
        return int(labels.reduce(np.int64(0), lambda n, _: n + 1)), -1

    def note(state, label):
        label = tf.cast(label, tf.float64)
        count, low, high, whole = state
        whole &= tf.equal(label, tf.floor(label))
        return count + 1, tf.minimum(low, label), tf.maximum(high, label), whole

    start = np.int64(0), np.float64(np.inf), np.float64(-np.inf), np.bool_(True)
    count, low, high, whole = (float(value) for value in labels.reduce(start, note))
    if low < 0 or not whole:
        raise ValueError(
            f"Labels are integers from 0 on. The dataset has labels from {low:g} to {high:g}"
            f"{'' if whole else ', some of them fractions'}."
        )
    return int(count), int(high)


def _target(label, classes):
    """A label as float32 `(classes,)`; what is no class ends the training, never a row of zeros."""
    if label.shape.rank == 1:
        tf.debugging.assert_positive(
            tf.reduce_sum(label), "A one-hot label has no class: its row is of zeros."
        )
        return tf.ensure_shape(tf.cast(label, tf.float32), (classes,))
    number = tf.cast(label, tf.int32)
    message = f"A label is no integer in 0 .. {classes - 1}, for {classes} classes."
    tf.debugging.assert_equal(tf.cast(number, label.dtype), label, message)
    tf.debugging.assert_non_negative(number, message)
    tf.debugging.assert_less(number, classes, message)
    return tf.one_hot(number, classes)
