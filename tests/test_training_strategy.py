"""Replicas and workers together do what one device does on the same global batch.

Each test names what Keras 3's own `fit` gets wrong there.
"""

import dataclasses
import json
import signal
import socket
import time
import types

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import build_convnet, mirrored, tiny_data

from keras_effv2 import layers, recipes, training
from keras_effv2.phases import ramp
from keras_effv2.training import batches, checkpoints, strategy

# float32 sums in another order, over 12 steps; Keras' per-replica clipping is off by 4e-3
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The state after a small network's run on one device."""
    return run_alone(build_convnet, tmp_path_factory.mktemp("alone"))


def run_alone(build, workdir):
    training.train(build, tiny_data(), train_tiny.PLAINEST, workdir, "one", progress=False)
    return state(workdir)


def state(workdir):
    arrays, meta = checkpoints.load_newest(workdir / "checkpoints")
    return arrays, meta["history"]


def assert_as(alone, workdir):
    (arrays, history), (expected, expected_history) = state(workdir), alone
    assert set(arrays) == set(expected)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected[name], atol=TOLERANCE, rtol=1e-4, err_msg=name)
    for row, other in zip(history, expected_history, strict=True):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy", "steps"):
            assert row[key] == pytest.approx(other[key], rel=1e-4), key


def test_two_replicas(quiet_train, tmp_path):
    """Clipped gradients, BatchNorm statistics, averages, metrics; ten pictures to evaluate."""
    build = train_tiny.build_plain
    quiet_train(build, tiny_data(), train_tiny.PLAINEST, strategy=mirrored(2))
    assert_as(run_alone(build, tmp_path / "alone"), tmp_path / "run")


def test_four_replicas(alone, quiet_train, tmp_path):
    quiet_train(build_convnet, tiny_data(), train_tiny.PLAINEST, strategy=mirrored(4))
    assert_as(alone, tmp_path / "run")


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_several_steps_a_call_and_other_optimizers(optimizer, quiet_train, tmp_path):
    """Keras' steps_per_execution dies on replicas; our optimizers' kernels are our own."""
    recipe = dataclasses.replace(
        train_tiny.PLAINEST, optimizer=optimizer, learning_rate=1e-3, weight_decay=0.01
    )
    alone = tmp_path / "alone"
    quiet_train(build_convnet, tiny_data(), recipe, alone)
    quiet_train(build_convnet, tiny_data(), recipe, strategy=mirrored(2), steps_per_call=4)
    assert_as(state(alone), tmp_path / "run")


def test_another_number_of_replicas_goes_on(alone, quiet_train, tmp_path):
    """Stopped within an epoch on two, within the next on one, ended on four: as one all the way."""
    for devices, step in ((mirrored(2), 4), ("one", 9)):
        die = train_tiny.Die(step, signal.SIGTERM)
        with pytest.raises(SystemExit):
            quiet_train(
                build_convnet,
                tiny_data(),
                train_tiny.PLAINEST,
                strategy=devices,
                callbacks=[die],
            )
        assert checkpoints.load_newest(tmp_path / "run" / "checkpoints")[1]["step"] == step
    result = quiet_train(build_convnet, tiny_data(), train_tiny.PLAINEST, strategy=mirrored(4))
    assert result.resumed_from == 9
    assert_as(alone, tmp_path / "run")


def test_the_strategy_that_users_get(alone, tmp_path):
    """`mirrored` over all four devices with TensorFlow's own collectives, in its own process."""
    done = forked.run(train_tiny.__file__, tmp_path, "--strategy=mirrored", "--plain")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_as(alone, tmp_path)


def test_two_workers(alone, tmp_path):
    """Keras' fit crashes with MultiWorkerMirroredStrategy.

    The second worker is asked to stop: both do, at the same step; one process goes on alone and is
    stopped, and both together end it: every global batch is that of one device.
    """
    codes, outputs = run_workers(tmp_path, [], ["--die=3:SIGTERM"])
    assert codes == [143, 143], outputs
    assert checkpoints.load_newest(tmp_path / "checkpoints")[1]["step"] == 4
    done = forked.run(train_tiny.__file__, tmp_path, "--plain", "--die=9:SIGTERM")
    assert done.returncode == 143, done.stderr[-3000:]
    codes, outputs = run_workers(tmp_path, [], [])
    assert codes == [0, 0], outputs
    assert_as(alone, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers, victim", [(2, 0), (2, 1), (4, 1)])
def test_a_worker_is_killed_after_a_checkpoint(workers, victim, alone, tmp_path):
    """The others end within half a minute with a sentence, and all go on from the checkpoint."""
    options = [[] for _ in range(workers)]
    options[victim] = ["--die=8:SIGKILL"]
    start = time.monotonic()
    codes, outputs = run_workers(tmp_path, *options)
    assert codes == [-9 if i == victim else 1 for i in range(workers)], outputs
    del outputs[victim]
    assert all("WorkerLost: Another worker has ended or cannot be reached" in o for o in outputs)
    assert time.monotonic() - start < 120  # with the start of both
    assert checkpoints.load_newest(tmp_path / "checkpoints")[1]["step"] == 6
    codes, outputs = run_workers(tmp_path, *[[] for _ in range(workers)])
    assert codes == [0] * workers, outputs
    assert_as(alone, tmp_path)


def run_workers(workdir, *flags):
    """Exit codes and outputs of two workers that train together."""
    workers = [f"127.0.0.1:{free_port()}" for _ in flags]
    processes = []
    for index, own in enumerate(flags):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        options = ["--strategy=multiworker", "--plain", *own]
        processes.append(
            forked.Process(train_tiny.__file__, workdir, *options, TF_CONFIG=json.dumps(task))
        )
    ended = [process.finish() for process in processes]
    return [done.returncode for done in ended], [done.stderr for done in ended]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_replicas_draw_their_own_masks():
    """Keras mirrors the seed, so its replicas drop the same units."""
    strategy = mirrored(2)
    with strategy.scope():
        layer = layers.Dropout(0.5, seed=1)
        layer(tf.ones((1, 4)))
        theirs = keras.layers.Dropout(0.5, seed=1)

    def masks(layer):
        run = tf.function(lambda: strategy.run(lambda: layer(tf.ones((1, 256)), training=True)))
        return [value.numpy() for value in strategy.experimental_local_results(run())]

    one, other = masks(layer)
    # independent masks of 256 units agree in half of them; 6 standard deviations are 48
    assert abs(np.sum(one == other) - 128) < 48
    first, second = masks(layer)
    assert not np.array_equal(one, first) and not np.array_equal(other, second)
    np.testing.assert_array_equal(*masks(theirs))  # why our layer exists


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_picture_is_evaluated_once(replicas, quiet_train):
    """Eleven pictures on two replicas; a classifier that is always right on four of them."""
    data = tiny_data(validation=11)
    inputs = keras.Input((None, None, 3))
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    outputs = keras.layers.Dense(4, activation="softmax", name="predictions", trainable=False)(
        means
    )
    model = keras.Model(inputs, outputs)
    kernel = np.float32([[9, -9, -9, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    model.get_layer("predictions").set_weights([kernel, np.float32([-5, 0, -9, -9])])
    recipe = recipes.Recipe("frozen", "tests", 1, 8, 1e-3, optimizer="sgd")
    result = quiet_train(model, data, recipe, strategy=mirrored(replicas))
    split = data.validation
    means = split.pictures.astype("float64").mean((1, 2)) / 255
    logits = means @ kernel + [-5, 0, -9, -9]
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    row = result.history[-1]
    expected = -logs[np.arange(11), split.labels].mean()
    assert row["val_loss"] == pytest.approx(expected, rel=1e-4)
    assert row["val_accuracy"] == pytest.approx((logits.argmax(1) == split.labels).mean())


def test_tpu_code_as_far_as_a_cpu_goes(monkeypatch, quiet_train, tmp_path):
    """Static batches, one trace an image size, many steps a call, a step that XLA compiles."""
    phases = ramp(2, 2, image_size=(32, 48))
    recipe = dataclasses.replace(train_tiny.PLAINEST, phases=phases)
    expected = quiet_train(build_convnet, tiny_data(), recipe)
    for module in (batches, strategy):
        monkeypatch.setattr(module, "is_tpu", lambda strategy: True)
    monkeypatch.delattr(batches, "_loosen")
    workdir = tmp_path / "static"
    result = quiet_train(build_convnet, tiny_data(), recipe, workdir, jit_compile=True)
    assert result.traces == 2  # one an image size
    for row, other in zip(result.history, expected.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_no_tpu(quiet_train):
    with pytest.raises(RuntimeError, match="The TPU 'nobody' cannot be used: .* tensorflow-tpu"):
        quiet_train(
            train_tiny.build_plain, tiny_data(), train_tiny.PLAINEST, strategy="tpu", tpu="nobody"
        )


@pytest.mark.parametrize(
    "jobs, task, chief",
    [
        (("chief", "worker"), ("chief", 0), True),
        (("chief", "worker"), ("worker", 0), False),
        (("worker",), ("worker", 0), True),
        (("worker",), ("worker", 1), False),
    ],
)
def test_one_worker_writes(jobs, task, chief):
    spec = tf.train.ClusterSpec({job: ["a:1", "b:1"] for job in jobs})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type=task[0], task_id=task[1]
    )
    assert training.is_chief(types.SimpleNamespace(cluster_resolver=resolver)) == chief


@pytest.mark.parametrize(
    "config, message",
    [
        ("{junk", "cannot be read: JSONDecodeError"),
        ("[1]", "cannot be read"),
        ({"task": {"type": "worker", "index": 1}}, r"task \('worker', 1\) is none of its cluster"),
        ({"task": {"type": "chef", "index": 0}}, "cannot be read: KeyError.'chef'"),
    ],
)
def test_a_wrong_description_of_the_workers_is_named(config, message, monkeypatch):
    if isinstance(config, dict):
        config = json.dumps({"cluster": {"worker": ["a:1"]}, **config})
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=f"^The environment variable TF_CONFIG says .*{message}"):
        training.make_strategy("multiworker")
