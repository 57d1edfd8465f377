"""Labels in a table of pandas, a DataFrame."""

import functools
import glob
import itertools
import os

import numpy as np

from keras_effv2 import files
from keras_effv2.data.carving import completed, identity, warn_of_case, warn_of_copies
from keras_effv2.data.damage import examine, warn_of
from keras_effv2.data.folder import SPLITS, split_called
from keras_effv2.data.split import Data, Split
from keras_effv2.data.tables import composed
from keras_effv2.stores import is_address

# names of columns that say what they hold, in any case; the first that is there counts
PICTURES = ("image", "picture", "file", "filename", "file_name", "path", "filepath", "image_path")
LABEL = ("label", "class", "category", "target", "class_name")
LABELS = ("labels", "tags", "classes", "categories")
SPLIT = ("split", "set", "subset")
SEPARATORS = ("|", ";", ",")  # between labels of one picture; else spaces


def load_frame(frame, validation, seed, strict, name="table", folder="", columns=None):
    """A DataFrame.

    Args:
        frame: The table; see `load`.
        validation: As `load`'s.
        seed: As `load`'s.
        strict: As `load`'s.
        name: What the table is called.
        folder: Where relative paths start from: the working directory by default.
        columns: Role (`"image"`, `"label"`, `"labels"`, `"split"`) -> names of columns, where they
            are given.
    """
    columns = columns or {}
    if not len(frame):
        raise ValueError(f"{name} has no rows.")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"{name} has two columns {twice!r}. Rename one of them.")
    image = _found(frame, name, "image", PICTURES, columns)
    split = _found(frame, name, "split", SPLIT, columns)
    class_names, labels, several = _labels(frame, name, columns, (image, split))
    _check_names(name, class_names)
    paths = _paths(frame, name, image, folder)
    parts = _parts(frame, name, split)
    splits = _splits(frame, name, (class_names, labels, several), paths, parts, strict)
    _check_training(name, splits, class_names)
    identify = identity(folder, splits.values())
    warn_of_copies(splits, identify)
    splits = completed(splits, identify, validation, seed)
    return Data(name, class_names, **splits)


def _check_names(name, class_names):
    """Refuses names of which no classifier can be made; says which differ only in case."""
    if len(class_names) < 2:
        raise ValueError(
            f"{name} has {len(class_names)} label(s) ({', '.join(class_names) or 'none'}); a "
            "classifier needs at least two."
        )
    broken = [label for label in class_names if "\n" in label]
    if broken:
        raise ValueError(
            f"{name} has a label of several lines, {broken[0][:40]!r}...: a quote opens it and closes "
            "too late."
        )
    warn_of_case(name, class_names)


def is_frame(spec):
    """Whether something is a DataFrame; pandas need not be installed to know that it is none."""
    return hasattr(spec, "columns") and hasattr(spec, "iloc")


def _splits(frame, name, targets, paths, parts, strict):
    """Name of a split -> its pictures that can be read."""
    class_names, labels, several = targets
    hashes, splits = examine(sorted(set(paths)), strict), {}
    bad = [i for i, path in enumerate(paths) if hashes[path] is None]
    if bad and strict:
        raise ValueError(
            f"{name}, row {_row(frame, bad[0])}: {paths[bad[0]]} is damaged, unreadable or too "
            "large. Remove the row, or leave out `strict`."
        )
    for part in SPLITS:
        rows = [i for i in np.flatnonzero(parts == part) if hashes[paths[i]] is not None]
        if rows:
            kept = [paths[i] for i in rows]
            skipped = [paths[i] for i in bad if parts[i] == part]
            own = {"hashes": [hashes[file] for file in kept], "several": several}
            splits[part] = Split(class_names, labels[rows], kept, skipped, **own)
    warn_of([paths[i] for i in bad])
    return splits


def _check_training(name, splits, class_names):
    if "train" not in splits:
        raise ValueError(f"{name} has no training pictures that can be read: split 'train'.")
    counts = splits["train"].class_counts()
    if not counts.all():
        raise ValueError(
            f"{name} has no training picture of {class_names[int(counts.argmin())]!r}: each label "
            "needs one."
        )


def _found(frame, name, role, known, columns):
    """The column of a role: as said, else by its name; None for a split that there is not."""
    if role in columns:
        return _named(frame, name, columns[role])
    small = {str(column).strip().lower(): column for column in frame.columns}
    found = next((small[key] for key in known if key in small), None)
    if found is None and role != "split":
        raise _missing(frame, name, role, known)
    return found


def _missing(frame, name, role, known):
    return ValueError(
        f"{name} has no column that is called {', '.join(known)}; its columns: "
        f"{_listed(frame)}. Name it: csv:FILE?{role}=COLUMN, or rename it."
    )


def _named(frame, name, column):
    if column not in frame.columns:
        raise ValueError(f"{name} has no column {column!r}; its columns: {_listed(frame)}.")
    return column


def _listed(frame):
    return ", ".join(map(str, frame.columns[:12])) + (" ..." if len(frame.columns) > 12 else "")


def _labels(frame, name, columns, others):
    """Names of the classes; labels as integers or rows of 0 and 1; whether there may be several."""
    small = {str(column).strip().lower(): column for column in frame.columns}
    if "label" in columns or ("labels" not in columns and any(key in small for key in LABEL)):
        return _single(frame, name, _found(frame, name, "label", LABEL, columns))
    said = columns.get("labels")
    if said is None:
        said = next((small[key] for key in LABELS if key in small), None)
    if said is None:
        rest = [column for column in frame.columns if column not in others]
        if len(rest) < 2 or not all(_is_binary(frame[column]) for column in rest):
            raise _missing(frame, name, "label", LABEL + LABELS)
        return _of_columns(frame, name, rest)
    if said in frame.columns:
        return _of_lists(frame[said])
    return _of_columns(frame, name, [_named(frame, name, one) for one in said.split(",")])


def _single(frame, name, column):
    texts = [_label(value) for value in frame[column]]
    if "" in texts:
        raise ValueError(
            f"{name}, row {_row(frame, texts.index(''))}: the label ({column}) is blank. Fill it in "
            "or remove the row."
        )
    names = _in_order(set(texts))
    number = {text: i for i, text in enumerate(names)}
    return names, np.array([number[text] for text in texts]), False


def _in_order(names):
    """Names as they are sorted; whole numbers by size, so that 0 to k-1 keep theirs."""
    numbers = all(text.isascii() and text.isdigit() and str(int(text)) == text for text in names)
    return tuple(sorted(names, key=int if numbers else str))


def _of_lists(values):
    """Labels that stand in one column; a blank one is none."""
    if all(isinstance(value, (list, tuple, set, np.ndarray)) for value in values):
        found = [[_label(one) for one in value] for value in values]
    else:
        texts = [_label(value) for value in values]
        separator = next((s for s in SEPARATORS if any(s in text for text in texts)), None)
        found = [[part.strip() for part in text.split(separator)] for text in texts]
    found = [set(filter(None, row)) for row in found]
    names = _in_order(set().union(*found))
    rows = np.array([[name in row for name in names] for row in found], "int8")
    return names, rows.reshape(len(found), len(names)), True


def _of_columns(frame, name, columns):
    """Labels that have a column each, of 0 and 1."""
    for column in columns:
        if not _is_binary(frame[column]):
            raise ValueError(
                f"{name}: the column {column!r} is no label of 0 and 1. Give the columns of labels: "
                "csv:FILE?labels=COLUMN,COLUMN."
            )
    rows = np.stack([[_text(x) in _YES for x in frame[column]] for column in columns], 1)
    return tuple(map(str, columns)), rows.astype("int8"), True


_YES, _NO = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false")


def _is_binary(values):
    return all(_text(value) in _YES + _NO for value in values)


def _label(value):
    """A label as text; Unicode's ways to write it are one."""
    return composed(_text(value))


def _text(value):
    """A cell as text; "" for a missing one."""
    import pandas

    missing = value is None or (pandas.api.types.is_scalar(value) and pandas.isna(value))
    return "" if missing else str(value).strip()


def _paths(frame, name, column, folder):
    """The pictures, from the table's folder; of missing ones the first is named."""
    paths, is_there = [], _finder()
    for i, value in enumerate(frame[column]):
        text = os.path.expanduser(
            _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
        )
        path = text if is_address(text) else os.path.join(folder, text)
        if not text or not is_there(path):
            what = f"there is no picture {path}" if text else f"the picture ({column}) is blank"
            raise ValueError(f"{name}, row {_row(frame, i)}: {what}. {_advice(path)}")
        paths.append(path)
    return paths


def _advice(path):
    """What to do about a picture that is not there."""
    slashes = path.replace("\\", "/")
    if is_address(path):
        return "Check the address."
    if slashes != path and os.path.isfile(slashes):
        return f"{slashes} is there: write / between folders."
    longer = sorted(glob.glob(f"{glob.escape(path)}.*"))
    if longer:
        return f"{longer[0]} is there: write names with their endings."
    return "Paths start from the folder of the table."


def _finder():
    """A function that says whether a file is there; of a store it lists a folder once."""

    @functools.cache
    def names(folder):
        return {path.name for path in files.place(folder, "A picture").glob("*")}

    def is_there(path):
        folder, _, name = path.rpartition("/")
        return name in names(folder) if is_address(path) else os.path.isfile(path)

    return is_there


def _parts(frame, name, column):
    """`"train"`, `"validation"` or `"test"` of every row."""
    if column is None:
        return np.full(len(frame), "train")
    parts = [split_called(_text(value)) for value in frame[column]]
    if None in parts:
        i = parts.index(None)
        raise ValueError(
            f"{name}, row {_row(frame, i)}: the split ({column}) is {_text(frame[column].iloc[i])!r}; "
            f"splits are {', '.join(itertools.chain(*SPLITS.values()))}."
        )
    return np.array(parts)


def _row(frame, position):
    """What to call a row: its line in the file; of a frame, its index, or its number from 1 on."""
    index = frame.index[position]
    if isinstance(index, str):
        return repr(index)
    return position + 1 if index == position else index
