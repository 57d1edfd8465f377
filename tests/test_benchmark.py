"""The paired benchmark: who is timed when, what the numbers mean, what it refuses."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import keras
import pytest
from conftest import tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2 import benchmark, layers, models

ROOT = pathlib.Path(__file__).parents[1]

PEER = benchmark.Peer("other", None)


def test_the_sides_take_turns():
    calls = []
    benchmark.alternate(lambda: calls.append("o"), lambda: calls.append("p"), rounds=3, warmup=1)
    assert "".join(calls) == "op" + "op" + "po" + "op"  # who goes first changes


def test_times_are_wall_times_of_each_side():
    ours, peer = benchmark.alternate(
        lambda: time.sleep(0.01), lambda: time.sleep(0.03), rounds=3, warmup=0
    )
    assert statistics.median(peer) > 2 * statistics.median(ours) > 0.02


def test_a_row_is_medians_and_their_ratio():
    row = benchmark.row("train", "m", "s", ([1.0, 9.0, 2.0], [8.0, 3.0, 6.0]), "keras")
    assert (row.ours, row.peer, row.ratio, row.rounds) == (2.0, 6.0, 3.0, 3)
    assert (row.spread, row.peer_spread) == (4.0, 5 / 6)  # quartiles 1, 9 and 3, 8
    line = benchmark.table([row]).splitlines()[1]
    assert "2000 ms" in line and "6000 ms" in line and "3.00x keras" in line


@pytest.mark.parametrize(
    "settings, named",
    (
        ({"measures": ("beauty",)}, "beauty"),
        ({"model": "VGG"}, "VGG"),
        ({"model": "CoAtNet0", "measures": ("train",)}, "keras.applications has no CoAtNet0"),
        ({"measures": ("pipeline",), "peer": PEER}, "other is measured in train and infer"),
        ({"rounds": 0}, "`rounds` is a whole number from 1. Received: 0"),
        ({"batch_size": 0}, "`batch_size` is a whole number from 1. Received: 0"),
        ({"batch_size": 60_000, "image_size": 9_000}, "takes 54315 GiB; up to 8 GiB are"),
    ),
)
def test_what_cannot_be_measured_is_said(settings, named):
    with pytest.raises(ValueError, match=named):
        benchmark.run(**{"image_size": 32, "batch_size": 2, "rounds": 1, **settings})


def test_pipelines():
    rows = benchmark.run(measures=("pipeline",), image_size=32, batch_size=4, rounds=1)
    assert [row.model for row in rows] == ["RandAugment 5", "RandAugment 15", "mixup", "cutmix"]
    assert all(row.ours > 0 and row.peer > 0 for row in rows)


def test_every_measure_of_a_model(monkeypatch):
    """On a network of one layer for both sides, in this process."""

    def build(*args, **kwargs):
        inputs = keras.Input((None, None, 3))
        x = keras.layers.GlobalAveragePooling2D()(layers.Pixels("128", image_size=32)(inputs))
        return keras.Model(inputs, keras.layers.Dense(1000, activation="softmax")(x))

    monkeypatch.setattr(models, "builder", lambda name: build)
    monkeypatch.setattr(keras.applications, "EfficientNetV2B0", build)
    rows = benchmark.run(
        measures=("train", "infer", "export"), image_size=32, batch_size=2, rounds=2
    )
    assert [(row.measure, row.setting.split(", ")[1]) for row in rows] == [
        ("train", "batch 2"),
        ("infer", "batch 1"),
        ("infer", "batch 2"),
        ("export", "batch 1"),
        ("export", "batch 2"),
    ]
    kinds = {kind for kind, ms, count in peers().profile(image_size=32, batch_size=2)}
    assert "SparseSoftmaxCrossEntropyWithLogits" in kinds


# ------------------------------------------------------------------------- other libraries, profile


def peers():
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "peers.py"
    spec = importlib.util.spec_from_file_location("peers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fresh_processes():
    help_, import_ = peers().run("EfficientNetV2B0", ("help", "import"), "keras", 224, 32, rounds=1)
    assert help_.unit == "s" and 0 < help_.ours < help_.peer  # no Keras for help
    assert 0 < import_.peer < import_.ours + 5  # ours imports Keras too


@pytest.mark.parametrize(
    "measure, peer, named",
    (
        ("build", "timm", "Unknown measure 'build'"),
        ("memory", "keras", "keras.applications has no CoAtNet0"),
        ("train", "kecam", "kecam (is not installed|needs the environment variable)"),
    ),
)
def test_what_peers_cannot_is_said(measure, peer, named):
    with pytest.raises(ValueError, match=named):
        peers().run("CoAtNet0", (measure,), peer, 32, 2, 1)


def test_the_accelerator_benchmark_runs_on_a_cpu(tmp_path):
    """On JAX, in processes of its own, without timm; rows have both modes and finite numbers."""
    row = dataclasses.replace(tiny_efficientnet_row(), image_size=32)
    kev.save_variant(row, tmp_path / "tiny.json")
    script = ROOT / "benchmarks" / "accelerator.py"
    options = [f"--settings={tmp_path}/tiny.json:32", "--matrix=64", f"--json={tmp_path}/rows.json"]
    command = [sys.executable, script, "--small", "--sides=ours", "--rounds=1", *options]
    quickly = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, env=quickly, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["mode"] for row in rows] == ["train", "infer"]
    assert all(row["images_per_second"][0] > 0 and row["memory_bytes"][0] > 0 for row in rows)
    assert "| train | " in done.stdout and "TFLOP/s in float32" in done.stdout
