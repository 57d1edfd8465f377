"""Data sets of TensorFlow Datasets that are prepared on this machine."""

import functools
import hashlib

import numpy as np
import tensorflow as tf

from keras_effv2 import needs
from keras_effv2.data.folder import SPLITS
from keras_effv2.data.split import Data, Split

IN_MEMORY = 4 * 2**30  # bytes of a TFDS split that is read at once
SAMPLE = 20_000  # labels that are enough to know how frequent the classes are


def load_tfds(name, validation, seed):
    """A TFDS set that is prepared here: read into memory, or one by one from array_record files."""
    with needs.naming(f"tfds:{name}"):
        import tensorflow_datasets as tfds
    try:
        builder = tfds.builder(name, try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError:
        raise ValueError(f"TFDS has no data set {name!r}. See tfds.list_builders().") from None
    if not tf.io.gfile.isdir(str(builder.data_dir)):
        advice = (
            'Prepare it once: python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}').download_and_prepare()\""
        )
        if name.startswith("cars196"):
            advice = (
                "Its official download is gone: put your copies of car_ims.tgz and cars_annos.mat "
                "into a folder and use cars:PATH"
            )
        raise FileNotFoundError(f"tfds:{name} is not prepared in {builder.data_dir}. {advice}.")
    image, label, names = _tfds_features(name, builder.info.features, tfds)
    decoders = {image: tfds.decode.SkipDecoding()}

    def split(key):
        info = builder.info.splits[key]
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            return _Records(names, builder.as_data_source(key, decoders=decoders), image, label)
        if info.num_bytes > IN_MEMORY:
            raise ValueError(
                f"tfds:{name}/{key} has {info.num_bytes / 2**30:.0f} GiB, too much for the memory, "
                f"and is stored as {builder.info.file_format.value}, which cannot be read in any "
                f"order. Convert it once: tfds convert_format --dataset_version_dir="
                f"{builder.data_dir} --out_file_format=array_record --out_dir=NEW/"
                f"{builder.info.full_name}, and set TFDS_DATA_DIR=NEW."
            )
        examples = builder.as_dataset(split=key, shuffle_files=False, decoders=decoders)
        return _Records(names, list(examples.as_numpy_iterator()), image, label)

    keys = {
        ours: next((k for k in theirs if k in builder.info.splits), None)
        for ours, theirs in SPLITS.items()
    }
    splits = {ours: split(key) for ours, key in keys.items() if key}
    splits = {ours: records for ours, records in splits.items() if records.is_labelled()}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    if not splits:
        raise ValueError(f"tfds:{name} has no split whose pictures have labels.")
    if "train" not in splits:
        return Data(f"tfds:{name}", names, None, test=splits.get("test"))
    if "test" not in splits and validation:
        splits["train"], splits["test"] = splits["train"].carve(validation, seed + 1)
    if "validation" not in splits and validation:
        splits["train"], splits["validation"] = splits["train"].carve(validation, seed)
    return Data(f"tfds:{name}", names, **splits)


def _tfds_features(name, features, tfds):
    """Names of the picture's and the label's feature, and the names of the classes."""
    image = next((k for k, v in features.items() if isinstance(v, tfds.features.Image)), None)
    for key, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence: several labels a picture
        if image is not None and isinstance(inner, tfds.features.ClassLabel):
            return image, key, tuple(inner.names)
    raise ValueError(
        f"tfds:{name} is not an image classification set: it has features {', '.join(features)}; "
        "wanted one image and class labels."
    )


class _Records(Split):
    """Pictures and labels that are fetched one by one; a picture may have several labels.

    Args:
        class_names: Names of the classes.
        source: Sequence of dictionaries.
        image: Key of the encoded picture.
        label: Key of the class or classes.
        indices: Which records of the source these are; None for all.
    """

    def __init__(self, class_names, source, image, label, indices=None):
        self.class_names, self.skipped = tuple(class_names), ()
        self.source, self.image, self.label = source, image, label
        self.indices = np.arange(len(source)) if indices is None else indices

    def __len__(self):
        return len(self.indices)

    def select(self, indices):
        own = self.indices[indices]
        return _Records(self.class_names, self.source, self.image, self.label, own)

    def class_counts(self):
        """Pictures of each class, of very many by a sample: their labels are read one by one."""
        return self._counts

    @functools.cached_property
    def _counts(self):
        few = np.random.default_rng(0).permutation(len(self))[:SAMPLE]
        labels = [np.atleast_1d(self.source[int(i)][self.label]) for i in self.indices[few]]
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
        return bool((np.atleast_1d(first) >= 0).all())

    def _raw(self, order):
        def fetch(position):
            record = self.source[int(self.indices[position])]
            target = np.zeros(len(self.class_names), "float32")
            target[np.atleast_1d(record[self.label])] = 1.0
            return record[self.image], target

        def read(i):
            raw, target = tf.numpy_function(fetch, [i], (tf.string, tf.float32), stateful=False)
            raw.set_shape(())
            target.set_shape((len(self.class_names),))
            return i, raw, target

        stream = tf.data.Dataset.from_tensor_slices(order)
        return stream.map(read, num_parallel_calls=tf.data.AUTOTUNE)
