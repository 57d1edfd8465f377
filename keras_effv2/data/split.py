"""Labelled pictures, as batches of training and of evaluation at a given size."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from keras_effv2.arguments import check_kind
from keras_effv2.augment import Augment
from keras_effv2.data import batches, damage
from keras_effv2.data.inspection import Inspection, read_inspecting
from keras_effv2.data.tables import check_class_names, check_table


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: What `load` was given.
        class_names: Names of the classes, in the order of the labels.
        train: Training split; None for sets of TFDS that have none.
        validation: Split that may stop the training, or None.
        test: Split that is looked at once, or None.
        unknown: Pictures of none of the classes, to know what to reject by, or None.

    Raises:
        TypeError: If a split is none.
        ValueError: If there is none at all, or one knows other classes.
    """

    name: str
    class_names: tuple[str, ...]
    train: "Split | None"
    validation: "Split | None" = None
    test: "Split | None" = None
    unknown: "Split | None" = None

    def __post_init__(self):
        splits = {name: getattr(self, name) for name in ("train", "validation", "test")}
        for name, split in {**splits, "unknown": self.unknown}.items():
            check_kind(name, split, Split | None, "a Split, or None")
        given = {name: split for name, split in splits.items() if split is not None}
        if not given:
            raise ValueError(f"{self.name} has no split: give `train`, `validation` or `test`.")
        for name, split in given.items():
            if tuple(split.class_names) != tuple(self.class_names):
                raise ValueError(
                    f"The classes of `{name}` are those of the data, in the same order. Received: "
                    f"{', '.join(split.class_names[:5])} for {', '.join(self.class_names[:5])}."
                )


def check_data(data):
    """Refuses what is no `Data`, such as the description of one."""
    check_kind("data", data, Data, "what keras_effv2.data.load(...) gives")


def of_names(fingerprint):
    """The part of a `Split.fingerprint` that is of labels and names: all that version 0.1 wrote."""
    return fingerprint.partition("-")[0]


class Split:
    """Labelled pictures: a table of your own, or what `load` finds.

    Args:
        class_names: Names of the classes.
        labels: One integer a picture, `(n,)`, in 0 .. number of classes - 1; with `several` rows of
            0 and 1, `(n, classes)`.
        pictures: uint8 array `(n, h, w, 3)`, or n file names: a list, an array or a column of
            strings or of `pathlib.Path`s; `~` and `$NAME` at their start are replaced.
        skipped: Names of files that were left out because they are damaged.
        hashes: sha256 of the contents of the files in hexadecimal, where they are known;
            `damage.UNREAD` for files that are to be examined when they are read.
        several: Whether a picture may have any number of labels, none included.

    Raises:
        TypeError: If class names or pictures are no list.
        ValueError: If labels or pictures are of another kind, or their numbers differ.
        FileNotFoundError: If there is no file of one of the names.

    Example:

    >>> split = Split(["cat", "dog"], [0, 1, 1], np.zeros((3, 32, 32, 3), "uint8"))
    >>> len(split)
    3
    """

    def __init__(
        self,
        class_names: Sequence[str],
        labels: np.typing.ArrayLike,
        pictures: np.ndarray | Iterable[str | os.PathLike],
        skipped: Sequence[str] = (),
        *,
        hashes: Sequence[str | None] | None = None,
        several: bool = False,
    ) -> None:
        self.class_names, self.several = check_class_names(class_names), several
        self.labels, self.pictures = check_table(labels, pictures, len(self.class_names), several)
        self._left_out = tuple(skipped)
        self._given_hashes = None if hashes is None else tuple(hashes)
        unread = damage.UNREAD in (self._given_hashes or ())
        self._inspection = Inspection(len(self), self.pictures.__getitem__) if unread else None

    def __len__(self):
        return len(self.labels)

    @property
    def skipped(self):
        """Names of damaged files: of those that were left out, and those that were met so far."""
        met = self._inspection and self._inspection.damaged_of(np.arange(len(self)))
        return self._left_out + (met or ())

    def class_counts(self):
        """Pictures of each class, int array `(classes,)`."""
        if self.several:
            return self.labels.sum(0, dtype="int64")
        return np.bincount(self.labels, minlength=len(self.class_names))

    def steps(self, batch_size):
        """Training batches an epoch; the remainder is left to other epochs' orders."""
        if batch_size > len(self):
            raise ValueError(
                f"A batch of {batch_size} is larger than the training split of {len(self)} "
                f"pictures. Choose a batch size of at most {len(self)}."
            )
        return len(self) // batch_size

    def select(self, indices):
        """The split of some of the pictures."""
        if isinstance(self.pictures, np.ndarray):
            pictures = self.pictures[indices]
        else:
            pictures = [self.pictures[i] for i in indices]
        known = self._given_hashes
        hashes = None if known is None else [known[i] for i in indices]
        own = {"hashes": hashes, "several": self.several}
        return Split(self.class_names, self.labels[indices], pictures, self._left_out, **own)

    def order(self, seed, epoch):
        """The order of an epoch: a permutation that depends on seed and epoch alone."""
        return np.random.default_rng((seed, epoch)).permutation(len(self))

    def train_batches(
        self,
        *,
        image_size,
        batch_size,
        seed=0,
        epoch=0,
        skip=0,
        augment=None,
        shard=(0, 1),
        drop_remainder=True,
    ):
        """Makes one epoch of training batches.

        Args:
            image_size: Side in pixels; pictures are decoded, cropped and changed at this size.
            batch_size: Pictures a batch of this pipeline.
            seed: Seed of order and changes.
            epoch: Number of the epoch.
            skip: Batches to leave out at the start; they are not decoded.
            augment: An `Augment`, default `Augment()`.
            shard: `(index, count)`: this pipeline's part of global batches of
                `count * batch_size` pictures; which pictures a global batch has does not depend on
                `count`. Mixup and CutMix mix within a part.
            drop_remainder: Whether to leave out an incomplete last batch.

        Returns:
            A `tf.data.Dataset` of images uint8 `(batch, size, size, 3)` and labels float32
            `(batch, classes)`.
        """
        order = self.order(seed, epoch)
        own = batches.shares(order, batch_size, shard, skip, drop_remainder)
        draw = batches.Draw(seed, epoch, skip, shard[0])
        settings = augment or Augment()
        return batches.of_training(
            self._raw(own), settings, image_size, batch_size, draw, drop_remainder
        )

    def eval_batches(self, *, image_size, batch_size, crop="none", resize="bilinear", shard=(0, 1)):
        """Makes batches in which every picture occurs once; the last is filled up.

        Args:
            image_size: Side in pixels.
            batch_size: Pictures a batch of this pipeline.
            crop: As in `imagenet.prepare`.
            resize: As in `imagenet.prepare`.
            shard: `(index, count)`; all shards have the same number of batches.

        Raises:
            ValueError: If `crop` or `resize` is unknown.

        Returns:
            A `tf.data.Dataset` of images float32 `(batch, size, size, 3)`, labels float32
            `(batch, classes)` and a mask float32 `(batch,)`: 1 for pictures, 0 for the filling.
        """
        batches.check_evaluation(image_size, batch_size, crop, resize)
        whole = batch_size * shard[1]
        order = np.arange(-(-len(self) // whole) * whole)
        order = batches.shares(order, batch_size, shard)
        mask = tf.data.Dataset.from_tensor_slices((order < len(self)).astype("float32"))
        pictures = tf.data.Dataset.zip(self._raw(np.minimum(order, len(self) - 1)), mask)
        return batches.of_evaluation(pictures, image_size, batch_size, crop, resize)

    @functools.cached_property
    def hashes(self):
        """sha256 of the contents of the files, one a picture, read unless they are known."""
        if self._given_hashes is None:
            found = damage.examine(self.pictures)
            return tuple(found[file] for file in self.pictures)
        return self._given_hashes

    def fingerprint(self):
        """A hash of labels and pictures, files by name and, unless very many, content."""
        return _fingerprint(self)

    def typical_side(self, sample=64):
        """The median of the shorter sides of some pictures, in pixels."""
        order = np.linspace(0, len(self) - 1, min(sample, len(self))).astype("int64")
        return batches.typical_side(self._raw(order))

    @functools.cached_property
    def _tensor(self):
        """The pictures or their names, once for all pipelines, in the memory of the host."""
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(self.pictures)

    def _raw(self, order):
        """Index, undecoded picture and one-hot label, in the given order."""
        if self._inspection is None or self._inspection.whole[order].all():
            return _read(self, order)
        return read_inspecting(self._inspection, self.pictures, _targets(self), order)


def _read(split, order):
    """What `Split._raw` gives, of arrays and of files that are known to be whole."""
    stream = tf.data.Dataset.from_tensor_slices((order, split.labels[order]))
    pictures, classes, several = split._tensor, len(split.class_names), split.several
    in_memory = isinstance(split.pictures, np.ndarray)

    def read(i, label):
        raw = pictures[i] if in_memory else tf.io.read_file(pictures[i])
        return i, raw, tf.cast(label, tf.float32) if several else tf.one_hot(label, classes)

    return stream.map(batches.plainly(read), None if in_memory else tf.data.AUTOTUNE)


def _targets(split):
    """The function from an index to the labels of a picture as float32 `(classes,)`."""
    classes = np.arange(len(split.class_names))

    def target(i):
        row = split.labels[i] if split.several else classes == split.labels[i]
        return np.asarray(row, "float32")

    return target


def _fingerprint(split):
    if isinstance(split.pictures, np.ndarray):
        return _digest(split.labels.tobytes(), np.ascontiguousarray(split.pictures))
    names = "\0".join(map(os.path.basename, split.pictures)).encode()
    of_names = _digest(split.labels.tobytes(), names)
    if damage.are_many(split.pictures):
        return of_names
    return f"{of_names}-{_digest(chr(0).join(map(str, split.hashes)).encode())}"


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
