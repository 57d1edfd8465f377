"""Fine-tuning in ten lines, when you want to choose the recipe yourself.

    python examples/finetune_in_python.py

`kev.finetune` is these lines with everything chosen by data and machine, and the head solved first.
"""

import dataclasses
import sys

import keras_effv2 as kev

SMOKE = "--smoke" in sys.argv


def build():
    model = kev.EfficientNetV2B0(weights=None if SMOKE else "imagenet", classes=10)
    return kev.freeze(model, "batch_norm")


data = kev.data.load("digits")  # or "folder:photos", "tfds:cifar10"
if SMOKE:
    data = dataclasses.replace(data, train=data.train.select(range(64)))
phases = kev.ramp(2, 2, image_size=(32, 64), randaugment=(0, 5))
recipe = dataclasses.replace(kev.recipes.get("finetune"), epochs=2, phases=phases, flip=False)
result = kev.train(build, data, recipe, workdir="runs/python")
judged = kev.evaluate(result.model, data, report_dir="runs/python")
print(f"{judged.split}: {judged.top1:.1%} after {result.steps} steps; runs/python/report.html")
