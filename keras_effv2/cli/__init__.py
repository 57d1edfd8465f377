"""The command `effv2`."""

from keras_effv2.cli.app import COMMANDS, main

__all__ = ["COMMANDS", "main"]
