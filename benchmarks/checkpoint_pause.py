"""How long a training pauses for a checkpoint, and how long writing it takes.

    python benchmarks/checkpoint_pause.py --model EfficientNetV2L --workdir /tmp/pause

The pause is that of the copy in memory; a training that waited for the file would stand still for
both.
"""

import argparse
import os
import resource
import statistics
import time

import keras
import tensorflow as tf

from keras_effv2 import models
from keras_effv2.files import place, remove_tree
from keras_effv2.training import checkpoints, state
from keras_effv2.training.background import Background

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="EfficientNetV2L")
parser.add_argument("--workdir", required=True, help="a new folder; it is removed at the end")
parser.add_argument("--rounds", type=int, default=5)


def main(args):
    model = models.builder(args.model)(weights=None)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    average = [tf.Variable(w.value) for w in model.weights]
    named = state.variables(model, optimizer, average, [])
    progress, workdir = state.Progress(), place(args.workdir, "The workdir")
    before, pauses, writes = _peak(), [], []
    for step in range(1, args.rounds + 1):
        progress.step = step
        with Background() as saving:
            start = time.perf_counter()
            taken = state.snapshot(workdir, progress, named, {})
            saving.start(checkpoints.save, *taken)
            pauses.append(time.perf_counter() - start)
        writes.append(time.perf_counter() - start)
        del taken
    newest = max(os.scandir(workdir / "checkpoints"), key=lambda entry: entry.name)
    print(
        f"{args.model}: {newest.stat().st_size / 2**20:,.0f} MiB; pause "
        f"{statistics.median(pauses):.2f} s of {statistics.median(writes):.2f} s; "
        f"{_peak() - before:,.0f} MiB of memory more"
    )
    remove_tree(workdir)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(parser.parse_args())
