"""Fine-tunes a tiny B0 in a process that tests kill: python tests/finetune_tiny.py WORKDIR WEIGHTS"""

import sys

import train_tiny
from conftest import tiny_data

from keras_effv2 import finetuning
from keras_effv2.models import VARIANTS

if __name__ == "__main__":
    VARIANTS["EfficientNetV2B0"] = train_tiny.shallow_row(name="EfficientNetV2B0")
    workdir, weights = sys.argv[1:]
    finetuning.finetune(
        "EfficientNetV2B0", tiny_data(), workdir, weights=weights, epochs=3, image_size=32
    )
