"""Keras callbacks in a run: which work there, and what they are told."""

from collections.abc import Sequence

import keras

from keras_effv2.arguments import check_kind

_RATE = "the recipe says the learning rate of every step: set its `learning_rate` and `schedule`"
REFUSED = {
    keras.callbacks.BackupAndRestore: "the run's own checkpoints resume it, to the same bits",
    keras.callbacks.LearningRateScheduler: _RATE,
    keras.callbacks.ReduceLROnPlateau: _RATE,
    keras.callbacks.SwapEMAWeights: "the recipe averages the weights: set its `ema`",
}


def check_callbacks(callbacks):
    """Refuses what is no callback of Keras, and those that a run does not need.

    Raises:
        ValueError: Says which, and what takes its place.
    """
    check_kind("callbacks", callbacks, Sequence, "a list of callbacks of Keras")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                "`callbacks` are objects of keras.callbacks.Callback. Received: "
                f"{type(callback).__name__}."
            )
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise ValueError(
                    f"{type(callback).__name__} cannot be used here: {reason}. Leave it out."
                )


class Log(keras.callbacks.CallbackList):
    """The user's callbacks, told what `fit` tells them: numbers, and steps an epoch."""

    def __init__(self, callbacks, model, epochs, verbose):
        for callback in callbacks:
            # `fit` asks the metrics that the model is compiled with; the trainer counts itself
            if getattr(callback, "mode", "") == "auto" and callback.monitor.endswith("accuracy"):
                callback.mode = "max"
        super().__init__([*callbacks], model=model, epochs=epochs, steps=None, verbose=verbose)
        model.stop_training = False

    def begin_epoch(self, epoch, steps):
        """Says how many steps the epoch has, and that it begins."""
        self.set_params({**self.params, "steps": steps})
        self.on_epoch_begin(epoch)

    def end_epoch(self, row):
        """Hands on the numbers of an epoch's row."""
        self.on_epoch_end(row["epoch"], numbers(row))


def numbers(row):
    """What a row says in numbers; its epoch is told by itself."""
    return {
        key: value
        for key, value in row.items()
        if key != "epoch" and isinstance(value, (int, float))
    }
