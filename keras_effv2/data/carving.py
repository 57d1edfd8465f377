"""Parts of a data set that are held out: copies of a picture stay together."""

import hashlib

import numpy as np
from absl import logging

from keras_effv2.data import damage


def identity(root, splits):
    """The function that tells which files are the same picture, by content.

    Very many are told by their names below `root`, wherever that is mounted.
    """
    unread = any(damage.UNREAD in split.hashes for split in splits)
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


def warn_of_copies(splits, identify):
    """Says how many pictures are in two splits, and how many in two classes; names two of each."""
    seen, in_splits, in_classes = {}, [], []
    for name, split in splits.items():
        labels = [None] * len(split) if split.several else split.labels.tolist()
        for file, label in zip(split.pictures, labels, strict=True):
            own = (name, label, file)
            other = seen.setdefault(identify(file), own)
            if other[0] != name:
                in_splits.append((own, other))
            if other[1] != label:
                in_classes.append((own, other))
    if in_splits:
        (name, _, file), (other_name, _, other) = in_splits[0]
        logging.warning(
            "%d pictures are in two splits, such as %s (%s) and %s (%s): results on them mean "
            "little. Leave them in one.",
            len(in_splits),
            file,
            name,
            other,
            other_name,
        )
    if in_classes:
        (name, label, file), (_, other_label, other) = in_classes[0]
        names = splits[name].class_names
        logging.warning(
            "%d pictures are in two classes, such as %s (%s) and %s (%s): one of the two is wrong, "
            "unless a picture may have several labels; then a table says so.",
            len(in_classes),
            file,
            names[label],
            other,
            names[other_label],
        )


def warn_of_case(source, class_names):
    """Names classes that differ only in case."""
    small = {}
    for name in class_names:
        other = small.setdefault(name.lower(), name)
        if other != name:
            logging.warning(
                "%s: classes %r and %r differ only in case; if they are one, give it one name.",
                source,
                other,
                name,
            )
