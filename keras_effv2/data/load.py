"""Data sets by their descriptions."""

import os
import typing

import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import files, needs, stores
from keras_effv2.arguments import check_number
from keras_effv2.data import csv_files, elsewhere, frames
from keras_effv2.data.cars import load_cars
from keras_effv2.data.carving import carve_labels
from keras_effv2.data.folder import load_folder
from keras_effv2.data.shards import load_shards
from keras_effv2.data.split import Data, Split
from keras_effv2.data.tfds import load_tfds
from keras_effv2.data.walking import check_folder, is_text

if typing.TYPE_CHECKING:
    import pandas

_SHARDS = ("tfrecord", "webdataset")
_PATHS = ("folder", "cars", "csv", *_SHARDS)  # what is followed by a path
UNEQUAL = 10  # a class of so many times the pictures of another hides how the other fares


@needs.naming("Data")
def load(
    spec: "str | os.PathLike | pandas.DataFrame",
    *,
    validation: float = 0.1,
    seed: int = 0,
    strict: bool = False,
) -> Data:
    """Loads a data set by its description.

    Args:
        spec: `"digits"`: scikit-learn's 1,797 handwritten digits, embedded. `"folder:PATH"` (or
            just a path): class sub-folders, directly or under `train`, `validation` (or `val`) and
            `test`; a folder `unknown` beside them holds pictures of none of the classes.
            `"tfds:NAME"`: a TFDS image classification set that is prepared on this machine.
            `"cars:PATH"`: a folder with Stanford Cars' `car_ims.tgz` and `cars_annos.mat`.
            `"csv:FILE"` or a DataFrame of pandas: a table with a picture a row (column `image`,
            `file`, `path`, ..., from the table's folder), its `label`, and a `split` if there is
            one (`train`, `val`, `test`). Several labels a picture stand in a column `labels`,
            between `|`, `;`, `,` or spaces, or in columns of 0 and 1; a blank one is none. Other
            names: `"csv:FILE?image=COLUMN&label=COLUMN&split=COLUMN"`, `labels=COLUMN,COLUMN`.
            `"keras:cifar10"`, `"keras:cifar100"`: fetched, checked and kept by Keras.
            `"hf:NAME"` or `"hf:NAME:CONFIG"`, `"kaggle:OWNER/NAME"`: fetched and kept by `datasets`
            and kagglehub; of Kaggle a folder of classes.
            `"tfrecord:PATH"`: a folder with shards `train-00000-of-01024`, `validation-...` of
            `tf.train.Example`s and a `labels.txt` (a class a line); other features than the usual
            ones and labels from 1 on: `"tfrecord:PATH?image=FEATURE&label=FEATURE&first=1"`.
            `"webdataset:PATH"`: a folder with tars in which a name has a picture and its class, a
            number in `.cls` or `label` in `.json`; names of the classes in `labels.txt`. Both are
            read by random access, and damage is found while reading.
        validation: Part of the training pictures, in [0, 0.5), split off where no split is given:
            for a folder of classes, or of `train` alone, once for `validation` and once for `test`;
            with `train` and `val` only, a part of `train` becomes `validation` and `val` becomes
            `test`. With 0 nothing is split off: `train` has all that belongs to no other split.
        seed: Seed of the split.
        strict: Whether a damaged picture is an error; otherwise it is left out and named. Of more
            than 100,000 files (10,000 in a store) it makes the difference between reading all of them
            here, and each when it is needed: then the next whole one stands in for a damaged one.

    Returns:
        A `Data`.

    Raises:
        ValueError: If the description is unknown or the pictures cannot be used; says why, of a
            table with the row.
        FileNotFoundError: If the folder or the table does not exist.
        OSError: If a set cannot be fetched.
        ImportError: If a library is not installed; says which.

    Example:

    >>> load("digits").class_names[:3]
    ('0', '1', '2')
    """
    check_number("`validation`", validation, 0, 0.5)
    check_number("`seed`", seed, 0, 1 << 32, whole=True)
    if frames.is_frame(spec):
        return frames.load_frame(spec, validation, seed, strict)
    found = _load(spec, validation, seed, strict)
    _warn_of_unequal(found)
    return found


def _warn_of_unequal(data):
    split = data.train
    if getattr(split, "labels", None) is None or split.several:  # records that are read one by one
        return
    counts = split.class_counts()
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[many] >= UNEQUAL * max(1, counts[few]):
        logging.warning(
            "%s has %d training pictures of %s and %d of %s: accuracy hides how the few fare; look at "
            "the recall of each class.",
            data.name,
            counts[many],
            data.class_names[many],
            counts[few],
            data.class_names[few],
        )


def _load(spec, validation, seed, strict):
    kind, rest = _parse(spec)
    if kind == "digits":
        return _load_digits(validation, seed)
    if kind == "tfds":
        return load_tfds(rest, validation, seed)
    if kind in _SHARDS:
        return load_shards(kind, rest, validation, seed)
    if kind == "cars":
        return load_cars(rest, validation, seed, strict)
    if kind == "csv":
        return csv_files.load_csv(rest, validation, seed, strict)
    if kind == "keras":
        return elsewhere.load_keras(rest, validation, seed)
    if kind == "hf":
        return elsewhere.load_hugging_face(rest, validation, seed)
    if kind == "kaggle":
        return elsewhere.load_kaggle(rest, validation, seed, strict)
    if kind == "folder":
        if not is_text(rest):
            raise ValueError(f"{os.fsencode(rest)!r} is a name that is not UTF-8. Rename it.")
        return load_folder(rest, validation, seed, strict)
    raise _unknown(spec)


def _unknown(spec):
    return ValueError(
        f"No data set {str(spec)!r}: give 'digits', 'folder:PATH' (an existing folder with one "
        "sub-folder a class), 'csv:FILE', 'tfds:NAME', 'keras:cifar10', 'hf:NAME', "
        "'kaggle:OWNER/NAME', 'tfrecord:PATH', 'webdataset:PATH' or 'cars:PATH'."
    )


def check(spec):
    """Refuses a description of no data set, or of a path at which there is nothing; reads nothing.

    Args:
        spec: As `load`'s, a string.

    Raises:
        ValueError: If the description is unknown.
        FileNotFoundError: If there is no such folder or table.
        NotADirectoryError: If there is a file where a folder is wanted.
    """
    kind, rest = _parse(spec)
    if not kind:
        raise _unknown(spec)
    path = rest.partition("?")[0] if kind in ("csv", *_SHARDS) else rest
    if kind == "csv":
        csv_files.check_file(path)
    elif kind in _PATHS and is_text(path):
        check_folder(path)


def resolved(spec: str | os.PathLike) -> str:
    """The description of a data set with its path resolved: equal for what is the same data.

    Args:
        spec: As `load`'s, or the `name` of a `Data`.

    Example:

    >>> resolved("folder:photos/") == resolved("folder:./photos") == resolved("folder:photos")
    True
    """
    kind, rest = _parse(spec)
    if kind in _PATHS and not stores.is_address(rest):
        rest = os.path.realpath(rest)
    return f"{kind}:{rest}" if rest else str(spec)


def _parse(spec):
    """Kind of a data set and what follows it: a path has no `~` or `$NAME` and no slash at its end."""
    kind, _, rest = str(spec).partition(":")
    if str(spec) == "digits":
        return "digits", ""
    if kind in ("tfds", "keras", "hf", "kaggle") and rest:
        if stores.is_address(rest):
            raise ValueError(
                f"{kind}:NAME is the name of a set, no address. Received: {spec}. What lies in a store "
                "is folder:ADDRESS, csv:ADDRESS, tfrecord:ADDRESS or webdataset:ADDRESS."
            )
        return kind, rest
    if kind in ("csv", *_SHARDS) and rest:
        path, question, query = rest.partition("?")
        path = files.expand(path)
        path = path if stores.is_address(path) else os.path.normpath(path)
        return kind, path + question + query
    if kind in ("folder", "cars") and rest:
        path = files.expand(rest)
    else:
        kind, path = "folder", files.expand(str(spec))
        if not tf.io.gfile.isdir(path):
            return "", ""
    return kind, path if stores.is_address(path) else os.path.normpath(path)


def _load_digits(validation, seed):
    from sklearn import datasets

    digits = datasets.load_digits()
    pictures = np.repeat((digits.images * (255 / 16)).round().astype("uint8")[..., None], 3, -1)
    whole = Split([str(i) for i in range(10)], digits.target, pictures)
    if not validation:
        return Data("digits", whole.class_names, whole)
    train, held = carve_labels(whole, validation, seed)
    rest, test = carve_labels(train, validation / (1 - validation), seed + 1)
    return Data("digits", whole.class_names, rest, held, test)
