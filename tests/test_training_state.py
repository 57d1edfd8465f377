"""What a run is stands in its checkpoints; damaged, foreign and left-over files do no harm."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from conftest import dense, tiny_data

from keras_effv2 import recipes, training
from keras_effv2.training import checkpoints, state

RECIPE = recipes.Recipe("tiny", "tests", 2, 8, 1e-3)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("done")
    training.train(lambda: dense(4), tiny_data(), RECIPE, folder, "one", progress=False)
    return folder


@pytest.fixture
def run(done, tmp_path):
    """A copy of the finished run, which a test may damage."""
    return shutil.copytree(done, tmp_path / "run")


def test_all_of_a_progress_is_in_a_checkpoint(run):
    _, meta = state.newest(run)
    assert {field.name for field in dataclasses.fields(state.Progress)} - {"best"} <= set(meta)
    assert (meta["step"], meta["epoch"], meta["epoch_step"]) == (12, 2, 0)


@pytest.mark.parametrize("gone", ["recipe.json", "recipe.json is junk", "all but checkpoints"])
def test_another_recipe_is_refused_whatever_lies_beside_the_checkpoints(gone, run, quiet_train):
    if gone == "recipe.json is junk":
        (run / "recipe.json").write_text("{'no json'")
    elif gone == "recipe.json":
        (run / "recipe.json").unlink()
    else:
        for path in run.iterdir():
            if path.is_file():
                path.unlink()
    other = dataclasses.replace(RECIPE, learning_rate=2e-3, seed=1)
    with pytest.raises(ValueError, match="changed: learning_rate: 0.001 -> 0.002; seed: 0 -> 1"):
        quiet_train(lambda: dense(4), tiny_data(), other, run)
    again = quiet_train(lambda: dense(4), tiny_data(), RECIPE, run)
    assert again.resumed_from == 12
    assert json.loads((run / "recipe.json").read_text())["learning_rate"] == 0.001


def test_other_pictures_to_validate_on_are_told(run, quiet_train, caplog):
    """The best weights would be chosen by losses of two sets of pictures."""
    for validation, told in ((10, 0), (6, 1)):
        quiet_train(lambda: dense(4), tiny_data(validation=validation), RECIPE, run)
        assert caplog.text.count("was validated on other pictures until now") == told


def without_description(run):
    """The run as earlier versions left it: what it is stands in recipe.json alone."""
    folder = run / "checkpoints"
    arrays, meta = checkpoints.load_newest(folder)
    shutil.rmtree(folder)
    meta = {key: value for key, value in meta.items() if key not in ("run", "start")}
    checkpoints.save(folder, meta["step"], arrays, meta)


def test_runs_of_earlier_versions_need_their_recipe(run, quiet_train):
    without_description(run)
    (run / "recipe.json").write_text("junk")
    with pytest.raises(ValueError, match=r"recipe\.json is no JSON file .*Put it back"):
        quiet_train(lambda: dense(4), tiny_data(), RECIPE, run)
    (run / "recipe.json").unlink()
    with pytest.raises(ValueError, match=r"no recipe\.json that says of which run"):
        quiet_train(lambda: dense(4), tiny_data(), RECIPE, run)


def test_a_workdir_deleted_in_mid_run_is_made_anew(tmp_path, quiet_train):
    run, recipe = tmp_path / "run", dataclasses.replace(RECIPE, checkpoint_steps=2)

    def delete(batch, logs):
        if batch == 3:
            shutil.rmtree(run, ignore_errors=True)

    delete = keras.callbacks.LambdaCallback(on_train_batch_begin=delete)
    quiet_train(lambda: dense(4), tiny_data(), recipe, run, callbacks=[delete])
    assert {"recipe.json", "metrics.csv", "model.keras"} <= {path.name for path in run.iterdir()}
    with pytest.raises(ValueError, match="another recipe"):
        quiet_train(lambda: dense(4), tiny_data(), dataclasses.replace(recipe, seed=3), run)


def test_torn_checkpoints_of_later_steps_evict_nothing(tmp_path):
    for step in (1, 2, 3, 4):
        for torn in (8, 9):
            (tmp_path / f"step-{torn:09d}.ckpt").write_bytes(b"torn")
        checkpoints.save(tmp_path, step, {"a": np.zeros(2)}, {"step": step})
        assert checkpoints.load_newest(tmp_path)[1]["step"] == step
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000003.ckpt", "step-000000004.ckpt"]


def test_what_killed_processes_left_is_removed(run, quiet_train):
    left = (".99999.model.keras", ".99999.keras", ".99999.metrics.csv", ".metrics.csv.a1b2c3d4")
    for name in left:
        (run / name).write_text("half")
    (run / ".my.notes").write_text("mine")
    quiet_train(lambda: dense(4), tiny_data(), RECIPE, run)
    names = {path.name for path in run.iterdir()}
    assert not names & set(left) and ".my.notes" in names


def test_a_refusal_leaves_no_workdir(tmp_path, quiet_train):
    (tmp_path / "mine").mkdir()
    for workdir in (tmp_path / "new" / "run", tmp_path / "mine" / "run"):
        with pytest.raises(ValueError, match="7 outputs"):
            quiet_train(lambda: dense(7), tiny_data(), RECIPE, workdir)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ValueError, match="7 outputs"):
        quiet_train(lambda: dense(7), tiny_data(), RECIPE, tmp_path / "mine")
    assert (tmp_path / "mine").exists()


def test_a_run_goes_on_from_the_same_start_alone(tmp_path, quiet_train):
    start, run = {"model": "M", "weights": "one"}, tmp_path / "run"
    quiet_train(lambda: dense(4), tiny_data(), RECIPE, run, start=start)
    assert json.loads((run / "start.json").read_text()) == start
    (run / "start.json").unlink()
    other = {**start, "weights": "two"}
    with pytest.raises(ValueError, match="a run of M from one, this is M from two"):
        quiet_train(lambda: dense(4), tiny_data(), RECIPE, run, start=other)
    without_description(run)
    (run / "start.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"start\.json does not hold what a run writes"):
        quiet_train(lambda: dense(4), tiny_data(), RECIPE, run, start=start)
