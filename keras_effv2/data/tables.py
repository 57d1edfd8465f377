"""A table of labels and pictures, as people give it: right, or refused when it is given."""

import collections
import contextlib
import os
import unicodedata
from collections.abc import Iterable

import numpy as np

from keras_effv2 import files, stores
from keras_effv2.arguments import check_kind, check_names


def check_table(labels, pictures, classes, several=False):
    """Labels and pictures as `check_labels` and `check_pictures` give them, as many of each."""
    check = check_rows if several else check_labels
    labels, pictures = check(labels, classes), check_pictures(pictures)
    if len(labels) != len(pictures):
        raise ValueError(
            f"There are {len(labels)} labels for {len(pictures)} pictures. Give one label a "
            "picture."
        )
    return labels, pictures


def check_class_names(class_names):
    """Names of classes as a tuple; refuses a single text, no name, no text, and a name twice."""
    names = check_names("class_names", class_names)
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if isinstance(class_names, str) or not names or twice:
        what = f"{twice[0]!r} twice" if twice else repr(class_names)
        raise ValueError(f"`class_names` is a list of names, each once. Received: {what}.")
    return names


def composed(name):
    """A name as most systems write it: some spell an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)


def check_labels(labels, classes):
    """Labels as an array of int64; refuses what is not one class a picture."""
    found = np.asarray(labels)
    if found.ndim == 2 and found.shape[1] == classes > 1:
        raise ValueError(
            f"`labels` is one integer a picture. Received rows of {classes} values, as one-hot "
            f"labels have: give labels.argmax(1), or several=True where a picture has any number of "
            "labels."
        )
    if found.ndim != 1:
        raise ValueError(f"`labels` is one integer a picture, (n,). Received shape {found.shape}.")
    if found.dtype == object:
        with contextlib.suppress(TypeError, ValueError):
            found = found.astype("float64")
    if found.dtype.kind not in "iuf":
        raise ValueError(
            f"`labels` is one integer a picture. Received {found.dtype}, such as "
            f"{found[:1].tolist()}: give the position of each name in `class_names`."
        )
    wrong = ~((found == np.floor(found)) & (found >= 0) & (found < classes))
    if wrong.any():
        raise ValueError(
            f"`labels` are integers in 0 .. {classes - 1}, for {classes} classes. Received "
            f"{found[wrong][0]} (picture {int(np.argmax(wrong))}), and {int(wrong.sum())} such in "
            "all."
        )
    return found.astype("int64")


def check_rows(labels, classes):
    """Labels of which a picture may have several, or none, as 0 and 1: int8 `(n, classes)`."""
    found = np.asarray(labels)
    if found.ndim != 2 or found.shape[1] != classes or found.dtype.kind not in "biuf":
        raise ValueError(
            f"With several=True `labels` is an array of 0 and 1, (n, {classes}). Received: "
            f"{found.dtype} {found.shape}."
        )
    wrong = (found != 0) & (found != 1)
    if wrong.any():
        row = int(np.argmax(wrong.any(1)))
        raise ValueError(
            f"With several=True `labels` are 0 and 1. Received {found[wrong][0]} (picture {row})."
        )
    return found.astype("int8")


def check_pictures(pictures):
    """Pictures as a uint8 array or a list of file names; refuses what is neither."""
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind not in "OUS":
        shape = pictures.shape
        if pictures.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not all(shape[1:]):
            raise ValueError(
                "`pictures` is an array of pixels 0..255, uint8 (n, height, width, 3), or a list of "
                f"file names. Received: {pictures.dtype} {shape}. Scale pixels in 0..1 by "
                "255 and cast them; repeat the channel of grey pictures three times."
            )
        return pictures
    if isinstance(pictures, (str, bytes, os.PathLike)):
        raise ValueError(f"`pictures` has one file name a picture. Received one: {pictures!r}.")
    wanted = "a uint8 array (n, height, width, 3) or a list of file names"
    check_kind("pictures", pictures, Iterable, wanted)
    names = []
    for name in pictures:
        is_name = isinstance(name, (str, bytes, os.PathLike))
        name = os.fsdecode(name) if is_name else type(name).__name__
        if not is_name or "\0" in name:
            what = "the content of a file" if is_name else name
            raise ValueError(
                f"`pictures` is {wanted}. Received a list with {what} at position {len(names)}."
            )
        names.append(files.expand(name) if name.startswith(("~", "$")) else name)
    for name in names:
        _check_file(name)
    return names


def _check_file(name):
    """Refuses what is no file here; what cannot be looked at is named when it is read."""
    try:
        files.check_regular(name)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not stores.is_address(name):
            raise FileNotFoundError(
                f"`pictures` names {name!r}, and there is no such file."
            ) from None
