"""Trains two convolutions in a process of its own, which tests kill, starve or join with others.

python tests/train_tiny.py WORKDIR [--die=STEP:SIGKILL | --die=write:N:SIGKILL] [--room=BYTES]
"""

import dataclasses
import functools
import os
import resource
import signal

import keras
from absl import app, flags
from conftest import build_convnet, mirrored, tiny_data, tiny_efficientnet_row

from keras_effv2 import recipes, training
from keras_effv2.models import efficientnet_v2
from keras_effv2.phases import ramp

DIE = flags.DEFINE_string("die", "", "When to die and of which signal.")
ROOM = flags.DEFINE_integer("room", 0, "Bytes of the largest file that may be written.")
STRATEGY = flags.DEFINE_string("strategy", "one", "Name of a strategy; pair is over two CPUs.")
PLAIN = flags.DEFINE_bool("plain", False, "Without any randomness but the order.")
STORM = flags.DEFINE_bool("storm", False, "Several steps a call, batches that grow, patience.")

PHASES = ramp(
    4, 2, image_size=(32, 48), dropout=(0.1, 0.4), drop_path=(0.0, 0.2), randaugment=(2, 8)
)
PROGRESSIVE = recipes.Recipe(
    "tiny", "tests", 4, 8, 1e-3, weight_decay=1e-4, ema=0.9, clip=1.0, phases=PHASES
)
STORMY = dataclasses.replace(
    PROGRESSIVE,
    phases=ramp(4, 2, image_size=(32, 48), dropout=(0.1, 0.4), batch_size=(8, 16)),
    patience=3,
    checkpoint_steps=5,
)
PLAINEST = recipes.Recipe(
    "plain", "tests", 2, 8, 0.05, optimizer="sgd", ema=0.9, clip=0.5, label_smoothing=0.1
)
STEPS = 6  # an epoch of 48 pictures in batches of 8


def shallow_row(**changes):
    """The tiny network without the stages that halve nothing."""
    row = tiny_efficientnet_row(**changes)
    return dataclasses.replace(row, stages=tuple(s for s in row.stages if s.stride == 2))


def build(**rates):
    row = shallow_row()
    return efficientnet_v2.build(row, weights=None, classes=4, input_shape=(32, 32, 3), **rates)


build_plain = functools.partial(build, dropout=0.0, drop_path=0.0)


class Die(keras.callbacks.Callback):
    """Sends its own process a signal after a number of optimizer steps."""

    def __init__(self, step, number):
        super().__init__()
        self.step, self.number = step, number

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.step:
            os.kill(os.getpid(), self.number)


def die_while_writing(count, number):
    """Sends a signal when the count-th file is about to get its final name."""
    replace, seen = os.replace, []

    def dying(*paths):
        seen.append(paths)
        if len(seen) == count:
            os.kill(os.getpid(), number)
        replace(*paths)

    os.replace = dying


def main(argv):
    callbacks = []
    if DIE.value:
        *when, name = DIE.value.split(":")
        if when[0] == "write":
            die_while_writing(int(when[1]), getattr(signal, name))
        else:
            callbacks = [Die(int(when[0]), getattr(signal, name))]
    if ROOM.value:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM.value, ROOM.value))
    training.train(
        build_convnet,
        tiny_data(),
        PLAINEST if PLAIN.value else STORMY if STORM.value else PROGRESSIVE,
        argv[1],
        mirrored(2) if STRATEGY.value == "pair" else STRATEGY.value,
        callbacks=callbacks,
        progress=False,
        steps_per_call=3 if STORM.value else None,
    )


if __name__ == "__main__":
    app.run(main)
