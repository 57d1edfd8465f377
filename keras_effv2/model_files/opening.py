"""Opens a model of any format by its file or folder."""

import os

import keras

from keras_effv2 import errors, files, needs
from keras_effv2.model_files import runtimes
from keras_effv2.model_files.keras_file import load_keras
from keras_effv2.model_files.wrapped import wrapped

# by what a file is called; of several in a folder the first
FORMATS = (".keras", ".h5", ".tflite", ".onnx")


def load_model(path: str | os.PathLike) -> keras.Model:
    """Opens a model that Keras saved, or an export of one.

    Args:
        path: A `.keras` or `.h5` file, a `.tflite` or `.onnx` file or a SavedModel that this package
            wrote, a reusable SavedModel of TF Hub, or a folder that holds one of them: of several a
            `.keras` file. Here or in a store (`gs://...`); `~` and `$NAME` are replaced.

    Returns:
        A `keras.Model` of pixels 0..255. One around an export predicts and is evaluated; it does not
        train, is not saved and has no Grad-CAM.

    Raises:
        FileNotFoundError: If there is no such file, or none in the folder.
        ValueError: If it cannot be opened, or an export does not say what its inputs and outputs are.
        ImportError: If its runtime is not installed; says which.
    """
    place = files.place(path, "A model file")
    if place.is_dir():
        if not (place / "saved_model.pb").exists():
            return load_model(_inside(place))
        return _opened(runtimes.saved_model, place)
    if place.suffix == ".tflite":
        return _opened(runtimes.tflite, place)
    if place.suffix == ".onnx":
        return _opened(runtimes.onnx, place)
    return load_keras(place)


def is_saved_model(path: str | os.PathLike) -> bool:
    """Whether `load_model` would open a SavedModel, whose graph may read and write files."""
    place = files.place(path, "A model file")
    if not place.is_dir():
        return False
    return (place / "saved_model.pb").exists() or is_saved_model(_inside(place))


def _inside(folder):
    """The model that a folder holds."""
    for extension in FORMATS:
        whole = [
            path
            for path in sorted(folder.glob(f"*{extension}"))
            if not path.name.endswith(".weights.h5") and not path.name.startswith(".")
        ]
        if len(whole) > 1:
            names = ", ".join(path.name for path in whole)
            raise ValueError(f"{folder} holds several models: {names}. Name one.")
        if whole:
            return whole[0]
    if (folder / "hub" / "saved_model.pb").exists():
        return folder / "hub"
    raise FileNotFoundError(
        f"{folder} holds no model: no saved_model.pb, and no file *{', *'.join(FORMATS)}."
    )


def _opened(runtime, path):
    """A model around an export; what its runtime raises becomes one sentence."""
    if not path.exists():
        raise FileNotFoundError(f"There is no model file {path}.")
    with needs.naming(f"Opening {path}"), files.fetched(path) as copy:
        try:
            run, card = runtime(str(copy))
        except ImportError:
            raise
        except Exception as error:  # of any class, from the runtime of another project
            if isinstance(error, OSError) and error.errno:  # the system's
                raise
            text = errors.first_line(error)[:300]
            raise ValueError(
                f"{path} cannot be opened: {text}. It may be cut off or of another kind: get it again."
            ) from error
    return wrapped(str(path), run, card)
