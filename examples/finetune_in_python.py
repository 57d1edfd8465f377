"""Fine-tuning in ten lines, when you want to choose the recipe yourself.

    python examples/finetune_in_python.py

`kev.finetune` is these lines with everything chosen by data and machine.
"""

import dataclasses
import sys

import keras_effv2 as kev
from keras_effv2.finetuning import fit_head

SMOKE = "--smoke" in sys.argv
WORKDIR = "runs/python-smoke" if SMOKE else "runs/python"


def build():
    model = kev.EfficientNetV2B0(weights=None if SMOKE else "imagenet", classes=10, drop_path=0.0)
    fit_head(model, data.train, image_size=64)  # a random one would first spoil the rest
    return kev.freeze(model, "batch_norm")


data = kev.data.load("digits")  # or "folder:photos", "tfds:cifar10"
if SMOKE:
    data = dataclasses.replace(data, train=data.train.select(range(64)))
phases = kev.ramp(2, 2, image_size=(32, 64), randaugment=(0, 5))
recipe = dataclasses.replace(kev.recipes.get("finetune"), epochs=2, phases=phases, flip=False)
result = kev.train(build, data, recipe, workdir=WORKDIR)
judged = kev.evaluate(result.model, data, report_dir=WORKDIR)
print(f"{judged.split}: {judged.top1:.1%} after {result.steps} steps; {WORKDIR}/report.html")
