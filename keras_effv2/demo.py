"""The main job from end to end on embedded data: train, evaluate, export, reload, predict."""

import json
import subprocess
import sys
import time

import numpy as np

import keras_effv2 as kev
from keras_effv2 import files, processor, quiet

GATE = 0.95  # validation accuracy

_RELOAD = """
import json, sys, numpy as np, tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
labels = open(module.labels.asset_path.numpy()).read().split()
images = np.load(sys.argv[2])
outputs = module(tf.constant(images), training=False).numpy()
print(json.dumps([labels[i] for i in outputs.argmax(1)]))
"""


_NEXT = """To look at:
  {workdir}/report.html   what it gets wrong, how sure it was, where it looked
  {workdir}/history.png   accuracy and image size, epoch by epoch
To try next, from ImageNet weights (29 MB are fetched) and with your own pictures:
  effv2 predict photo.jpg
  effv2 finetune --data=folder:photos --workdir=runs/mine"""


def main(workdir):
    """Runs the demo in a fresh workdir; returns 0 if the gate is met."""
    processor.prefer_onednn()
    with quiet.own_lines(-1):  # a line an epoch comes from `train`
        instead = "Another process reads from it: give a folder here."
        return _demo(files.local(workdir, "The workdir of the demo", instead))


def _demo(workdir):
    start = time.perf_counter()
    data = kev.data.load("digits")
    recipe = kev.recipes.get("digits", model="EfficientNetV2B0")
    sizes = dict.fromkeys(phase.image_size for phase in recipe.phases)
    print(
        f"Training EfficientNetV2-B0 on {len(data.train)} digits of", *sizes, "pixels", flush=True
    )
    result = kev.train(
        lambda: kev.EfficientNetV2B0(weights=None, classes=10, pixels="128"),
        data,
        recipe,
        workdir,
    )
    validation = kev.evaluate(result.model, data, split="validation")
    test = kev.evaluate(result.model, data, workdir, split="test")
    print(f"Accuracy: validation {validation.top1:.1%}, test {test.top1:.1%} of {test.images}")
    kev.export_hub(result.model, workdir / "hub")
    images, labels, _ = next(
        iter(data.test.eval_batches(image_size=recipe.phases[-1].image_size, batch_size=8))
    )
    read = _read_by_another(workdir, images.numpy() / 255)
    print("A process without this package reads from the export:", *read)
    print(
        "What was written:                                     ",
        *(data.class_names[i] for i in labels.numpy().argmax(1)),
    )
    print(f"{time.perf_counter() - start:.0f} seconds. {_NEXT.format(workdir=workdir)}")
    if validation.top1 < GATE:
        print(f"Validation accuracy is below {GATE:.0%}.", file=sys.stderr)
        return 1
    return 0


def _read_by_another(workdir, images):
    """Names that a process of its own gives to images in [0, 1], by the export alone."""
    np.save(workdir / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", _RELOAD, str(workdir / "hub"), str(workdir / "images.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
