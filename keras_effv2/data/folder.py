"""A folder of class folders, with or without split folders above them."""

import os

import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2.data.carving import completed, identity, warn_of_case, warn_of_copies
from keras_effv2.data.damage import examine, warn_of
from keras_effv2.data.split import Data, Split
from keras_effv2.data.tables import composed
from keras_effv2.data.walking import (
    LeftOut,
    check_folder,
    find_folders,
    find_pictures,
    loose_pictures,
)

UNKNOWN = "unknown"  # folder of pictures of none of the classes
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}


def load_folder(path, validation, seed, strict):
    """Class sub-folders, with or without split folders above them."""
    check_folder(path)
    left_out = LeftOut()
    unknown = _unknown(path, strict)
    found = _find_splits(path, left_out)
    # what is not given is split off
    least = 1 + len({"validation", "test"} - set(found)) if validation else 1
    classes = {split: _find_classes(folder, left_out) for split, folder in found.items()}
    classes = classes or {"train": _find_classes(path, left_out)}
    everywhere = [os.path.realpath(folder) for own in classes.values() for folder in own.values()]
    names = tuple(classes["train"])
    if len(names) < 2:
        raise ValueError(
            f"{found.get('train', path)} has {len(names)} class folder(s) "
            f"({', '.join(names) or 'none'}); a classifier needs at least two: "
            "PATH/CLASS/picture.jpg."
        )
    splits = {}
    for split, own in classes.items():
        _check_classes(found.get(split), own, names)
        folders = [own[name] for name in names]
        needed = least if split == "train" else 1
        splits[split] = _read_classes(names, folders, everywhere, strict, needed, left_out)
    left_out.say(path)
    identify = identity(path, splits.values())
    warn_of_copies(splits, identify)
    splits = completed(splits, identify, validation, seed)
    if unknown:
        rows, hashes = np.zeros((len(unknown), len(names))), list(unknown.values())
        splits["unknown"] = Split(names, rows, list(unknown), hashes=hashes, several=True)
    return Data(f"folder:{path}", names, **splits)


def _unknown(path, strict):
    """Picture -> hash of a folder `unknown`, of none of the classes; damaged ones left out."""
    if UNKNOWN not in find_folders(path, LeftOut()):
        return {}
    folder = tf.io.gfile.join(path, UNKNOWN)
    found = find_pictures(folder)
    good = {file: known for file, known in examine(found, strict).items() if known is not None}
    if strict and len(good) < len(found):
        raise ValueError(
            f"{min(set(found) - set(good))} is damaged. Remove it, or leave out `strict`."
        )
    if len(good) < 2:
        raise ValueError(
            f"{folder} has {len(good)} usable picture(s); a folder {UNKNOWN!r} holds pictures of none "
            "of the classes, two at least. Add some, or call a class by another name."
        )
    logging.info("%s: %d pictures of none of the classes.", folder, len(good))
    return good


def _find_splits(path, left_out):
    """Split -> folder, as far as there are split folders, else an empty dictionary."""
    own = LeftOut()
    below = [name for name in find_folders(path, own) if name != UNKNOWN]
    found = {}
    for name in below:
        split = split_called(name)
        if split and find_folders(tf.io.gfile.join(path, name), LeftOut()):
            if split in found:
                raise ValueError(
                    f"{path} has two folders for one split, {found[split]!r} and {name!r}. Keep "
                    "one of them."
                )
            found[split] = name
    rest = [name for name in below if name not in found.values()]
    if "train" not in found:
        flat = [name for name in rest if split_called(name)]
        if flat and len(flat) + len(found) == len(below):
            raise ValueError(
                f"{path}/{flat[0]} has no class folders. Put its pictures into one folder a "
                f"class: {flat[0]}/CLASS/picture.jpg."
            )
        if found:
            raise ValueError(
                f"{path} has a folder {min(found.values())!r}, which looks like a split, but no "
                "folder 'train' with classes. Name the splits train, val and test, each with one "
                "sub-folder a class; or give the folder that holds the classes."
            )
        return {}
    like_classes = [
        name
        for name in rest
        if not split_called(name) and loose_pictures(tf.io.gfile.join(path, name))
    ]
    if len(found) == 1 and like_classes:
        raise ValueError(
            f"{path} has a folder {found['train']!r} of folders, as a split, beside a folder of "
            f"pictures, as a class ({like_classes[0]!r}). If {found['train']!r} is a class, put its "
            f"pictures directly into it; if it is the split, give {path}/{found['train']}."
        )
    left_out.add(own)
    left_out["no splits with class folders"] += [tf.io.gfile.join(path, name) for name in rest]
    return {split: tf.io.gfile.join(path, name) for split, name in found.items()}


def split_called(name):
    """Which split a name is one of, or None."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def _find_classes(path, left_out):
    """Class -> folder, in the order of the names; Unicode's ways to write a name are one."""
    classes = {}
    for name in find_folders(path, left_out):
        if name == UNKNOWN:
            continue
        known = composed(name)
        if known in classes:
            raise ValueError(
                f"{path} has two folders of class {known!r}, written {ascii(name)} and "
                f"{ascii(os.path.basename(classes[known]))} in Unicode. Put the pictures into one."
            )
        classes[known] = tf.io.gfile.join(path, name)
    warn_of_case(path, classes)
    left_out["pictures outside of class folders"] += loose_pictures(path)
    return dict(sorted(classes.items()))


def _check_classes(path, classes, names):
    """Refuses a split that has other classes than the training split."""
    if set(classes) == set(names):
        return
    missing, unexpected = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
    small = {name.lower().strip() for name in missing}
    alike = [name for name in unexpected if name.lower().strip() in small]
    hint = f" {alike[0]!r} differs only in case or spaces." if alike else ""
    raise ValueError(
        f"{path} has other classes than the training split: missing {missing or 'none'}, unexpected "
        f"{unexpected or 'none'}.{hint} Give every split the same class folders."
    )


def _read_classes(class_names, folders, everywhere, strict, least, left_out):
    """One split, at least so many pictures a class."""
    found, ignored = [], []
    for folder in folders:
        own = LeftOut()
        others = [other for other in everywhere if other != os.path.realpath(folder)]
        found.append(find_pictures(folder, others, own))
        ignored.append(own)
        left_out.add(own)
    hashes = examine([file for own in found for file in own], strict)
    files, labels, skipped = [], [], []
    for label, (folder, own) in enumerate(zip(folders, found, strict=True)):
        good = [file for file in own if hashes[file] is not None]
        bad = [file for file in own if hashes[file] is None]
        if bad and strict:
            raise ValueError(
                f"{bad[0]} is damaged, unreadable or too large. Remove it, or leave out `strict`."
            )
        if len(good) < least:
            counts = [f"{len(bad)} damaged, unreadable or too large"]
            counts += [f"{len(paths)} {reason}" for reason, paths in ignored[label].items()]
            raise ValueError(
                f"The class folder {folder} has {len(good)} usable picture(s) "
                f"({', '.join(counts)}); a class needs at least {least} here."
            )
        skipped += bad
        files += good
        labels += [label] * len(good)
    warn_of(skipped)
    return Split(class_names, labels, files, skipped, hashes=[hashes[file] for file in files])
