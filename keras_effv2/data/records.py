"""Pictures and labels that are fetched one by one from a sequence of records."""

import functools
import hashlib

import numpy as np
import tensorflow as tf

from keras_effv2.data.folder import SPLITS
from keras_effv2.data.split import Split

SAMPLE = 20_000  # labels that are enough to know how frequent the classes are


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


class Records(Split):
    """Pictures and labels that are fetched one by one; a picture may have several labels.

    Args:
        class_names: Names of the classes.
        source: Sequence of dictionaries.
        image: Key of the encoded picture.
        label: Key of the class or classes.
        several: Whether a picture may have any number of classes.
        indices: Which records of the source these are; None for all.
    """

    def __init__(self, class_names, source, image, label, several=False, indices=None):
        self.class_names, self.skipped, self.several = tuple(class_names), (), several
        self.source, self.image, self.label = source, image, label
        self.indices = np.arange(len(source)) if indices is None else indices

    def __len__(self):
        return len(self.indices)

    def select(self, indices):
        own = self.indices[indices]
        return Records(
            self.class_names, self.source, self.image, self.label, self.several, indices=own
        )

    def class_counts(self):
        """Pictures of each class, of very many by a sample: their labels are read one by one."""
        return self._counts

    @functools.cached_property
    def _counts(self):
        few = np.random.default_rng(0).permutation(len(self))[:SAMPLE]
        labels = [self._classes(self.source[int(i)]) for i in self.indices[few]]
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
        first = self.source[int(self.indices[0])][self.label]
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

    def _raw(self, order):
        def fetch(position):
            record = self.source[int(self.indices[position])]
            target = np.zeros(len(self.class_names), "float32")
            target[self._classes(record)] = 1.0
            return record[self.image], target

        def read(i):
            raw, target = tf.numpy_function(fetch, [i], (tf.string, tf.float32), stateful=False)
            raw.set_shape(())
            target.set_shape((len(self.class_names),))
            return i, raw, target

        stream = tf.data.Dataset.from_tensor_slices(order)
        return stream.map(read, num_parallel_calls=tf.data.AUTOTUNE)
