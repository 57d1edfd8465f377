"""The part of a data set that a model was not trained on."""

import dataclasses
import os

from absl import logging

from keras_effv2 import data as data_sets
from keras_effv2 import files
from keras_effv2.data import Data
from keras_effv2.data.carving import halves
from keras_effv2.data.split import of_names
from keras_effv2.training import state


def unseen(data: str, model_file: str | os.PathLike | None, *, strict: bool = False) -> Data:
    """Finds the part of a data set that a model was not trained on.

    Args:
        data: As `keras_effv2.data.load`'s: `"folder:PATH"`, `"tfds:NAME"`, `"cars:PATH"` or
            `"digits"`.
        model_file: File of the model in the workdir of its run; of another model, a tag or None,
            nothing is known.
        strict: As `keras_effv2.data.load`'s.

    Returns:
        A `Data`. If the run was trained on this data set, its splits are those of the training, and
        of pictures of none of the classes it has those by which no threshold was chosen.
        Otherwise those that the data set comes with are whole; without any, `test` is all of it.

    Raises:
        ValueError: If the data set cannot be used.
        FileNotFoundError: If there is none.

    Example:

    >>> len(unseen("digits", None).test)
    1797
    """
    learnt = learnt_from(model_file or "")
    if learnt:
        try:
            parts = data_sets.load(data, strict=strict)
        except ValueError:  # too few to be split, so nothing was trained on them
            parts = None
        if parts and parts.train:
            own = parts.train.fingerprint()
            if {own, of_names(own)} & learnt:
                if parts.unknown is None:
                    return parts
                return dataclasses.replace(parts, unknown=halves(parts.unknown)[1])
            if data_sets.resolved(parts.name) in learnt:
                logging.warning(
                    "%s was trained on %s split in another way, or changed since: some of what it "
                    "is evaluated on may have been trained on.",
                    model_file,
                    parts.name,
                )
                return parts
    whole = data_sets.load(data, validation=0, strict=strict)
    if whole.validation or whole.test:
        return whole
    logging.info("All of %s is evaluated.", whole.name)
    return dataclasses.replace(whole, test=whole.train)


def learnt_from(model_file: str | os.PathLike) -> set[str]:
    """What the run that a file lies in says of its data: name, path and fingerprint; empty if none."""
    if files.expand(model_file).startswith("hf://"):
        return set()
    path = files.place(model_file, "A model file").resolve()
    if not path.exists():  # a tag, or nothing
        return set()
    said: dict = {}
    folders = (path, path.parent) if path.is_dir() else (path.parent,)  # of a run, or its export
    for file in (folder / name for folder in folders for name in ("summary.json", "recipe.json")):
        try:
            said |= state.read_json(file) or {}
        except ValueError as error:  # of another program, perhaps
            logging.warning("%s What the model was trained on is not known from it.", error)
    if "data" in said and "data_path" not in said:  # of an earlier version
        said["data_path"] = data_sets.resolved(said["data"])
    return {said[key] for key in ("data_path", "training data") if said.get(key)}
