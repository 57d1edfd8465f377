"""Where the pictures in TFRecord files and tar archives begin: found once, and kept."""

import hashlib
import json
import os
import tarfile
import typing

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from keras_effv2 import weights
from keras_effv2.files import open_regular, replacing

_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff")
_CLASSES = ("cls", "json")


class Places(typing.NamedTuple):
    """Where the pictures are, arrays `(n,)`, in the order of the files.

    Attributes:
        file: Which file of those given, int32.
        start: Its first byte, int64.
        length: Bytes, int64.
        label: Class, int64; of TFRecord files, which have it inside the record, -1.
    """

    file: np.ndarray
    start: np.ndarray
    length: np.ndarray
    label: np.ndarray


def find(files, kind):
    """The places of all pictures of some files, from what was kept unless a file has changed.

    Args:
        files: Paths, local or of a bucket.
        kind: `"tfrecord"` or `"webdataset"`.

    Raises:
        ValueError: If a file is not of the kind, or cut off.
    """
    kept = weights.home() / "offsets" / f"{_state_of(files, kind)}.npy"
    if kept.exists():
        try:
            return _places(np.load(kept))
        except (ValueError, EOFError, OSError) as error:
            logging.warning("%s is damaged (%s): it is made anew.", kept, error)
    parts = [np.zeros((0, len(Places._fields)), "int64")]
    for number, path in enumerate(tqdm.tqdm(files, "finding pictures", delay=5, disable=None)):
        with open_regular(path) as file:
            rows = [(number, *place) for place in _SCANS[kind](path, file)]
        parts.append(np.array(rows, "int64").reshape(-1, len(Places._fields)))
    table = np.concatenate(parts)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            np.save(temporary, table)
    except OSError as error:
        logging.warning("Pictures are found anew next time, as: %s.", error.strerror)
    return _places(table)


def _places(table):
    return Places(table[:, 0].astype("int32"), *np.ascontiguousarray(table[:, 1:].T))


def _state_of(files, kind):
    """A hash that changes when the size or the time of a file does."""
    digest = hashlib.sha256(kind.encode())
    for path in files:
        state = tf.io.gfile.stat(path)
        digest.update(f"{path}\0{state.length}\0{state.mtime_nsec}\0".encode())
    return digest.hexdigest()[:32]


def _tfrecords(path, file):
    """Length in 8 bytes, their checksum in 4, the record, its checksum in 4."""
    size, at = tf.io.gfile.stat(path).length, 0
    while at < size:
        file.seek(at)
        length = int.from_bytes(file.read(12)[:8], "little")
        if at + 16 + length > size:
            raise ValueError(
                f"{path} is no uncompressed TFRecord file, or is cut off: at byte {at:,} of {size:,} "
                f"a record of {length:,} begins. Write it again."
            )
        yield at + 12, length, -1
        at += 16 + length


def _samples(path, file):
    """Of a tar the members of one name before the first dot are a sample: a picture and its class."""
    key, place, label = None, None, None
    try:
        for member in tarfile.open(fileobj=file, mode="r:"):
            folder, name = os.path.split(member.name)
            stem, _, extension = name.partition(".")
            if not member.isfile() or not stem:
                continue
            if (folder, stem) != key:
                if key is not None:
                    yield _sample(path, key, place, label)
                key, place, label = (folder, stem), None, None
            kind = extension.lower().rpartition(".")[2]
            if kind in _PICTURES:
                place = member.offset_data, member.size
            elif kind in _CLASSES:
                file.seek(member.offset_data)
                label = _class(file.read(member.size), kind, f"{path}: {member.name}")
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no uncompressed tar, or is cut off ({error}).") from None
    if key is not None:
        yield _sample(path, key, place, label)


def _sample(path, key, place, label):
    if place is None or label is None:
        missing = "picture (.jpg, .png, ...)" if place is None else "class (.cls or .json)"
        raise ValueError(f"{path}: {'/'.join(filter(None, key))} has no {missing}.")
    return *place, label


def _class(content, kind, name):
    """The class in a `.cls` file, a number, or in a `.json` file, `{"label": number}`."""
    try:
        if kind == "cls":
            return int(content)
        found = json.loads(content)
        return None if "label" not in found else int(found["label"])
    except (ValueError, TypeError):
        raise ValueError(f"{name} holds no class number. Received: {content[:40]!r}.") from None


_SCANS = {"tfrecord": _tfrecords, "webdataset": _samples}
