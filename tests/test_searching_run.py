"""Searches that train: one is run, run again, damaged, killed; nothing is lost or done twice."""

import dataclasses
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import tiny_data
from test_searching import RECIPE, small_space

import keras_effv2 as kev
from keras_effv2 import recipes, searching
from keras_effv2.cli import app
from keras_effv2.searching import records, report
from keras_effv2.searching.runner import _given_up
from keras_effv2.space import SPACES

SETTINGS = {"trials": 2, "sampler": "random", "confirm": 0, "final_epochs": 0, "step_time": "macs"}


def data():
    whole = tiny_data(96, 32)
    return dataclasses.replace(whole, test=whole.validation)


def run(workdir, **changes):
    arguments = {"space": small_space(), "recipe": RECIPE, "progress": False, **SETTINGS}
    return searching.search(data(), workdir, **{**arguments, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A search of two trials."""
    workdir = tmp_path_factory.mktemp("search") / "run"
    return workdir, run(workdir)


def written(workdir):
    """When every result was written."""
    paths = workdir.glob("*/**/result.json")
    return {str(path.relative_to(workdir)): path.stat().st_mtime_ns for path in paths}


def test_what_a_search_leaves(done):
    workdir, result = done
    assert len(result.trials) == 2 and result.trials[0]["reward"] >= result.trials[1]["reward"]
    names = {row["name"] for row in result.trials}
    folders = {path.name for path in (workdir / "trials").iterdir()}
    assert names == folders and len(names) == 2
    winner = kev.load_variant(workdir / "winner.json")
    assert winner == result.best and winner.name == result.trials[0]["name"]
    for row in result.trials:
        folder = workdir / "trials" / row["name"]
        assert kev.load_variant(folder / "variant.json").name == row["name"]
        assert {p.name for p in folder.iterdir() if p.name[0] != "."} <= set(records.KEPT)
        info = kev.model_info(kev.load_variant(folder / "variant.json"), classes=4)
        assert row["trainable_parameters"] == info["trainable_parameters"]
        assert row["steps"] == RECIPE.epochs * (96 // 16) and row["resumed_from"] == 0
        expected = searching.reward(row["accuracy"], row["step_time"], row["parameters"])
        assert row["reward"] == pytest.approx(expected)
    assert len((workdir / "trials.csv").read_text().splitlines()) == 3
    page = (workdir / "report.html").read_text()
    assert winner.name in page and "no accuracy to quote" in page and "training-aware" in page
    assert (workdir / "pareto.png").stat().st_size > 10_000


def test_a_searched_network_is_a_model_like_any_other(done, tmp_path):
    workdir, result = done
    model = kev.models.builder(workdir / "winner.json")(classes=4)
    assert model.count_params() == kev.model_info(result.best, classes=4)["parameters"]
    bigger = kev.scale(workdir / "winner.json", 5)
    assert len(bigger.stages) == len(result.best.stages) + 1


def test_again_with_damage_only_the_damaged_is_done_again(done):
    workdir, result = done
    before = written(workdir)
    (workdir / "study.db").unlink()
    torn = workdir / "trials" / result.trials[1]["name"] / "result.json"
    torn.write_text(torn.read_text()[:100])
    again = run(workdir)
    after = written(workdir)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {f"trials/{result.trials[1]['name']}/result.json"}
    same = ("name", "accuracy", "reward", "steps", "values", "number")
    for old, new in zip(result.trials, again.trials, strict=True):
        assert {key: old[key] for key in same} == {key: new[key] for key in same}
    assert again.best == result.best


def test_a_trial_whose_folder_is_removed_is_drawn_again(done):
    workdir, result = done
    first = next(row["name"] for row in result.trials if row["number"] == 0)
    shutil.rmtree(workdir / "trials" / first)
    assert {row["number"]: row["name"] for row in run(workdir).trials} == {
        row["number"]: row["name"] for row in result.trials
    }


@pytest.fixture
def reported(done, monkeypatch):
    """Plan and result that a report is written of."""
    made = []
    with monkeypatch.context() as patched:
        patched.setattr(report, "write", lambda *arguments: made.append(arguments))
        run(done[0])
    return made[0]


def test_the_report_of_a_last_comparison_in_which_one_is_killed(reported):
    plan, result = reported
    job = plan.job({"device": ""}, plan.workdir / "final" / "x", result.best)
    final = [result.baseline, {**result.trials[0], "epochs": 2.0}, _given_up(job, plan.data, 9)]
    rows = list(report._final_rows(plan, dataclasses.replace(result, final=final)))
    top1 = result.trials[0]["accuracy"]
    assert f"<td>{top1:.1%} none</td><td>{top1:.1%}</td><td>2.0</td>" in rows[1]


def test_the_commands_of_a_report_make_the_same_search(reported, monkeypatch):
    plan, _ = reported
    changes = {"learning_rate": 0.01, "class_weight": {"red": 2.0}, "crop_area": (0.5, 1.0)}
    recipe = dataclasses.replace(recipes.get("search"), seed=7, flip=False, **changes)
    plan = dataclasses.replace(
        plan,
        data=dataclasses.replace(plan.data, name="digits"),
        workdir=pathlib.Path("my runs"),
        space=SPACES["small"],
        pruner="asha",
        recipe=recipe,
        step_time="macs",
        max_macs=3.0,
        sampler="random",
    )
    asked = {}
    monkeypatch.setattr(searching, "search", lambda *a, **k: asked.update(k, workdir=a[1]))
    app.main(shlex.split(report._commands(plan).splitlines()[0])[1:])
    assert dataclasses.replace(asked["recipe"], seed=asked["seed"]) == recipe
    for name in ("workdir", "space", "trials", "sampler", "pruner", "max_parameters", "max_macs"):
        assert asked[name] == (str(plan.workdir) if name == "workdir" else getattr(plan, name))
    for name in ("confirm", "final_epochs", "step_time"):
        assert asked[name] == getattr(plan, name)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 3}, ["recipe"]),
        ({"space": small_space(stem=16)}, ["space"]),
        ({"exponents": (-0.1, -0.05)}, ["exponents", "-0.07", "-0.1"]),
        ({"max_macs": 3.0}, ["max_macs: 2.0 -> 3.0"]),
    ],
)
def test_another_search_in_the_same_workdir(changes, words, done):
    workdir, _ = done
    with pytest.raises(ValueError, match="holds another search") as error:
        run(workdir, **changes)
    for word in words:
        assert word in str(error.value)


def test_another_device(done):
    workdir, _ = done
    path = workdir / "search.json"
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), "device": "GPU of another kind"}))
    with pytest.raises(ValueError, match="device.*GPU of another kind"):
        run(workdir)
    path.write_text(text)


def test_a_trial_without_a_result_is_a_result(done):
    """It has the reward 0 and its reason, is not done again, and the others decide."""
    workdir, result = done
    best = result.trials[0]["name"]
    path = workdir / "trials" / best / "result.json"
    text = path.read_text()
    failed = {**json.loads(text), "reward": 0.0, "accuracy": 0.0, "reason": "diverged: by hand"}
    path.write_text(json.dumps(failed))
    again = run(workdir)
    path.write_text(text)
    assert again.best.name != best and again.trials[-1]["reason"] == "diverged: by hand"
    assert "2 trials, 0 pruned, 1 without a result" in again.conclusion
    assert f"{best} (diverged)" in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_a_recipe_under_which_the_baseline_diverges(tmp_path):
    """Kernels grow 8,000 times a step; the search says so and trains nothing more."""
    broken = dataclasses.replace(
        RECIPE, learning_rate=900.0, weight_decay=9.0, clip=0.0, optimizer="sgd", warmup_epochs=0
    )
    with pytest.raises(RuntimeError, match="The baseline has no result .diverged: The loss"):
        run(tmp_path / "s", recipe=broken, trials=1)
    found = records.read(tmp_path / "s" / "baseline" / "result.json")
    assert found["reward"] == 0.0 and not (tmp_path / "s" / "trials").exists()


@pytest.mark.slow
def test_the_whole_way(tmp_path):
    """Measured step times, two workers, equal time, confirmed, compared on test."""
    result = run(
        tmp_path / "s",
        trials=3,
        workers=2,
        confirm=1,
        final_epochs=2,
        step_time="measured",
        budget="time",
    )
    assert len(result.confirmed) == 2 and {row["split"] for row in result.confirmed} == {
        "validation"
    }
    assert len(result.final) == 6 and {row["split"] for row in result.final} == {"test"}
    assert len({row["seed"] for row in [*result.trials, *result.confirmed, *result.final]}) == 6
    for row in [*result.trials, *result.final]:
        steps = row["epochs"] * 6
        assert abs(row["steps"] - steps) <= max(1, row["epochs"])  # equal time, to a step an epoch
        assert 0.2 < row["step_time"] < 5
    assert "on test" in (tmp_path / "s" / "report.html").read_text()


# ----------------------------------------------------------------------------------------- kills


def start(workdir, **options):
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    script = str(root / "tests" / "search_small.py")
    return subprocess.Popen(
        [sys.executable, script, str(workdir), json.dumps(options)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors[-2000:]


def children(pid):
    """The ids of all processes below one."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *children(child)]
    return found


def facts(workdir):
    """What must not depend on kills."""
    keys = ("name", "number", "accuracy", "reward", "steps", "values", "reason")
    return [{key: row[key] for key in keys} for row in records.results(workdir)]


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    """The tree or a part of it dies at random moments; the results are those of a quiet run."""
    dice, kills, trials, workdir = random.Random(0), 0, 4, tmp_path / "killed"
    while kills < 20:
        process = start(workdir, trials=trials)
        time.sleep(dice.uniform(4, 20))
        if process.poll() is not None:  # it was done before it could be killed
            assert process.returncode == 0, process.stderr.read()[-2000:]
            trials += 2
            continue
        below = children(process.pid)
        victim = process.pid if not below or dice.random() < 0.6 else dice.choice(below)
        os.kill(victim, signal.SIGKILL)
        kills += 1
        time.sleep(1)
        process.kill()
        process.wait()
    finish(start(workdir, trials=trials))
    finish(start(tmp_path / "quiet", trials=trials))
    assert facts(workdir) == facts(tmp_path / "quiet")
    assert len(records.results(workdir)) == trials


@pytest.mark.slow
def test_a_killed_trial_goes_on_inside_and_two_share_a_search(tmp_path):
    workdir = tmp_path / "s"
    first = start(workdir, trials=3, workers=1)
    while not list(workdir.glob("trials/*/checkpoints/step-*.ckpt")):
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    both = [start(workdir, trials=3), start(workdir, trials=3)]
    for process in both:
        finish(process)
    found = records.results(workdir)
    assert len(found) == 3 and len({row["name"] for row in found}) == 3
    assert found[0]["resumed_from"] > 0


@pytest.mark.slow
def test_sigterm_saves_and_says_143(tmp_path):
    workdir = tmp_path / "s"
    process = start(workdir, trials=3)
    while not list(workdir.glob("trials/*/recipe.json")):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait(120) == 143
    finish(start(workdir, trials=3))
    assert len(records.results(workdir)) == 3
