"""Pictures and labels that are fetched one by one from a sequence of records."""

import functools
import hashlib

import numpy as np
import tensorflow as tf

from keras_effv2.data.folder import SPLITS
from keras_effv2.data.inspection import Inspection
from keras_effv2.data.split import Split

SAMPLE = 20_000  # labels that are enough to know how frequent the classes are
BLOCK = 16  # records that are read at once


def splits_of(keys, records_of, validation, seed):
    """The splits of a set of records, by our names.

    Args:
        keys: Names of its splits.
        records_of: Function of a name that gives `Records`.
        validation: Part of the training records for a split that there is not; 0 for none.
        seed: Seed of that part.

    Returns:
        A dictionary of those that have labels. A validation split without a test split is the test.
    """
    splits = {}
    for ours, theirs in SPLITS.items():
        key = next((key for key in theirs if key in keys), None)
        if key is not None and (records := records_of(key)).is_labelled():
            splits[ours] = records
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    for split, offset in (("test", 1), ("validation", 0)):
        if validation and "train" in splits and split not in splits:
            splits["train"], splits[split] = splits["train"].carve(validation, seed + offset)
    return splits


def columns_of(name, features, image_kind, label_kind):
    """Which of a set's features are the picture and its class.

    Args:
        name: Of the set, such as `"tfds:mnist"`.
        features: Key -> feature, as TFDS and `datasets` describe them.
        image_kind: Their class of pictures.
        label_kind: Their class of labels.

    Returns:
        Key of the picture, key of the label, names of the classes, whether a picture has several.

    Raises:
        ValueError: If the set has not both.
    """
    image = next((key for key, x in features.items() if isinstance(x, image_kind)), None)
    for key, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence: several labels a picture
        if image is not None and isinstance(inner, label_kind):
            return image, key, tuple(inner.names), inner is not feature
    raise ValueError(
        f"{name} is not an image classification set: it has {', '.join(features)}; wanted an Image "
        "and a ClassLabel."
    )


class Records(Split):
    """Pictures and labels that are fetched by their numbers; a picture may have several labels.

    A picture that turns out to be damaged is named, and the next whole one stands in for it.

    Args:
        class_names: Names of the classes.
        source: Sequence of dictionaries; of many at once, if it has `__getitems__`.
        image: Key of the encoded picture.
        label: Key of the class or classes.
        several: Whether a picture may have any number of classes.
        indices: Which records of the source these are; None for all.
        inspection: The `Inspection` of the source's records; None for a new one.
    """

    def __init__(
        self, class_names, source, image, label, several=False, indices=None, inspection=None
    ):
        self.class_names, self.several = tuple(class_names), several
        self.source, self.image, self.label = source, image, label
        self.indices = np.arange(len(source)) if indices is None else indices
        self.inspection = inspection or Inspection(len(source), self._name)

    @property
    def skipped(self):
        """Names of the damaged pictures that were met so far."""
        return self.inspection.damaged_of(self.indices)

    def __len__(self):
        return len(self.indices)

    def select(self, indices):
        own = self.indices[indices]
        settings = self.source, self.image, self.label, self.several, own, self.inspection
        return Records(self.class_names, *settings)

    def class_counts(self):
        """Pictures of each class, of very many by a sample: their labels are read one by one."""
        return self._counts

    @functools.cached_property
    def _counts(self):
        few = np.random.default_rng(0).permutation(len(self))[:SAMPLE]
        blocks = (self.indices[few[at : at + BLOCK]] for at in range(0, len(few), BLOCK))
        labels = [self._classes(record) for block in blocks for record in self._records(block)]
        counts = np.bincount(np.concatenate(labels), minlength=len(self.class_names))
        return np.rint(counts * (len(self) / len(few))).astype("int64")

    def carve(self, part, seed):
        """Splits off a part at random."""
        order = np.random.default_rng(seed).permutation(len(self))
        count = round(part * len(self))
        return self.select(np.sort(order[count:])), self.select(np.sort(order[:count]))

    def fingerprint(self):
        """A hash of which records of how many these are."""
        whole = f"{len(self.source)} {self.image} {self.label}".encode()
        return hashlib.sha256(whole + self.indices.tobytes()).hexdigest()[:16]

    def is_labelled(self):
        """Whether the pictures have labels: contests keep those of test splits, and write -1."""
        first = self._records(self.indices[:1])[0][self.label]
        return first is not None and bool((np.atleast_1d(first) >= 0).all())

    def _classes(self, record):
        """The classes of a record: whole numbers, none for a picture without any of several."""
        label, count = record[self.label], len(self.class_names)
        classes = np.atleast_1d(np.asarray(label if label is not None else -1))
        classes = classes.astype("int64") if classes.size else np.zeros(0, "int64")
        if ((classes < 0) | (classes >= count)).any():
            raise ValueError(
                f"A label is from 0 to {count - 1}. Received: {self.label}={label!r}, which may mean "
                "that it is hidden; leave such pictures out."
            )
        return classes

    def _records(self, numbers):
        numbers = [int(number) for number in numbers]
        if hasattr(self.source, "__getitems__"):
            return self.source.__getitems__(numbers)
        return [self.source[number] for number in numbers]

    def _name(self, number):
        return self.source.name(number) if hasattr(self.source, "name") else f"record {number}"

    def _whole(self, positions):
        """The records at these positions, with the next whole one in place of a damaged one."""
        numbers = self.indices[positions]
        ahead = dict(zip(map(int, numbers), self._records(numbers), strict=True))

        def read(number):
            record = ahead.get(number) or self._records([number])[0]
            return record, record[self.image]

        return [self.inspection.first_whole(self.indices, at, read) for at in positions]

    def _raw(self, order):
        def fetch(positions):
            records = self._whole(positions)
            targets = np.zeros((len(records), len(self.class_names)), "float32")
            for target, record in zip(targets, records, strict=True):
                target[self._classes(record)] = 1.0
            return np.array([record[self.image] for record in records], object), targets

        def read(positions):
            raw, targets = tf.numpy_function(
                fetch, [positions], (tf.string, tf.float32), stateful=False
            )
            raw.set_shape((None,))
            targets.set_shape((None, len(self.class_names)))
            return positions, raw, targets

        stream = tf.data.Dataset.from_tensor_slices(order).batch(BLOCK)
        return stream.map(read, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
