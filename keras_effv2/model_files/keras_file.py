"""Opens a model that Keras saved, or says in one sentence why it cannot be opened."""

import json
import os
import re
import zipfile

import h5py
import keras
from packaging import version

from keras_effv2 import files


def load_keras(path: str | os.PathLike) -> keras.Model:
    """Loads a `.keras` or `.h5` file as `keras.models.load_model` does.

    Args:
        path: The file, here or in a store (`gs://...`); `~` and `$NAME` are replaced.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be loaded; names the cause: the innermost error of Keras, and the
            version that wrote the file if that is newer than the one here.
    """
    place = files.place(path, "A model file")
    if place.suffix in (".tflite", ".onnx") or place.is_dir():
        raise ValueError(
            f"{place} is no model that Keras saved, but an export or a folder: give the .keras file "
            "(`predict` and `evaluate` take exports too)."
        )
    files.check_model_file(place)
    if place.suffix not in (".keras", ".h5", ".hdf5"):
        raise ValueError(
            f"{place} is no model by its name: models end in .keras or .h5, exports in .tflite or .onnx, "
            "and a SavedModel is a folder. Unpack or rename it."
        )
    with files.fetched(place) as copy:
        if place.suffix != ".keras":
            _check_hdf5(copy, place)
        try:
            return keras.models.load_model(str(copy))
        except Exception as error:  # of any class: what a file holds decides what fails
            raise ValueError(f"{place} cannot be loaded: {_writer(copy)}{_cause(error)}") from error


def _check_hdf5(file, name):
    """Refuses an HDF5 file that is cut off, or holds no network."""
    try:
        with h5py.File(file) as root:
            if "model_config" in root.attrs:
                return
    except OSError:
        raise ValueError(
            f"{name} is no whole HDF5 file. It may be cut off: get it again."
        ) from None
    raise ValueError(
        f"{name} holds weights alone, no network: build it with weights={str(name)!r}; to effv2 say "
        f"--model=NAME --weights={name}."
    )


def _writer(path):
    """Who wrote the file, where that may be why it cannot be loaded."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                theirs = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            with h5py.File(path) as root:
                theirs = root.attrs["keras_version"]
        wrote, here = version.parse(theirs), version.parse(keras.__version__)
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError):
        return ""
    if wrote.release[:1] < (3,):
        return f"Keras {theirs} (tf_keras) wrote it, this is Keras {keras.__version__}. "
    if wrote > here:
        return f"Keras {theirs} wrote it, and Keras here is {keras.__version__}: pip install -U keras. "
    return ""


def _cause(error):
    """What the innermost error says, without the configuration that Keras appends."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    text = re.split(r"\s*(?:Full object config|config=\{)", str(error))[0]
    return " ".join(text.split())[:600] or type(error).__name__
