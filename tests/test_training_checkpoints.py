"""A run that is killed, starved or damaged ends as the run that was left alone."""

import errno
import os
import random
import time

import forked
import numpy as np
import pytest
import train_tiny

from keras_effv2.training import checkpoints

STEPS = 4 * train_tiny.STEPS


def run(workdir, *flags):
    return forked.run(train_tiny.__file__, workdir, *flags)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    done = run(workdir)
    assert done.returncode == 0, done.stderr
    return state(workdir)


def state(workdir):
    arrays, meta = checkpoints.load_newest(workdir / "checkpoints")
    return arrays, meta["history"]


def assert_as(undisturbed, workdir, steps=STEPS):
    """Weights, averages, slots and random states are the same to the last bit."""
    (arrays, history), (expected, expected_history) = state(workdir), undisturbed
    assert history[-1]["steps"] == expected_history[-1]["steps"] == steps
    assert set(arrays) == set(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    for row, other in zip(history, expected_history, strict=True):
        assert row["loss"] == other["loss"] and row["val_loss"] == other["val_loss"]
    assert (workdir / "model.keras").exists()


@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param(["9:SIGTERM", "16:SIGKILL"], id="within a phase, twice"),
        pytest.param(["12:SIGKILL", "write:4:SIGKILL"], id="at the boundary, then while writing"),
    ],
)
def test_killed(deaths, undisturbed, tmp_path):
    for death in deaths:
        died = run(tmp_path, f"--die={death}")
        expected = 143 if "SIGTERM" in death else -9
        assert died.returncode == expected, died.stderr
        assert not (tmp_path / "model.keras").exists()
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_as(undisturbed, tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_sixty_kills_at_random_moments(tmp_path):
    """Several steps a call, batches that grow, patience; runs are begun anew until 60 have died."""
    done = run(tmp_path / "quiet", "--storm")
    assert done.returncode == 0, done.stderr
    dice, kills, whole = random.Random(0), 0, 0
    while kills < 60 or not whole:
        workdir = tmp_path / f"run{whole}"
        process = forked.Process(train_tiny.__file__, workdir, "--storm")
        time.sleep(dice.uniform(0, 6))
        if process.kill():
            kills += 1
            continue
        assert process.finish().returncode == 0
        assert_as(state(tmp_path / "quiet"), workdir, steps=18)
        whole += 1


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [["9:SIGKILL", "15:SIGTERM"], ["write:3:SIGKILL", "15:SIGKILL"]])
def test_killed_in_a_storm(deaths, tmp_path):
    for death in deaths:
        assert run(tmp_path / "run", "--storm", f"--die={death}").returncode in (143, -9)
    for name in ("run", "quiet"):
        done = run(tmp_path / name, "--storm")
        assert done.returncode == 0, done.stderr
    assert_as(state(tmp_path / "quiet"), tmp_path / "run", steps=18)


def test_torn_checkpoint_and_full_disk(undisturbed, tmp_path):
    died = run(tmp_path, "--die=15:SIGTERM")
    assert died.returncode == 143, died.stderr
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    assert newest.name == "step-000000015.ckpt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    starved = run(tmp_path, "--room=20000")
    assert starved.returncode == 1
    assert "step-000000015.ckpt is torn" in starved.stderr
    assert "(File too large); what was there before is unharmed" in starved.stderr.splitlines()[-1]
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_as(undisturbed, tmp_path)


def test_file_systems_without_locks_train_all_the_same(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with checkpoints.locked(tmp_path):
        assert "cannot be locked" in caplog.text


def test_a_folder_that_may_not_be_written_to_is_refused_at_once(tmp_path, monkeypatch):
    """Not when the head is solved; root may write everywhere, so the answer is made up."""
    monkeypatch.setattr("os.access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(PermissionError, match="may not be written to. Give another workdir"):
        with checkpoints.locked(tmp_path):
            pytest.fail("it was locked")


def test_what_others_left_among_the_checkpoints_stays(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".step-000000001.ckpt.abc").write_text("torn")
    checkpoints.save(tmp_path, 1, {"a": np.zeros(2)}, {"step": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".ipynb_checkpoints",
        "step-000000001.ckpt",
    ]
