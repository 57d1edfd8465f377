"""When a training ends: signals, patience, a loss that is not finite, a worker that is lost."""

import contextlib
import signal
import threading

import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2.training.step import cross_entropy

TERMINATED = 143  # exit code after SIGTERM with a checkpoint saved


class Signals:
    """Notes SIGTERM and Ctrl-C within its block, so that the loop can save before it leaves."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.asked = 0  # the signal
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in self.NUMBERS}
        return self

    def _ask(self, number, _):
        if self.asked == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.asked = number

    def leave(self, step):
        """Raises what the signal means, after the checkpoint of that step was saved."""
        logging.warning("Stopped at step %d; the checkpoint is saved: run it again to go on.", step)
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(TERMINATED)

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


class NotFinite(FloatingPointError):
    """A loss, or its gradient, that is not finite.

    Args:
        progress: The `Progress` after the call of steps that broke.
        phase: Their `Phase`.
        count: How many they are.
        checkpoint: The newest, `(arrays, meta)`, or None.

    Attributes:
        left_out: `[epoch, step of the epoch]` of every one of them.
    """

    def __init__(self, progress, phase, count, checkpoint):
        good = "none" if checkpoint is None else f"step {checkpoint[1]['step']}"
        super().__init__(
            f"The loss or its gradient is not finite at step {progress.step}, epoch "
            f"{progress.epoch}, phase {phase}. Last good checkpoint: {good}. Lower the learning "
            "rate, clip gradients, or call `train` with rollback=True (effv2 train --rollback)."
        )
        self.left_out = progress.last(count)


class WorkerLost(ConnectionError):
    """A worker of several has ended or cannot be reached; this one cannot go on either."""

    exit_code = 75  # of a command: a failure that is over when it is tried again


@contextlib.contextmanager
def naming_lost_workers():
    """Within the block what TensorFlow raises where a worker is missed is a `WorkerLost`."""
    try:
        yield
    except tf.errors.OpError as error:
        if "Collective ops is aborted" not in str(error):
            raise
        raise WorkerLost(
            "Another worker has ended or cannot be reached, so this one ends too. Look at the last "
            "lines of the others; then start all again with the same command: they go on from the "
            "last checkpoint."
        ) from error


def is_over(losses, patience):
    """Whether the lowest of the epochs' losses is `patience` epochs old; 0: never."""
    losses = np.nan_to_num(losses, nan=np.inf)
    return len(losses) > 0 and len(losses) - 1 - int(np.argmin(losses)) >= patience > 0


def loss_of_nothing(recipe, classes, class_weights=None):
    """The mean loss of equal logits, on classes as frequent as their weights suppose."""
    labels, logits = tf.one_hot(range(classes), classes), tf.zeros((classes, classes))
    losses = cross_entropy(labels, logits, recipe, class_weights)
    frequency = np.ones(classes) if class_weights is None else 1 / class_weights
    return float(np.average(losses, weights=frequency))
