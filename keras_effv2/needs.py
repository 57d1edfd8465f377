"""What the package can do without until it is asked for it, and the command that brings it."""

import contextlib

# library, and the extra of pyproject.toml that installs it
EXTRAS = {
    "tensorflow": "train",
    "matplotlib": "train",
    "scipy": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "jax": "jax",
    "huggingface_hub": "hub",
    "kagglehub": "hub",
    "pkg_resources": "hub",  # what tensorflow_hub takes from setuptools
    "safetensors": "hub",
    "tensorflow_hub": "hub",
    "tf_keras": "hub",
    "array_record": "data",
    "datasets": "data",
    "google_crc32c": "data",
    "importlib_resources": "data",
    "pandas": "data",
    "tensorflow_datasets": "data",
    "onnx": "export",
    "onnxruntime": "export",
    "tf2onnx": "export",
    "optuna": "search",
    "sqlalchemy": "search",
}

OTHER_BACKEND = "or set KERAS_BACKEND to a backend that is installed"


@contextlib.contextmanager
def naming(what, instead="", extra=None):
    """Within the block: an import of a library that is not installed says what wants it.

    Args:
        what: Begins the sentence: what the library is needed for.
        instead: Ends it: what can be done without the library.
        extra: The extra to name, where a smaller one than the library's own will do.

    Raises:
        ImportError: In place of `ModuleNotFoundError`, with the command that installs the library.

    Example:

    >>> with naming("A search", "or take a row that there is"):
    ...     raise ModuleNotFoundError("No module named 'optuna'", name="optuna")
    Traceback (most recent call last):
        ...
    ImportError: A search needs optuna: pip install 'keras_effv2[search]', or take a row that there is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        text = f"{what} needs {library}: pip install 'keras_effv2[{extra or EXTRAS[library]}]'"
        raise ImportError(f"{text}{', ' if instead else ''}{instead}.", name=library) from None
