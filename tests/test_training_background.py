"""Checkpoints are written while the training goes on."""

import threading

import keras
import numpy as np
import pytest
from conftest import build_convnet, tiny_data

from keras_effv2 import recipes, training
from keras_effv2.training import background, checkpoints
from keras_effv2.training.background import Background

RECIPE = recipes.Recipe("short", "tests", 2, 8, 0.01, ema=0.9, checkpoint_steps=2)


def test_jobs_are_done_one_after_the_other(monkeypatch):
    monkeypatch.setattr(background, "MOMENT", 0)
    done, go = [], threading.Event()
    with Background() as jobs:
        jobs.start(lambda: (go.wait(5), done.append(1)))
        assert done == []
        threading.Timer(0.05, go.set).start()
        jobs.start(done.append, 2)
    assert done == [1, 2]


def _broken(*_):
    raise OSError("no room")


def test_what_a_job_raises_comes_at_the_next_occasion(monkeypatch):
    jobs = Background()
    with pytest.raises(OSError, match="no room"):  # a short one at once
        jobs.start(_broken)
    jobs.wait()
    monkeypatch.setattr(background, "MOMENT", 0)
    go = threading.Event()
    jobs.start(lambda: (go.wait(5), _broken()))
    go.set()
    with pytest.raises(OSError, match="no room"):
        jobs.start(print)
    with pytest.raises(OSError, match="no room"), Background() as jobs:
        jobs.start(lambda: (go.wait(5), _broken()))


def test_what_ended_a_block_is_not_hidden_by_a_job(caplog, monkeypatch):
    monkeypatch.setattr(background, "MOMENT", 0)
    go = threading.Event()
    with pytest.raises(ZeroDivisionError), Background() as jobs:
        jobs.start(lambda: (go.wait(5), _broken()))
        go.set()
        raise ZeroDivisionError
    assert "no room" in caplog.text


class Noting(keras.callbacks.Callback):
    """Notes at every step what is being written, and the weights then; lets the writer go later."""

    def __init__(self, writing, go):
        super().__init__()
        self.writing, self.go, self.during, self.weights = writing, go, [], {}

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        self.weights[step] = [v.numpy() for v in self.model.variables]
        if self.writing:
            self.during.append((step, self.writing[-1]))
        if step == 3:
            self.go.set()


def test_a_checkpoint_holds_its_step_while_the_next_ones_are_made(tmp_path, monkeypatch):
    """Step 2 is being written while step 3 is made; what is on disk is the state after step 2."""
    monkeypatch.setattr(background, "MOMENT", 0)
    save, writing, go, kept = checkpoints.save, [], threading.Event(), {}

    def slow(folder, step, arrays, meta):
        writing.append(step)
        assert go.wait(30)
        save(folder, step, arrays, meta)
        kept[step] = checkpoints.load_newest(folder)
        writing.remove(step)

    monkeypatch.setattr(checkpoints, "save", slow)
    noting = Noting(writing, go)
    result = training.train(
        build_convnet(), tiny_data(), RECIPE, tmp_path, "one", callbacks=[noting], progress=False
    )
    assert (3, 2) in noting.during
    assert set(kept) == {*range(2, result.steps + 1, 2)}
    for step, (arrays, meta) in kept.items():
        assert meta["step"] == step
        for i, weight in enumerate(noting.weights[step]):
            np.testing.assert_array_equal(arrays[f"model/{i}"], weight)
    again = training.train(build_convnet(), tiny_data(), RECIPE, tmp_path, "one", progress=False)
    assert again.resumed_from == result.steps


def test_a_disk_that_fills_up_ends_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "MOMENT", 0)
    monkeypatch.setattr(checkpoints, "save", _broken)
    with pytest.raises(OSError, match="no room"):
        training.train(build_convnet(), tiny_data(), RECIPE, tmp_path, "one", progress=False)
    assert not (tmp_path / "model.keras").exists()
