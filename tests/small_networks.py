"""Runs a script for which EfficientNetV2-B0 is tiny: python tests/small_networks.py SCRIPT ..."""

import pathlib
import runpy
import sys

from conftest import tiny_efficientnet_row

import keras_effv2
from keras_effv2.models import VARIANTS, application, efficientnet_v2


def shrink():
    row = tiny_efficientnet_row(name="EfficientNetV2B0")
    VARIANTS[row.name] = row
    keras_effv2.EfficientNetV2B0 = application.builder(row, efficientnet_v2.FAMILY)


if __name__ == "__main__":
    shrink()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
