"""Parts of a data set that are held out: copies of a picture stay together."""

import hashlib

import numpy as np
from absl import logging

from keras_effv2.data import damage


def identity(root, splits):
    """The function that tells which files are the same picture, by content.

    Very many are told by their names below `root`, wherever that is mounted.
    """
    if sum(map(len, splits)) > damage.MANY:
        return lambda file: hashlib.sha256(file.removeprefix(root).lstrip("/").encode()).hexdigest()
    return {
        file: found
        for split in splits
        for file, found in zip(split.pictures, split.hashes, strict=True)
    }.__getitem__


def carve_files(split, part, seed, identify):
    """Splits off `part` of every class; files of one identity stay together."""
    digests = [hashlib.sha256(f"{seed}{identify(f)}".encode()).hexdigest() for f in split.pictures]
    distinct, pictures = np.unique(np.array(digests, "S64"), return_inverse=True)
    held = np.zeros(len(distinct), bool)
    order = np.argsort(split.labels, kind="stable")
    ends = np.searchsorted(split.labels[order], np.arange(1, len(split.class_names)))
    classes = [pictures[own] for own in np.split(order, ends)]
    for own in map(np.unique, classes):
        count = min(max(1, round(part * len(own))), len(own) - 1)
        free = own[~held[own]]
        more = count - (len(own) - len(free))  # copies in other classes may be held already
        held[free[: max(0, more)]] = True
    for own, name in zip(classes, split.class_names, strict=True):
        if held[own].all() or not held[own].any():
            raise ValueError(
                f"Class {name!r} has too few different pictures to hold some out; copies stay "
                "together. Add pictures."
            )
    held = held[pictures]
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def warn_of_duplicates(splits, identify):
    """Says how many pictures are in two splits, and names two."""
    seen, copies = {}, []
    for name, split in splits.items():
        for file in split.pictures:
            other = seen.setdefault(identify(file), (name, file))
            if other[0] != name:
                copies.append((name, file, *other))
    if copies:
        name, file, other_name, other = copies[0]
        logging.warning(
            "%d pictures are in two splits, such as %s (%s) and %s (%s): results on them mean "
            "little. Leave them in one.",
            len(copies),
            file,
            name,
            other,
            other_name,
        )
