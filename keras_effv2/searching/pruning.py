"""Trials that fall behind end early: asynchronous successive halving (Li et al. 2020, 1810.05934).

A rung is a part of a training after which a trial goes on only if its reward so far is in the better
half of all that have reached the rung; the first one always does. Before half of the epochs nothing
is cut: the order of networks there says little of the order at the end (docs/search.md). It is the
reward that is compared, so a slow network has to be more accurate to go on.
"""

import math
import pathlib

import keras

from keras_effv2.searching import records

PRUNERS = (None, "asha")
RUNGS = (1 / 2, 3 / 4)  # of the epochs
FILE = "rungs.json"


class Pruning(keras.callbacks.Callback):
    """Ends a training that falls behind, and notes its reward at every rung beside the trial.

    Args:
        folder: Of the trial, a `pathlib.Path`; the others lie beside it.
        epochs: Of the training.
        worth: `accuracy -> reward` of this network.
    """

    def __init__(self, folder, epochs, worth):
        super().__init__()
        self.folder, self.worth = pathlib.Path(folder), worth
        # a later rung of the same epoch, or the last epoch, decides nothing
        rungs = {math.ceil(rung * epochs): str(rung) for rung in reversed(RUNGS)}
        self.rungs = {epoch: rung for epoch, rung in rungs.items() if epoch < epochs}

    def on_epoch_end(self, epoch, logs=None):
        rung = self.rungs.get(epoch + 1)
        if rung is None:
            return
        notes = records.read(self.folder / FILE) or {"rewards": {}, "pruned": None}
        notes["rewards"][rung] = self.worth(logs["val_accuracy"])
        if notes["pruned"] is None and self._behind(rung, notes["rewards"][rung]):
            notes["pruned"] = epoch + 1
        records.write(self.folder / FILE, notes)
        if notes["pruned"] is not None:
            self.model.stop_training = True

    def _behind(self, rung, own):
        others = (
            (records.read(path) or {}).get("rewards", {}).get(rung)
            for path in self.folder.parent.glob(f"*/{FILE}")
            if path.parent != self.folder
        )
        return is_behind(own, [other for other in others if other is not None])


def is_behind(own, others):
    """Whether a reward is not in the better half of all, itself among them.

    Example:

    >>> is_behind(0.4, []), is_behind(0.4, [0.5]), is_behind(0.4, [0.5, 0.3, 0.2])
    (False, True, False)
    """
    better = sum(other > own for other in others)
    return better >= max(1, (len(others) + 1) // 2)


def pruned_after(folder):
    """The epoch after which a trial was ended, or None."""
    return (records.read(pathlib.Path(folder, FILE)) or {}).get("pruned")
