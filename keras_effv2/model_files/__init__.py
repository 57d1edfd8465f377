"""A model file is a model file: what Keras saved, and what `export` and `export_hub` wrote of it.

An export becomes a Keras model around its own runtime: it takes pixels 0..255, gives what the export
gives, and says the names, size, crop and thresholds that travel inside the file.
"""

from keras_effv2.model_files.keras_file import load_keras
from keras_effv2.model_files.opening import is_saved_model, load_model

__all__ = ["is_saved_model", "load_keras", "load_model"]
