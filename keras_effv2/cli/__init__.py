"""The command `effv2`."""

from keras_effv2.cli.app import COMMANDS, main
from keras_effv2.cli.predict import pictures as _files  # noqa: F401  as it was called in cli.py

__all__ = ["COMMANDS", "main"]
