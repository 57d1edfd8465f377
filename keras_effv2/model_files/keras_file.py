"""Opens a model that Keras saved, or says in one sentence why it cannot be opened."""

import json
import os
import re
import zipfile

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
    with files.fetched(place) as copy:
        try:
            return keras.models.load_model(str(copy))
        except Exception as error:  # of any class: what a file holds decides what fails
            raise ValueError(f"{place} cannot be loaded: {_writer(copy)}{_cause(error)}") from error


def _writer(path):
    """Who wrote the file, where that may be why it cannot be loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            theirs = json.loads(archive.read("metadata.json"))["keras_version"]
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
