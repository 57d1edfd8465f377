"""The trainer on one device: phases, traces, effective rates, exactness, refusals."""

import copy
import csv
import dataclasses
import itertools
import json
import signal
import threading
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import build_convnet, mirrored, tiny_data

from keras_effv2 import layers, progressive, recipes, training
from keras_effv2.data import Data, Split
from keras_effv2.training import checkpoints, stopping

STEPS = train_tiny.STEPS


@keras.saving.register_keras_serializable("tests")
class ShareOfZeros(keras.layers.Layer):
    """Hands on its inputs and keeps count, within the compiled step, of how many are zero."""

    def build(self, shape):
        self.zeros = self.add_weight(name="zeros", initializer="zeros", trainable=False)
        self.values = self.add_weight(name="values", initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.zeros.assign_add(tf.reduce_sum(tf.cast(x == 0, "float32")))
            self.values.assign_add(tf.cast(tf.size(x), "float32"))
        return x

    def take(self):
        share = float(self.zeros.numpy() / self.values.numpy())
        self.zeros.assign(0.0)
        self.values.assign(0.0)
        return share


def build_probe():
    """Positive values go through DropPath and Dropout: every zero was dropped."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255, offset=0.1)(inputs)
    x = ShareOfZeros(name="path")(layers.DropPath(0.1, seed=1)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(
        256, bias_initializer="ones", kernel_initializer="zeros", trainable=False
    )(x)
    x = ShareOfZeros(name="values")(layers.Dropout(0.1, seed=2)(x))
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax", name="predictions")(x))


class Watch(keras.callbacks.Callback):
    """Notes the shares of zeros and the optimizer's state at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        shares = [self.model.get_layer(name).take() for name in ("path", "values")]
        self.rows.append((*shares, self.model.optimizer.iterations.numpy()))


@pytest.mark.parametrize("strategy", ["one", "mirrored", "fit", "fit jit"])
def test_the_compiled_step_obeys_every_phase(strategy, quiet_train):
    """Rates are measured on what the step dropped, not read from an attribute."""
    phases = progressive.ramp(6, 3, image_size=(16, 32), dropout=(0.1, 0.7), drop_path=(0.0, 0.5))
    batch, watch = 16, Watch()
    split = tiny_data(count=960).train
    if strategy.startswith("fit"):
        model = build_probe()
        model.compile("adam", "categorical_crossentropy", jit_compile="jit" in strategy)
        learning = progressive.ProgressiveLearning(phases)
        model.fit(
            learning.dataset(split, batch),
            epochs=6,
            callbacks=[learning, watch],
            verbose=0,
            shuffle=False,
        )
    else:
        recipe = recipes.Recipe("probe", "tests", 6, batch, 1e-3, phases=phases, crop_area=(0.5, 1))
        data = dataclasses.replace(tiny_data(), train=split, validation=None)
        own = mirrored(2) if strategy == "mirrored" else "one"
        result = quiet_train(build_probe, data, recipe, strategy=own, callbacks=[watch])
        assert result.traces == 1
        assert [row["image_size"] for row in result.history] == [16, 16, 24, 24, 32, 32]
    for epoch, (path, values, iterations) in enumerate(watch.rows):
        phase = progressive.phase_at(phases, epoch)
        assert iterations == (epoch + 1) * 60
        # 5 standard deviations of the share among 960 pictures, or 960 * 256 values
        assert path == pytest.approx(phase.drop_path, abs=5 * (0.25 / 480) ** 0.5)
        rest = phase.dropout
        assert values == pytest.approx(rest, abs=0.01)


@keras.saving.register_keras_serializable("tests")
class Look(keras.layers.Layer):
    """Notes of a step's pictures their side, and shares of grey pixels and of uneven pictures."""

    def build(self, shape):
        self.seen = self.add_weight(name="seen", shape=(3,), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            grey = (x > 0) & (x < 255)
            uneven = tf.reduce_max(x, (1, 2, 3)) > tf.reduce_min(x, (1, 2, 3))
            shares = [tf.reduce_mean(tf.cast(which, "float32")) for which in (grey, uneven)]
            self.seen.assign(tf.stack([tf.cast(tf.shape(x)[1], "float32"), *shares]))
        return x


def test_pictures_have_the_size_and_the_strengths_of_their_phase(quiet_train):
    """Measured in the step: mixup makes black and white pictures grey, CutMix uneven."""
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_layer("look").seen.numpy())
    )
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(Look(name="look")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    labels = np.arange(64) % 2
    pictures = np.broadcast_to(np.uint8(255 * labels)[:, None, None, None], (64, 8, 8, 3))
    split = Split(("black", "white"), labels, pictures.copy())
    phases = (
        progressive.Phase(0, 1, image_size=16),
        progressive.Phase(1, 2, image_size=24, mixup=1.0),
        progressive.Phase(2, 3, image_size=32, cutmix=1.0),
        progressive.Phase(3, 4, image_size=20, randaugment=30),
        progressive.Phase(4, 5, image_size=16),
    )
    recipe = recipes.Recipe("tiny", "tests", 5, 32, 1e-3, phases=phases)
    quiet_train(model, Data("plain", split.class_names, split), recipe, callbacks=[note])
    sides, *shares = np.transpose(seen)
    np.testing.assert_array_equal(sides, [16, 24, 32, 20, 16])
    grey, uneven = np.greater(shares, 0)
    np.testing.assert_array_equal(grey, [False, True, False, True, False])
    np.testing.assert_array_equal(uneven, [False, False, True, True, False])


@pytest.mark.parametrize("replicas, threads", [(1, 2), (2, 1)])
def test_replicas_get_their_batches_from_one_thread(replicas, threads, quiet_train, monkeypatch):
    """TensorFlow hands one iterator's batches to the other where two threads make them."""
    makers, make = set(), Split.train_batches

    def noted(*arguments, **options):
        makers.add(threading.get_ident())
        return make(*arguments, **options)

    monkeypatch.setattr(Split, "train_batches", noted)
    strategy = "one" if replicas == 1 else mirrored(replicas)
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3)
    quiet_train(lambda: _dense(4), tiny_data(), recipe, strategy=strategy)
    assert len(makers) == threads


def test_slots_live_through_boundaries_and_files_tell_all(quiet_train, tmp_path):
    seen = []

    class Slots(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            optimizer = self.model.optimizer
            seen.append((int(optimizer.iterations), [id(v) for v in optimizer.variables]))

    result = quiet_train(train_tiny.build, tiny_data(), train_tiny.PROGRESSIVE, callbacks=[Slots()])
    assert result.traces == 1
    assert [steps for steps, _ in seen] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    assert all(slots == seen[0][1] for _, slots in seen)
    run = tmp_path / "run"
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_size"] for row in rows] == ["32", "32", "48", "48"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 4 * STEPS and summary["epochs"] == 4
    assert (run / "labels.txt").read_text().splitlines() == list(tiny_data().class_names)
    assert (run / "history.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    assert len(list((run / "checkpoints").iterdir())) == checkpoints.KEEP

    # model.keras alone, with scikit-learn's count of its hits
    model = keras.models.load_model(run / "model.keras")
    pixels = layers.find_pixels(model)
    assert pixels.class_names == tiny_data().class_names and pixels.image_size == 48
    split = tiny_data().validation
    pictures = tf.image.resize(split.pictures, (48, 48), antialias=True)
    hits = model.predict(pictures, verbose=0).argmax(1) == split.labels
    assert hits.mean() == pytest.approx(summary["val_accuracy"])

    # a finished run is left as it is
    again = quiet_train(train_tiny.build, tiny_data(), train_tiny.PROGRESSIVE)
    assert again.resumed_from == again.steps == 4 * STEPS


def test_relative_attention_goes_through_the_phases(tiny_coatnet, quiet_train):
    phases = progressive.ramp(2, 2, image_size=(32, 64), multiple_of=32)
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, phases=phases)
    model = tiny_coatnet(classes=4, input_shape=(64, 64, 3))
    tables = [v.numpy() for v in model.trainable_variables if "relative_bias" in v.path]
    result = quiet_train(model, tiny_data(), recipe)
    assert result.traces == 1 and [row["image_size"] for row in result.history] == [32, 64]
    moved = [v.numpy() for v in model.trainable_variables if "relative_bias" in v.path]
    assert moved and all(not np.array_equal(a, b) for a, b in zip(tables, moved, strict=True))


@pytest.mark.parametrize("size, eval_size, wrong", [(48, 64, 48), (64, 100, 100)])
def test_relative_attention_takes_multiples_of_32(
    size, eval_size, wrong, tiny_coatnet, quiet_train
):
    phases = (progressive.Phase(0, 1, image_size=size),)
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-3, phases=phases, eval_size=eval_size)
    with pytest.raises(ValueError, match=f"multiples of 32 pixels. Received .* {wrong} pixels"):
        quiet_train(tiny_coatnet(classes=4), tiny_data(), recipe)


def test_several_steps_a_call_are_the_same_steps(quiet_train, tmp_path):
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, checkpoint_steps=5)
    single = quiet_train(lambda: _dense(4), tiny_data(), recipe)
    calls = []

    class Calls(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            calls.append(int(self.model.optimizer.iterations))

    many = quiet_train(
        lambda: _dense(4),
        tiny_data(),
        recipe,
        tmp_path / "many",
        callbacks=[Calls()],
        steps_per_call=4,
    )
    assert calls == [4, 5, 6, 10, 12]  # stops for checkpoints and ends of epochs
    assert [row["loss"] for row in many.history] == pytest.approx(
        [row["loss"] for row in single.history]
    )
    for one, other in zip(many.model.get_weights(), single.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_batch_size_may_be_scheduled_and_the_rate_goes_with_it(quiet_train):
    phases = (
        progressive.Phase(0, 1, image_size=32, batch_size=16),
        progressive.Phase(1, 3, image_size=48, batch_size=8),
    )
    recipe = recipes.Recipe("tiny", "tests", 3, 16, 1e-3, schedule="linear", phases=phases)
    result = quiet_train(lambda: _dense(4), tiny_data(), recipe)
    assert [row["steps"] for row in result.history] == [3, 9, 15]
    # a third of the way at the whole rate, then two thirds and the end at half of it
    rates = [row["learning_rate"] for row in result.history]
    assert rates == pytest.approx([1e-3 * 2 / 3 * 0.5, 1e-3 / 3 * 0.5, 0.0], abs=1e-9)


def test_patience_ends_the_training(quiet_train):
    """What is learnt is wrong for the validation split; a second call does not train on."""
    data = tiny_data()
    wrong = copy.copy(data.validation)
    wrong.labels = (wrong.labels + 1) % 4
    data = dataclasses.replace(data, validation=wrong)
    recipe = recipes.Recipe("tiny", "tests", 12, 8, 0.1, patience=2)
    result = quiet_train(lambda: _dense(4), data, recipe)
    losses = [row["val_loss"] for row in result.history]
    assert len(losses) == int(np.argmin(losses)) + 3 < 12
    again = quiet_train(lambda: _dense(4), data, recipe)
    assert again.steps == result.steps


@pytest.mark.parametrize(
    "losses, over",
    [([1.0, float("nan"), 0.9, 0.8], False), ([0.5, float("nan"), 0.9, 0.8], True), ([], False)],
)
def test_a_validation_loss_that_is_not_a_number_is_a_bad_one(losses, over):
    assert stopping.is_over(losses, patience=3) == over


class Unregistered(keras.layers.Layer):
    """A layer that Keras cannot find by its name."""

    def call(self, x):
        return x


def test_layers_of_ones_own_are_no_obstacle(quiet_train, tmp_path):
    def build():
        inputs = keras.Input((None, None, 3))
        x = keras.layers.GlobalAveragePooling2D()(Unregistered()(inputs))
        return keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))

    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-3)
    result = quiet_train(build, tiny_data(), recipe)
    loaded = keras.models.load_model(
        tmp_path / "run" / "model.keras", custom_objects={"Unregistered": Unregistered}
    )
    assert getattr(loaded, "optimizer", None) is None
    for one, other in zip(result.model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


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


def test_what_others_left_among_the_checkpoints_stays(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".step-000000001.ckpt.abc").write_text("torn")
    checkpoints.save(tmp_path, 1, {"a": np.zeros(2)}, {"step": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".ipynb_checkpoints",
        "step-000000001.ckpt",
    ]


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_patience_keeps_the_best_weights_those_of_the_start_included(ema, quiet_train, tmp_path):
    """Never worse than before: here every step away from solved weights does harm."""
    data = tiny_data()
    wrong = copy.copy(data.train)
    wrong.labels = (wrong.labels + 1) % 4
    spoiling = dataclasses.replace(data, train=wrong)
    recipe = recipes.Recipe("tiny", "tests", 3, 8, 0.1, patience=5, ema=ema)
    start = quiet_train(
        lambda: _dense(4), data, recipes.Recipe("tiny", "tests", 6, 8, 0.1), tmp_path / "start"
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


def test_a_rate_of_some_phases_only(quiet_train):
    """A phase that says nothing has the rate that the layer was built with."""
    phases = (
        progressive.Phase(0, 1, image_size=16),
        progressive.Phase(1, 2, image_size=16, dropout=0.6),
        progressive.Phase(2, 3, image_size=16),
    )
    recipe = recipes.Recipe("probe", "tests", 3, 16, 1e-3, phases=phases)
    data = dataclasses.replace(tiny_data(), train=tiny_data(count=480).train, validation=None)
    watch = Watch()
    quiet_train(build_probe, data, recipe, callbacks=[watch])
    assert [values for _, values, _ in watch.rows] == pytest.approx([0.1, 0.6, 0.1], abs=0.01)


class Poison(keras.callbacks.Callback):
    """Makes a weight infinite before a step, once."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            self.step = -1
            kernel = self.model.trainable_variables[0]
            kernel.assign(kernel * np.inf)


def test_loss_that_is_not_finite(quiet_train, tmp_path):
    recipe = recipes.Recipe("tiny", "tests", 3, 8, 1e-3)
    with pytest.raises(FloatingPointError, match=r"step 9, epoch 1, phase .* checkpoint: step 6\."):
        quiet_train(train_tiny.build, tiny_data(), recipe, callbacks=[Poison(8)])
    result = quiet_train(
        train_tiny.build,
        tiny_data(),
        recipe,
        tmp_path / "rolled",
        callbacks=[Poison(2)],
        rollback=True,
    )
    summary = json.loads((tmp_path / "rolled" / "summary.json").read_text())
    assert summary["steps_left_out"] == [[0, 2]]
    assert result.steps == 3 * STEPS - 1 and np.isfinite(result.history[-1]["loss"])


@keras.saving.register_keras_serializable("tests")
class BadGradient(keras.layers.Layer):
    """Hands on its inputs; its gradient is infinite from step 6 to step `last`."""

    def __init__(self, last=6, **options):
        super().__init__(**options)
        self.last = last

    def get_config(self):
        return {**super().get_config(), "last": self.last}

    def build(self, shape):
        self.step = self.add_weight(name="step", initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.step.assign_add(1.0)
        now = tf.convert_to_tensor(self.step.value)

        @tf.custom_gradient
        def identity(x):
            bad = (now >= 6) & (now <= self.last)
            return x, lambda upstream: upstream * tf.cast(tf.where(bad, np.inf, 1.0), x.dtype)

        return identity(x)


def build_with_bad_gradient(last=6):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    x = BadGradient(last)(keras.layers.Dense(3)(x))
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax", dtype="float32")(x))


def test_a_gradient_that_is_not_finite_is_never_saved(quiet_train, tmp_path):
    """At the last step of an epoch, whose loss is fine and after which a checkpoint is due."""
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, checkpoint_steps=4)
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 6.*: step 4\."):
        quiet_train(build_with_bad_gradient, tiny_data(), recipe)
    arrays, meta = checkpoints.load_newest(tmp_path / "run" / "checkpoints")
    assert meta["step"] == 4 and all(np.isfinite(array).all() for array in arrays.values())


def test_refusals(quiet_train, tmp_path):
    recipe, data = recipes.Recipe("tiny", "tests", 1, 8, 1e-3), tiny_data()
    half = dataclasses.replace(recipe, precision="mixed_bfloat16")

    def refused(
        message, *, model=train_tiny.build, data=data, recipe=recipe, error=ValueError, **options
    ):
        with pytest.raises(error, match=message):
            quiet_train(model, data, recipe, **options)

    refused("7 outputs, colours has 4 classes", model=lambda: _dense(7))
    refused("batch of 64 is larger than", recipe=dataclasses.replace(recipe, batch_size=64))
    refused("does not divide into 2 replicas", strategy=mirrored(2), recipe=_of_batch(recipe, 7))
    refused("`strategy` is one of", strategy="two")
    refused("pass a function", model=_dense(4), strategy=_tpu_like())
    with checkpoints.locked(tmp_path / "run"):
        refused("Another process trains in", error=RuntimeError)
    quiet_train(lambda: _dense(4), data, recipe)
    changed = dataclasses.replace(recipe, learning_rate=2e-3)
    refused("another recipe; changed: learning_rate: 0.001 -> 0.002", recipe=changed)
    refused("changed: parameters: 16 -> 28", model=lambda: _dense(4, hidden=3))
    other = dataclasses.replace(data, train=data.train.select(np.arange(40)))
    refused("another recipe; changed: .*training pictures: 48 -> 40", data=other)
    way_out = r"built in float32\. .*effv2 train --recipe.precision=float32"
    refused(f"mixed_bfloat16, but model .* {way_out}", model=_dense(4), recipe=half)
    refused("`workdir` is a local folder. Received: gs://b/run", workdir="gs://b/run")
    wild = dataclasses.replace(recipe, crop_area=(0.5, 0.1))
    refused(r"`crop_area` is .* Received: \(0.5, 0.1\)", recipe=wild)
    refused("works on one device; this strategy has 2", strategy=mirrored(2), jit_compile=True)


def _dense(classes, hidden=0):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    if hidden:
        x = keras.layers.Dense(hidden)(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


def _of_batch(recipe, size):
    return dataclasses.replace(recipe, batch_size=size)


def _tpu_like():
    """A strategy that takes models built in its scope only."""
    return tf.distribute.MultiWorkerMirroredStrategy()


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_terminated_runs_go_on_exactly(number, code, quiet_train, tmp_path):
    """In one process; tests/test_survival.py has the hard kills."""
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, clip=1.0)
    expected = quiet_train(lambda: _dense(4), tiny_data(), recipe, tmp_path / "whole")
    handler = signal.getsignal(number)
    with pytest.raises(code) as left:
        die = train_tiny.Die(8, number)
        quiet_train(lambda: _dense(4), tiny_data(), recipe, callbacks=[die])
    assert code is KeyboardInterrupt or left.value.code == 143
    assert signal.getsignal(number) is handler
    result = quiet_train(lambda: _dense(4), tiny_data(), recipe)
    assert result.resumed_from == 8 and result.steps == expected.steps
    for one, other in zip(result.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "precision, clip, tolerance", [("float32", 0.1, 1e-5), ("mixed_float16", 0.0, 1e-2)]
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_steps_are_written_out(replicas, precision, clip, tolerance, quiet_train):
    """Against NumPy: Nesterov's momentum on gradients of cross-entropy, clipped or scaled."""
    phase = progressive.Phase(0, 1, image_size=16)
    recipe = recipes.Recipe("sgd", "tests", 1, 8, 0.5, optimizer="sgd", schedule="constant")
    recipe = dataclasses.replace(recipe, clip=clip, precision=precision, phases=(phase,))
    strategy, trail = "one" if replicas == 1 else mirrored(replicas), Trail()
    quiet_train(lambda: _dense(4), tiny_data(), recipe, strategy=strategy, callbacks=[trail])
    batches = tiny_data().train.train_batches(
        image_size=16, batch_size=8, augment=recipes.augment_of(recipe, phase)
    )
    kernel, bias = trail.weights[0]
    momentum = [0.0, 0.0]
    for (images, labels), ours in zip(batches, trail.weights[1:], strict=True):
        features = images.numpy().mean((1, 2)) / 255
        scores = np.exp(features @ kernel + bias)
        errors = (scores / scores.sum(1, keepdims=True) - labels.numpy()) / 8
        gradients = [features.T @ errors, errors.sum(0)]
        if clip:
            norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
            assert norm > clip
            gradients = [gradient * clip / norm for gradient in gradients]
        momentum = [0.9 * m - 0.5 * g for m, g in zip(momentum, gradients, strict=True)]
        kernel, bias = (
            value + 0.9 * m - 0.5 * g
            for value, m, g in zip((kernel, bias), momentum, gradients, strict=True)
        )
        np.testing.assert_allclose(ours[0], kernel, atol=tolerance)
        np.testing.assert_allclose(ours[1], bias, atol=tolerance)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_learns(precision, quiet_train):
    recipe = recipes.Recipe("tiny", "tests", 5, 8, 1e-2, precision=precision, flip=False)
    recipe = dataclasses.replace(recipe, crop_area=(0.9, 1.0))
    policy = keras.config.dtype_policy().name
    result = quiet_train(build_convnet, tiny_data(), recipe)
    assert keras.config.dtype_policy().name == policy
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    assert all(v.dtype == "float32" for v in result.model.trainable_variables)


class Trail(keras.callbacks.Callback):
    """Notes the weights and the optimizer's slots at the start and after every step."""

    def __init__(self):
        super().__init__()
        self.weights, self.slots = [], []

    def note(self, *_):
        slots = [v for v in self.model.optimizer.variables if v.shape]
        self.weights.append([w.numpy() for w in self.model.weights])
        self.slots.append([v.numpy() for v in slots])

    def on_train_begin(self, logs=None):
        self.note()

    def on_train_batch_end(self, batch, logs=None):
        self.note()


@pytest.mark.parametrize("replicas", [1, 2])
def test_float16_overflows_lower_the_loss_scale(replicas, quiet_train, tmp_path):
    """An overflow is a step left out, not the end; gradients infinite at every scale are."""
    recipe = recipes.Recipe("tiny", "tests", 5, 8, 1e-3, weight_decay=0.1)
    recipe = dataclasses.replace(recipe, precision="mixed_float16")
    strategy, trail = "one" if replicas == 1 else mirrored(replicas), Trail()
    result = quiet_train(
        build_with_bad_gradient, tiny_data(), recipe, strategy=strategy, callbacks=[trail]
    )
    for kept in (trail.weights, trail.slots):
        flat = [np.concatenate([a.ravel() for a in arrays if a.ndim]) for arrays in kept]
        moved = [np.any(one != other) for one, other in itertools.pairwise(flat)]
        assert moved == [step != 6 for step in range(1, 5 * STEPS + 1)]
    assert result.steps == 5 * STEPS and np.isfinite(result.history[-1]["loss"])
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    arrays, _ = checkpoints.load_newest(tmp_path / "run" / "checkpoints")
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert arrays["scaling/0"] == 2.0**14 and arrays["scaling/1"] == 5 * STEPS - 6
    with pytest.raises(FloatingPointError, match=r"not finite at step 21, .*step 18"):
        quiet_train(
            lambda: build_with_bad_gradient(10**4),
            tiny_data(),
            recipe,
            tmp_path / "bad",
            strategy=strategy,
        )


def test_a_model_of_float16_has_its_loss_scaled_whatever_the_recipe_says(quiet_train):
    """As `effv2 finetune --precision=mixed_float16` leaves it; its step 6 overflows."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_with_bad_gradient()
    finally:
        keras.config.set_dtype_policy("float32")
    result = quiet_train(model, tiny_data(), recipes.Recipe("tiny", "tests", 2, 8, 1e-3))
    assert result.steps == 2 * STEPS and np.isfinite(result.history[-1]["loss"])


@keras.saving.register_keras_serializable("tests")
class Table(keras.layers.Layer):
    """Adds a row of a table, whose gradient is sparse; nothing uses its other weight."""

    def build(self, shape):
        self.table = self.add_weight(name="table", shape=(2, 3), initializer="zeros")
        self.unused = self.add_weight(name="unused", initializer="ones")

    def call(self, x):
        return x + tf.cast(tf.gather(self.table.value, [1]), x.dtype)


def build_with_odd_weights():
    """Adapted normalization counts its pictures in an integer."""
    inputs = keras.Input((None, None, 3))
    normalization = keras.layers.Normalization()
    normalization.adapt(tiny_data().train.pictures)
    x = keras.layers.GlobalAveragePooling2D()(normalization(inputs))
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(Table()(x)))


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_weights_without_gradient_sparse_ones_and_integers(replicas, precision, quiet_train):
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-2, ema=0.9, clip=1.0, precision=precision)
    strategy, trail = "one" if replicas == 1 else mirrored(replicas), Trail()
    model = quiet_train(
        build_with_odd_weights, tiny_data(), recipe, strategy=strategy, callbacks=[trail]
    ).model
    named = {weight.name: weight.numpy() for weight in model.weights}
    assert named["unused"] == 1 and named["count"].dtype.kind == "i"
    for weight, start in zip(model.weights, trail.weights[0], strict=True):
        moved = np.any(weight.numpy() != start, axis=-1)
        expected = {"table": [False, True], "bias": True, "kernel": True}
        np.testing.assert_array_equal(moved, expected.get(weight.name, False))


def test_several_labels_share_a_picture():
    """The losses against NumPy: softmax over normalised labels, sigmoid over each."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 5)).astype("float32")
    labels = np.float32([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0.3, 0, 0, 0, 0.7]])
    make = recipes.Recipe("loss", "tests", 1, 1, 1.0, label_smoothing=0.1)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    smooth = labels / labels.sum(1, keepdims=True) * 0.9 + 0.1 / 5
    np.testing.assert_allclose(
        training.cross_entropy(labels, logits, make), -(smooth * logs).sum(1), rtol=1e-5
    )
    sigmoid = 1 / (1 + np.exp(-logits.astype("float64")))
    smooth = labels * 0.9 + 0.05
    expected = -(smooth * np.log(sigmoid) + (1 - smooth) * np.log(1 - sigmoid)).sum(1)
    recipe = dataclasses.replace(make, loss="sigmoid")
    np.testing.assert_allclose(training.cross_entropy(labels, logits, recipe), expected, rtol=1e-5)


def test_average_has_batch_norm_statistics_and_a_warm_up(quiet_train):
    """Against NumPy: the average of the weights after each of the steps."""
    trail = Trail()
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-2, ema=0.99)
    result = quiet_train(train_tiny.build, tiny_data(), recipe, callbacks=[trail])
    first, *rest = trail.weights
    average = first
    for step, weights in enumerate(rest):
        decay = min(0.99, (1 + step) / (10 + step))  # tf.train.ExponentialMovingAverage
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    moved = 0
    for variable, start, expected in zip(result.model.weights, first, average, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-6)
        moved += "moving_" in variable.path and not np.allclose(expected, start)
    assert moved > 10
