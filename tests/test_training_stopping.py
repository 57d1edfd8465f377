"""When a training ends before its last epoch, and with which weights."""

import copy
import dataclasses
import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import dense, tiny_data

from keras_effv2 import cli, recipes, training
from keras_effv2.training import stopping


def test_patience_ends_the_training(quiet_train):
    """What is learnt is wrong for the validation split; a second call does not train on."""
    data = tiny_data()
    wrong = copy.copy(data.validation)
    wrong.labels = (wrong.labels + 1) % 4
    data = dataclasses.replace(data, validation=wrong)
    recipe = recipes.Recipe("tiny", "tests", 12, 8, 0.1, patience=2)
    result = quiet_train(lambda: dense(4), data, recipe)
    losses = [row["val_loss"] for row in result.history]
    assert len(losses) == int(np.argmin(losses)) + 3 < 12
    again = quiet_train(lambda: dense(4), data, recipe)
    assert again.steps == result.steps


@pytest.mark.parametrize(
    "losses, over",
    [([1.0, float("nan"), 0.9, 0.8], False), ([0.5, float("nan"), 0.9, 0.8], True), ([], False)],
)
def test_a_validation_loss_that_is_not_a_number_is_a_bad_one(losses, over):
    assert stopping.is_over(losses, patience=3) == over


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_patience_keeps_the_best_weights_those_of_the_start_included(ema, quiet_train, tmp_path):
    """Never worse than before: here every step away from solved weights does harm."""
    data = tiny_data()
    wrong = copy.copy(data.train)
    wrong.labels = (wrong.labels + 1) % 4
    spoiling = dataclasses.replace(data, train=wrong)
    recipe = recipes.Recipe("tiny", "tests", 3, 8, 0.1, patience=5, ema=ema)
    start = quiet_train(
        lambda: dense(4), data, recipes.Recipe("tiny", "tests", 6, 8, 0.1), tmp_path / "start"
    ).model
    result = quiet_train(lambda: keras.models.clone_model(start), spoiling, recipe, tmp_path / "b")
    assert result.history[-1]["val_accuracy"] < 0.5
    # random weights are not kept, though every epoch makes the loss worse
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert summary["best_epoch"] >= 1 and summary["best_val_loss"] > np.log(4)

    def solved():
        model = keras.models.clone_model(start)
        model.set_weights(start.get_weights())
        return model

    with pytest.raises(SystemExit):  # the best survive an interruption
        die = train_tiny.Die(8, signal.SIGTERM)
        quiet_train(solved, spoiling, recipe, callbacks=[die])
    result = quiet_train(solved, spoiling, recipe)
    for one, other in zip(result.model.get_weights(), start.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best_epoch"] == 0
    assert result.history[-1]["val_loss"] > 1.1 * summary["best_val_loss"]


def test_a_lost_worker_is_named(monkeypatch, tmp_path, capsys):
    """By the words of TensorFlow 2.21's collectives; a command ends with a code of its own."""
    with pytest.raises(ConnectionError, match="Another worker has ended or cannot be reached"):
        with stopping.naming_lost_workers():
            raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: recvmsg")
    with pytest.raises(tf.errors.UnavailableError):
        with stopping.naming_lost_workers():
            raise tf.errors.UnavailableError(None, None, "another cause")

    def lost(*_, **__):
        raise stopping.WorkerLost("Another worker has ended.")

    monkeypatch.setattr(training, "train", lost)
    assert cli.main(["train", "--data=digits", f"--workdir={tmp_path}"]) == 75
    assert "Another worker has ended." in capsys.readouterr().err
