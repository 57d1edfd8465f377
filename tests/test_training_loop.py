"""The loop: phases, traces, effective rates, exactness, rollback, signals."""

import csv
import dataclasses
import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import build_convnet, dense, mirrored, tiny_data

from keras_effv2 import layers, progressive, recipes, training
from keras_effv2.phases import Phase, phase_at, ramp
from keras_effv2.training import checkpoints

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


@pytest.mark.parametrize("warmup, told", [(1.0, 0), (2.0, 1)])
def test_a_warm_up_as_long_as_the_training_is_told(warmup, told, quiet_train, caplog):
    """As that of `imagenet1k`, of 5 epochs, in a trial run of 2."""
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 0.1, schedule="constant", warmup_epochs=warmup)
    result = quiet_train(lambda: dense(4), tiny_data(), recipe)
    assert caplog.text.count("The warm-up of 2 epochs does not end") == told
    # the last of 12 steps, of which 6 or 12 are the warm-up
    rate = 0.1 * 11 / 12 if told else 0.1
    assert result.history[-1]["learning_rate"] == pytest.approx(rate)


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
    phases = ramp(6, 3, image_size=(16, 32), dropout=(0.1, 0.7), drop_path=(0.0, 0.5))
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
        phase = phase_at(phases, epoch)
        assert iterations == (epoch + 1) * 60
        # 5 standard deviations of the share among 960 pictures, or 960 * 256 values
        assert path == pytest.approx(phase.drop_path, abs=5 * (0.25 / 480) ** 0.5)
        rest = phase.dropout
        assert values == pytest.approx(rest, abs=0.01)


def test_a_rate_of_some_phases_only(quiet_train):
    """A phase that says nothing has the rate that the layer was built with."""
    phases = (
        Phase(0, 1, image_size=16),
        Phase(1, 2, image_size=16, dropout=0.6),
        Phase(2, 3, image_size=16),
    )
    recipe = recipes.Recipe("probe", "tests", 3, 16, 1e-3, phases=phases)
    data = dataclasses.replace(tiny_data(), train=tiny_data(count=480).train, validation=None)
    watch = Watch()
    quiet_train(build_probe, data, recipe, callbacks=[watch])
    assert [values for _, values, _ in watch.rows] == pytest.approx([0.1, 0.6, 0.1], abs=0.01)


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


def test_several_steps_a_call_are_the_same_steps(quiet_train, tmp_path):
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, checkpoint_steps=5)
    single = quiet_train(lambda: dense(4), tiny_data(), recipe)
    calls = []

    class Calls(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            calls.append(int(self.model.optimizer.iterations))

    many = quiet_train(
        lambda: dense(4),
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
        quiet_train(build_convnet, tiny_data(), recipe, callbacks=[Poison(8)])
    result = quiet_train(
        build_convnet,
        tiny_data(),
        recipe,
        tmp_path / "rolled",
        callbacks=[Poison(2)],
        rollback=True,
    )
    summary = json.loads((tmp_path / "rolled" / "summary.json").read_text())
    assert summary["steps_left_out"] == [[0, 2]]
    assert result.steps == 3 * STEPS - 1 and np.isfinite(result.history[-1]["loss"])


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_terminated_runs_go_on_exactly(number, code, quiet_train, tmp_path):
    """In one process; tests/test_survival.py has the hard kills."""
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, clip=1.0)
    expected = quiet_train(lambda: dense(4), tiny_data(), recipe, tmp_path / "whole")
    handler = signal.getsignal(number)
    with pytest.raises(code) as left:
        die = train_tiny.Die(8, number)
        quiet_train(lambda: dense(4), tiny_data(), recipe, callbacks=[die])
    assert code is KeyboardInterrupt or left.value.code == 143
    assert signal.getsignal(number) is handler
    result = quiet_train(lambda: dense(4), tiny_data(), recipe)
    assert result.resumed_from == 8 and result.steps == expected.steps
    for one, other in zip(result.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_nobody_looks_an_epoch_is_a_line(tmp_path, capsys):
    phases = ramp(2, 2, image_size=(16, 24))
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, phases=phases)
    training.train(dense(4), tiny_data(), recipe, tmp_path / "run", "one")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1/2: 16 px, loss ") and "images/s" in first
    assert second.startswith("epoch 2/2: 24 px, loss ")


def test_curves_that_cannot_be_written_are_named(quiet_train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("a file")
    with pytest.raises(
        OSError, match="run/tensorboard could not be written .Not a directory.; the"
    ):
        quiet_train(build_convnet, tiny_data(), train_tiny.PROGRESSIVE)
