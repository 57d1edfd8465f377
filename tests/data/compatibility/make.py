"""Wrote 9ffd7d8.tar.xz: what commit 9ffd7d8 leaves on people's disks, for test_compatibility.py.

The archive stays as it is for good: newer code reads it and never writes it again. What newer code
writes goes into an archive of its own beside it, named by its commit.

PYTHONPATH=.:tests python tests/data/compatibility/make.py 9ffd7d8.tar.xz
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import tarfile
import tempfile

import keras
import numpy as np
from compatibility_runs import RUNS, cpu
from conftest import tiny_coatnet_row, tiny_data

import keras_effv2 as kev
from keras_effv2 import checkpoints, models, recipes
from keras_effv2.models import coatnet


class Stop(keras.callbacks.Callback):
    """Sends SIGTERM to its own process after a number of optimizer steps."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def write_run(name, here, work):
    """A run stopped in mid-epoch, and the end of the same run left alone."""
    run = RUNS[name]
    stopped, whole = here / "runs" / name, work / name
    try:
        run.train(stopped, callbacks=[Stop(run.stop)])
    except SystemExit as error:
        assert error.code == 143
    shutil.rmtree(stopped / "tensorboard")
    result = run.train(whole)
    arrays, meta = checkpoints.load_newest(whole / "checkpoints")
    meta["cpu"] = cpu()
    end = here / "runs" / f"{name}.npz"
    np.savez_compressed(end, __meta__=np.array(json.dumps(meta)), **arrays)
    return result.model, whole


def finetuned_coatnet(work):
    """A CoAtNet that went through `finetune`: start.json, model.keras and hub/."""
    row = tiny_coatnet_row(image_size=32)

    def builder(**arguments):
        return coatnet.build(row, **arguments)

    kev.TinyCoAtNet = builder
    models.VARIANTS["TinyCoAtNet"] = row
    kev.list_models = lambda: ["TinyCoAtNet"]
    start = work / "start.weights.h5"
    builder(weights=None, classes=10).save_weights(start)
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-3)
    result, _ = kev.finetune(
        "TinyCoAtNet", tiny_data(), work / "finetune", weights=str(start), recipe=recipe
    )
    return result.model, work / "finetune"


def main(archive):
    here, work = pathlib.Path(tempfile.mkdtemp()), pathlib.Path(tempfile.mkdtemp())
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    stored = {"images": images}
    for name in RUNS:
        model, folder = write_run(name, here, work)
        if name == "sgd":
            trained = model
            shutil.copy(folder / "model.keras", here / "efficientnet.keras")
    trained.save_weights(here / "efficientnet.weights.h5")
    stored["efficientnet"] = trained.predict(images.astype("float32"), verbose=0)
    tuned, folder = finetuned_coatnet(work)
    shutil.copy(folder / "model.keras", here / "coatnet.keras")
    shutil.copy(folder / "start.json", here / "start.json")
    shutil.copy(folder / "labels.txt", here / "labels.txt")
    tuned.save_weights(here / "coatnet.weights.h5")
    stored["coatnet"] = tuned.predict(images.astype("float32"), verbose=0)
    kev.export_hub(trained, here / "hub")
    stored["hub"] = np.asarray(kev.HubLayer(str(here / "hub"))(images / np.float32(255)))
    np.savez_compressed(here / "predictions.npz", **stored)
    with tarfile.open(archive, "w:xz") as file:
        file.add(here, ".")


if __name__ == "__main__":
    main(sys.argv[1])
