"""Trials that fall behind end early, never before half, and cannot win."""

import json
import types

import numpy as np
import pytest
from test_searching_run import run

from keras_effv2.searching import pruning, records


@pytest.fixture
def trials(tmp_path):
    """A function that makes a trial's callback and its model."""

    def make(name, epochs=8):
        folder = tmp_path / name
        folder.mkdir()
        watching = pruning.Pruning(folder, epochs, lambda accuracy: accuracy)
        watching.set_model(types.SimpleNamespace(stop_training=False))
        return watching

    return make


def train(watching, accuracies):
    """Epochs until the end or until it is cut; how many there were."""
    for epoch, accuracy in enumerate(accuracies):
        watching.on_epoch_end(epoch, {"val_accuracy": accuracy})
        if watching.model.stop_training:
            break
    return epoch + 1


def test_rungs_are_at_half_and_at_three_quarters(trials):
    assert train(trials("a"), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]) == 8  # nobody beside it
    assert train(trials("b"), [0.0, 0.0, 0.0, 0.39, 0.9]) == 4  # worse than the better half: a
    assert train(trials("c"), [0.0, 0.0, 0.0, 0.5, 0.5, 0.59, 0.9]) == 6
    assert train(trials("d"), [0.0, 0.0, 0.0, 0.45, 0.5, 0.7, 0.7, 0.1]) == 8
    assert [trials(f"short{n}", n).rungs for n in (1, 2, 3)] == [{}, {1: "0.5"}, {2: "0.5"}]


def test_as_successive_halving_by_hand():
    """Half of all that reached the rung go on, the one that comes included, at least one."""
    random = np.random.default_rng(0)
    for count in range(9):
        others = random.uniform(size=count)
        own = random.uniform()
        place = int(np.argsort(np.argsort(-np.r_[own, others]))[0])
        assert pruning.is_behind(own, list(others)) == (place >= max(1, (count + 1) // 2))


def test_a_verdict_outlives_the_process(trials, tmp_path):
    """Killed after the verdict and resumed, the trial ends there although others got worse."""
    train(trials("a"), [0.1, 0.2, 0.3, 0.4])
    assert train(trials("b"), [0.0, 0.0, 0.0, 0.3]) == 4
    (tmp_path / "a" / pruning.FILE).unlink()
    again = pruning.Pruning(tmp_path / "b", 8, lambda accuracy: accuracy)
    again.set_model(types.SimpleNamespace(stop_training=False))
    assert train(again, [0.0, 0.0, 0.0, 0.3, 0.9]) == 4 == pruning.pruned_after(tmp_path / "b")


def test_a_search_that_prunes(tmp_path):
    """The rung of a made-up trial is out of reach: all end at half, but the one that wins does not."""
    workdir = tmp_path / "s"
    result = run(workdir, trials=2, pruner="asha")
    (first, second) = sorted(result.trials, key=lambda row: row["number"])
    rungs = [
        records.read(workdir / "trials" / row["name"] / pruning.FILE) for row in (first, second)
    ]
    assert first["reason"] is None and rungs[0]["pruned"] is None  # nobody was before it
    behind = rungs[1]["rewards"]["0.5"] < rungs[0]["rewards"]["0.5"]
    assert (rungs[1]["pruned"] is not None) == behind
    assert (second["reason"] or "").startswith("pruned after") == behind
    # a third that meets two good ones
    for row in (first, second):
        path = workdir / "trials" / row["name"] / pruning.FILE
        path.write_text(json.dumps({"rewards": {"0.5": 2.0}, "pruned": None}))
    again = run(workdir, trials=3, pruner="asha")
    (third,) = (row for row in again.trials if row["number"] == 2)
    assert third["reason"] == "pruned after 1 of 2 epochs"
    assert third["steps"] == first["steps"] // 2 and third["reward"] > 0
    assert again.best.name != third["name"]
    assert "3 trials, " in again.conclusion and " pruned, 0 without" in again.conclusion
