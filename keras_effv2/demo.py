"""The main job from end to end on embedded data: train, evaluate, export, reload, predict."""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np

import keras_effv2 as kev

GATE = 0.95  # validation accuracy

_RELOAD = """
import json, sys, numpy as np, tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
labels = open(module.labels.asset_path.numpy()).read().split()
images = np.load(sys.argv[2])
outputs = module(tf.constant(images), training=False).numpy()
print(json.dumps([labels[i] for i in outputs.argmax(1)]))
"""


def main(workdir):
    """Runs the demo in a fresh workdir; returns 0 if the gate is met."""
    start = time.perf_counter()
    workdir = pathlib.Path(workdir)
    data = kev.data.load("digits")
    recipe = kev.recipes.get("digits", model="EfficientNetV2B0")
    print(f"Training EfficientNetV2-B0 on {len(data.train)} digits, sizes", end=" ")
    print(*dict.fromkeys(phase.image_size for phase in recipe.phases))
    result = kev.train(
        lambda: kev.EfficientNetV2B0(weights=None, classes=10, pixels="128"),
        data,
        recipe,
        workdir,
    )
    validation = kev.evaluate(result.model, data, split="validation")
    test = kev.evaluate(result.model, data, workdir, split="test")
    print(f"validation {validation.top1:.1%}, test {test.top1:.1%} of {test.images}")
    hub = workdir / "hub"
    kev.export_hub(result.model, hub)
    size = recipe.phases[-1].image_size
    images, labels, _ = next(iter(data.test.eval_batches(image_size=size, batch_size=8)))
    np.save(workdir / "images.npy", images.numpy() / 255)
    done = subprocess.run(
        [sys.executable, "-c", _RELOAD, str(hub), str(workdir / "images.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [data.class_names[i] for i in labels.numpy().argmax(1)]
    print("a clean process reads from the export:", *json.loads(done.stdout.splitlines()[-1]))
    print("what was written:                     ", *names)
    print(f"report: {workdir / 'report.html'}, curves: {workdir / 'history.png'}")
    print(f"{time.perf_counter() - start:.0f} seconds")
    if validation.top1 < GATE:
        print(f"validation accuracy is below {GATE:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
