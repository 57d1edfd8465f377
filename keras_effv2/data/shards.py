"""Sets of large files: TFRecord shards and tars of WebDataset, read by random access."""

import os
import re

import numpy as np
import tensorflow as tf

from keras_effv2 import needs
from keras_effv2.data import damage, offsets
from keras_effv2.data.csv_files import settings_of
from keras_effv2.data.folder import SPLITS
from keras_effv2.data.records import Records, splits_of
from keras_effv2.data.split import Data
from keras_effv2.data.walking import check_folder
from keras_effv2.files import open_regular

_NAMES = {"tfrecord": r"-\d{5}-of-\d{5}$|\.tfrecords?$", "webdataset": r"\.tar$"}
_IMAGES = ("image", "image/encoded", "image_raw", "jpg")
_LABELS = ("label", "labels", "image/class/label", "cls")
LABELS = "labels.txt"
_CHECKSUM = 4  # bytes


def load_shards(kind, rest, validation, seed):
    """The shards of a folder and of its sub-folders; the first word of a name tells the split.

    Args:
        kind: `"tfrecord"` or `"webdataset"`.
        rest: `PATH`, of TFRecords also `PATH?image=FEATURE&label=FEATURE&first=NUMBER`.
        validation: Part of the training pictures for a split that is not given.
        seed: Seed of that part.
    """
    path, _, query = rest.partition("?")
    known = ("image", "label", "first") if kind == "tfrecord" else ()
    takes = "image=, label= and first=" if known else "nothing"
    complaint = f"{kind}:PATH takes {takes} behind the question mark. Received: {query}."
    settings = settings_of(query, known, complaint)
    first = settings.get("first", "0")
    if not first.isdecimal():
        raise ValueError(
            f"first= is the number of the first class, such as 1. Received: {first!r}."
        )
    shards = _by_split(path, kind)
    places = {split: offsets.find(files, kind) for split, files in shards.items()}
    names = _class_names(path, kind, places)

    def records(split):
        if kind == "webdataset":
            pictures = Labelled(Ranges(shards[split], places[split]))
            return Records(names, pictures, "image", "label")
        examples = TFRecords(shards[split], places[split])
        image, label = _features(examples, settings)
        source = Examples(examples, image, label, int(first))
        return Records(names, source, image, label)

    splits = splits_of(shards, records, validation, seed)
    return Data(f"{kind}:{rest}", names, **{"train": None, **splits})


def _by_split(path, kind):
    """Split -> its files, in order."""
    check_folder(path)
    found = {}
    for folder, _, files in tf.io.gfile.walk(path):
        for name in files:
            if re.search(_NAMES[kind], name):
                file = tf.io.gfile.join(folder, name)
                words = re.split(r"[/\\._-]", file.removeprefix(path).lower())
                split = next((s for w in words for s, own in SPLITS.items() if w in own), None)
                found.setdefault(split, []).append(file)
    if None in found and len(found) > 1:
        raise ValueError(
            f"{found[None][0]} names no split, as {next(f[0] for s, f in found.items() if s)} does. "
            "Call shards train-..., validation-... or test-..., or none of them."
        )
    if not found:
        wanted = "NAME-00000-of-01024 or *.tfrecord" if kind == "tfrecord" else "*.tar"
        raise ValueError(f"{path} has no shards. Wanted: files {wanted}.")
    for files in found.values():
        _check_complete(files)
    return {split or "train": sorted(files) for split, files in found.items()}


def _check_complete(files):
    """Refuses `NAME-00000-of-01024` without all of its 1024."""
    numbered = {}
    for file in files:
        if match := re.search(r"(.*)-(\d{5})-of-(\d{5})$", file):
            numbered.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (stem, count), own in numbered.items():
        if missing := set(range(int(count))) - own:
            raise ValueError(
                f"{len(missing)} of {int(count)} shards are missing, such as "
                f"{stem}-{min(missing):05}-of-{count}. Get them."
            )


def _class_names(path, kind, places):
    """The lines of `labels.txt`; without it, of tars the numbers."""
    file = tf.io.gfile.join(path, LABELS)
    if tf.io.gfile.exists(file):
        return tuple(damage.read(file).decode().splitlines())
    if kind == "webdataset":
        return tuple(map(str, range(1 + max(int(own.label.max()) for own in places.values()))))
    raise FileNotFoundError(
        f"There is no {file}. Write one with the name of a class a line, in the order of the labels."
    )


def _features(examples, settings):
    """The keys of picture and label in the first whole record."""
    first = range(min(100, len(examples)))
    decoded = (_decoded(content) for i in first for content in examples.__getitems__([i]))
    found = next(filter(None, decoded), None)
    if found is None:
        raise ValueError(
            f"The first {len(first)} records of {examples.files[0]} are no tf.train.Example, or not "
            "what their checksums say. Write the set again."
        )
    keys = []
    for what, usual in (("image", _IMAGES), ("label", _LABELS)):
        key = settings.get(what) or next((key for key in usual if key in found), None)
        if key is None or (what == "image" and key not in found):  # a label may be missing in one
            raise ValueError(
                f"A record of {examples.files[0]} has the features {', '.join(sorted(found))}. Say "
                "which are the picture and its class: tfrecord:PATH?image=FEATURE&label=FEATURE."
            )
        keys.append(key)
    return keys


class Ranges:
    """Ranges of bytes of files.

    Args:
        files: Paths.
        places: An `offsets.Places`.
        order: Which place is the i-th; None: in the order of the files.
    """

    def __init__(self, files, places, order=None):
        self.files, self.places = [os.fspath(file) for file in files], places
        self.order = np.arange(len(places.start)) if order is None else order

    def __len__(self):
        return len(self.order)

    def __getitems__(self, indices):
        return [self._read(self.order[i]) for i in indices]

    def _read(self, place):
        with open_regular(self.files[self.places.file[place]]) as file:
            file.seek(int(self.places.start[place]))
            return file.read(int(self.places.length[place]))

    def name(self, index):
        """File and number of the picture in it."""
        place = self.order[index]
        file = self.places.file[place]
        return f"{self.files[file]}#{place - np.searchsorted(self.places.file, file)}"


class TFRecords(Ranges):
    """Records of TFRecord files, each with the checksum that follows it; b"" where it is another.

    A wrong byte within a JPEG can be another picture and no error. The checksum is CRC-32C, masked:
    https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
    """

    def __init__(self, files, places, order=None):
        longer = places._replace(length=places.length + _CHECKSUM)
        super().__init__(files, longer, order)
        with needs.naming("Reading TFRecord files"):
            from google_crc32c import value

        self._checksum = value

    def _read(self, place):
        content = super()._read(place)
        content, stored = content[:-_CHECKSUM], content[-_CHECKSUM:]
        checksum = self._checksum(content)
        masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
        return content if masked == int.from_bytes(stored, "little") else b""


class Examples:
    """Serialised `tf.train.Example`s as dictionaries of a picture's bytes and its classes.

    Args:
        source: Sequence of bytes that is read by `__getitems__`.
        image: Feature of the picture.
        label: Feature of the class, or of several.
        first: Number of the first class.
    """

    def __init__(self, source, image, label, first=0):
        self.source, self.image, self.label, self.first = source, image, label, first
        self.name = getattr(source, "name", "record {}".format)

    def __len__(self):
        return len(self.source)

    def __getitems__(self, indices):
        return [self._parsed(content) for content in self.source.__getitems__(indices)]

    def _parsed(self, content):
        features = _decoded(content)
        if features is None:
            return {self.image: b"", self.label: np.zeros(1, "int64")}  # a damaged picture
        image = features[self.image].bytes_list.value
        has_label = self.label in features
        label = np.array(features[self.label].int64_list.value, "int64") - self.first
        return {self.image: image[0] if image else b"", self.label: label if has_label else None}


def _decoded(content):
    """The features of a serialised example, or None if it is none."""
    try:
        return tf.train.Example.FromString(content).features.feature if content else None
    except Exception:  # DecodeError, of whichever protobuf is installed
        return None


class Labelled:
    """Ranges of bytes that are pictures, with the classes that their index knows."""

    def __init__(self, ranges):
        self.ranges, self.name = ranges, ranges.name

    def __len__(self):
        return len(self.ranges)

    def __getitems__(self, indices):
        labels = self.ranges.places.label[self.ranges.order[indices]]
        contents = self.ranges.__getitems__(indices)
        return [{"image": c, "label": n} for c, n in zip(contents, labels, strict=True)]
