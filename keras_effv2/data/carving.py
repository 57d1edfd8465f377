"""Parts of a data set that are held out: copies of a picture stay together."""

import hashlib

import numpy as np
from absl import logging

from keras_effv2.data import damage


def identity(root, splits):
    """The function that tells which files are the same picture, by content.

    Very many are told by their names below `root`, wherever that is mounted.
    """
    unread = any(damage.UNKNOWN in split.hashes for split in splits)
    if unread or sum(map(len, splits)) > damage.MANY:
        return lambda file: hashlib.sha256(file.removeprefix(root).lstrip("/").encode()).hexdigest()
    return {
        file: found
        for split in splits
        for file, found in zip(split.pictures, split.hashes, strict=True)
    }.__getitem__


def completed(splits, identify, validation, seed):
    """The splits by name with those that are missing split off the training pictures.

    Args:
        splits: `"train"`, and `"validation"` and `"test"` where they are given; what is called
            `validation` becomes `test` where there is no other, as it is looked at once.
        identify: Function that tells which files are the same picture, as `identity` gives.
        validation: Part of the training pictures for each missing split; 0: none is made.
        seed: Seed.
    """
    splits = dict(splits)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")  # looked at once, so it must not stop training
    part = validation
    for offset, split in enumerate(("validation", "test")):
        if split not in splits and validation:
            splits["train"], splits[split] = carve_files(
                splits["train"], part, seed + offset, identify
            )
            part = validation / (1 - validation)
    return splits


def carve_files(split, part, seed, identify):
    """Splits off `part` of every class; files of one identity stay together.

    A picture of several classes counts as one of that which is rarest.
    """
    digests = [hashlib.sha256(f"{seed}{identify(f)}".encode()).hexdigest() for f in split.pictures]
    distinct, pictures = np.unique(np.array(digests, "S64"), return_inverse=True)
    held = np.zeros(len(distinct), bool)
    labels, names = split.labels, split.class_names
    if split.several:
        labels, names = _rarest(split), (*names, "no label")
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(1, len(names)))
    classes = [pictures[own] for own in np.split(order, ends)]
    for own in map(np.unique, classes):
        count = max(0, min(max(1, round(part * len(own))), len(own) - 1))
        free = own[~held[own]]
        more = count - (len(own) - len(free))  # copies in other classes may be held already
        held[free[: max(0, more)]] = True
    for own, name in zip(classes, names, strict=True):
        if split.several:
            break  # a label may be that of one picture alone
        if held[own].all() or not held[own].any():
            raise ValueError(
                f"Class {name!r} has too few different pictures to hold some out; copies stay "
                "together. Add pictures."
            )
    held = held[pictures]
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def carve_labels(split, part, seed):
    """Splits off `part` of every class at random."""
    held = []
    for label in range(len(split.class_names)):
        own = np.flatnonzero(split.labels == label)
        count = min(max(1, round(part * len(own))), len(own) - 1)
        held.append(np.random.default_rng((seed, label)).permutation(own)[:count])
    held = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(len(split)), held)
    return split.select(rest), split.select(held)


def _rarest(split):
    """The rarest label of every picture, int array `(n,)`; number of classes for none."""
    counts = np.where(split.labels, split.class_counts(), len(split) + 1)
    return np.where(split.labels.any(1), counts.argmin(1), len(split.class_names))


def halves(split):
    """A split in two, always the same ones: to choose by, and to judge by what was chosen."""
    order = np.random.default_rng(0).permutation(len(split))
    return tuple(split.select(np.sort(own)) for own in np.split(order, [len(order) // 2]))


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
