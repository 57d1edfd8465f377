"""Every callback of Keras works in `train` or is refused; what one restores or stops stays."""

import csv
import inspect

import keras
import numpy as np
import pytest
from conftest import dense, tiny_data

from keras_effv2 import recipes

K = keras.callbacks
RECIPE = recipes.Recipe("tiny", "tests", 2, 8, 1e-3)

# name -> how a user makes it
MADE = {
    "CSVLogger": lambda folder: K.CSVLogger(folder / "log.csv"),
    "EarlyStopping": lambda folder: K.EarlyStopping("val_accuracy", patience=9),
    "History": lambda folder: K.History(),
    "LambdaCallback": lambda folder: K.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    "ModelCheckpoint": lambda folder: K.ModelCheckpoint(
        str(folder / "{epoch:02d}-{val_loss:.2f}.keras"), "val_accuracy", save_best_only=True
    ),
    "ProgbarLogger": lambda folder: K.ProgbarLogger(),
    "RemoteMonitor": lambda folder: K.RemoteMonitor("http://127.0.0.1:9"),
    "TensorBoard": lambda folder: K.TensorBoard(folder / "tb", update_freq=1, histogram_freq=1),
    "TerminateOnNaN": lambda folder: K.TerminateOnNaN(),
}
REFUSED = {
    "BackupAndRestore": lambda kind, folder: kind(folder / "backup"),
    "LearningRateScheduler": lambda kind, folder: kind(lambda epoch: 0.1),
    "ReduceLROnPlateau": lambda kind, folder: kind(),
    "SwapEMAWeights": lambda kind, folder: kind(),
}


def test_the_tables_have_all_of_keras():
    kinds = {name for name, kind in vars(K).items() if inspect.isclass(kind)}
    needs_a_package = {"OrbaxCheckpoint"}
    assert kinds - {"Callback", "CallbackList"} - needs_a_package == {*MADE, *REFUSED}


@pytest.mark.filterwarnings("ignore:Could not reach RemoteMonitor")
def test_callbacks_of_keras_work(quiet_train, tmp_path):
    made = {name: make(tmp_path) for name, make in MADE.items()}
    result = quiet_train(lambda: dense(4), tiny_data(), RECIPE, callbacks=[*made.values()])
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.reader(file))
    titles, *rows = rows
    assert len(titles) == len(set(titles)) and [row[0] for row in rows] == ["0", "1"]
    for row, ours in zip(rows, result.history, strict=True):
        told = dict(zip(titles, row, strict=True))
        assert float(told["val_loss"]) == pytest.approx(ours["val_loss"])
        assert "mixup" not in told  # None is no number
    assert made["History"].history["loss"] == [row["loss"] for row in result.history]
    assert {kind.name for kind in (tmp_path / "tb").iterdir()} >= {"train", "validation"}
    assert (tmp_path / f"01-{result.history[0]['val_loss']:.2f}.keras").exists()
    assert made["ProgbarLogger"].target == 6


@pytest.mark.parametrize("name", REFUSED)
def test_callbacks_that_a_run_does_not_need_are_refused(name, quiet_train, tmp_path):
    kind = type("Own", (getattr(K, name),), {})  # or what is made of them
    made = REFUSED[name](kind, tmp_path)
    with pytest.raises(ValueError, match="^Own cannot be used here: the r.*Leave it out"):
        quiet_train(lambda: dense(4), tiny_data(), RECIPE, callbacks=[made])
    assert not (tmp_path / "run").exists()


def test_what_is_no_callback_is_refused(quiet_train):
    with pytest.raises(ValueError, match="keras.callbacks.Callback. Received: function"):
        quiet_train(lambda: dense(4), tiny_data(), RECIPE, callbacks=[lambda epoch: None])


class Worse(keras.callbacks.Callback):
    """Tells the callbacks after it that every epoch is worse than the one before."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = float(epoch)


class Remember(keras.callbacks.Callback):
    """Notes the weights at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_early_stopping_restores_stays(ema, quiet_train, tmp_path):
    """The weights of the first epoch, which with an average are those that were evaluated."""
    recipe = recipes.Recipe("tiny", "tests", 9, 8, 0.1, ema=ema)
    notes = Remember()

    def call():
        stop = K.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
        callbacks = [Worse(), notes, stop]
        return quiet_train(lambda: dense(4), tiny_data(), recipe, callbacks=callbacks)

    result = call()
    assert len(result.history) == 3  # the first and two that are worse
    first, *_, last = notes.weights
    assert not np.array_equal(first[0], last[0])
    for again in (result, call()):  # and the same call again trains no further
        assert again.steps == result.steps
        stored = keras.models.load_model(tmp_path / "run" / "model.keras").get_weights()
        for kept, ours, filed in zip(first, again.model.get_weights(), stored, strict=True):
            np.testing.assert_array_equal(ours, kept)
            np.testing.assert_array_equal(filed, kept)


def test_what_callbacks_see_is_what_was_evaluated(quiet_train):
    """With an average, what is saved at the end of an epoch has the loss that it reports."""
    notes = Remember()
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 0.1, ema=0.9)
    result = quiet_train(lambda: dense(4), tiny_data(), recipe, callbacks=[notes])
    split, model = tiny_data().validation, dense(4)
    for weights, row in zip(notes.weights, result.history, strict=True):
        model.set_weights(weights)
        scores = model.predict(split.pictures.astype("float32"), verbose=0)
        loss = -np.log(scores[np.arange(len(split)), split.labels]).mean()
        assert row["val_loss"] == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("when", ["on_epoch_end", "on_train_end"])
def test_what_a_callback_assigns_stays(when, ema, quiet_train):
    seen = []

    def assign(*_):
        model.layers[-1].bias.assign(np.full(4, 7.0))

    def look(epoch, logs=None):
        seen.append(model.layers[-1].bias.numpy())

    model = dense(4)
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 0.0, ema=ema)
    told = K.LambdaCallback(on_epoch_begin=look, **{when: assign})
    quiet_train(model, tiny_data(), recipe, callbacks=[told])
    if when == "on_train_end":
        seen.append(model.layers[-1].bias.numpy())
    np.testing.assert_array_equal(seen[-1], np.full(4, 7.0))


class StopAt(keras.callbacks.Callback):
    """Stops the training after a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = int(self.model.optimizer.iterations) >= self.step


def test_a_training_that_is_stopped_within_an_epoch_ends_there(quiet_train):
    """As `fit` does: the epoch is evaluated and closed; the same call again goes no further."""
    for _ in range(2):
        result = quiet_train(lambda: dense(4), tiny_data(), RECIPE, callbacks=[StopAt(8)])
        assert result.steps == 8 and len(result.history) == 2
        assert "val_loss" in result.history[-1]
