"""Progressive learning: the paper's table, and rates measured in the compiled step."""

import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effv2 import layers, progressive
from keras_effv2.phases import Phase, check, phase_at, ramp, resolved
from keras_effv2.progressive import ProgressiveLearning

# arXiv 2104.00298 table 6: last (image size, RandAugment, mixup, dropout); the first is 128, 5, 0, 0.1.
# The sizes between are those of the paper's rule, S_0 + (S_e - S_0) * i / (M - 1).
TABLE_6 = {
    "S": ((300, 15, 0.0, 0.3), (128, 185, 243, 300)),
    "M": ((380, 20, 0.2, 0.4), (128, 212, 296, 380)),
    "L": ((380, 25, 0.5, 0.5), (128, 212, 296, 380)),
}


@pytest.mark.parametrize("size", TABLE_6)
def test_the_papers_phases(size):
    (image_size, randaugment, mixup, dropout), sizes = TABLE_6[size]
    phases = ramp(
        350,
        4,
        image_size=(128, image_size),
        randaugment=(5, randaugment),
        mixup=(0, mixup),
        dropout=(0.1, dropout),
    )
    assert tuple(phase.image_size for phase in phases) == sizes
    for name, first, last in (
        ("randaugment", 5, randaugment),
        ("mixup", 0, mixup),
        ("dropout", 0.1, dropout),
    ):
        ours = [getattr(phase, name) for phase in phases]
        np.testing.assert_allclose(ours, np.linspace(first, last, 4), rtol=1e-12)
    assert [phase.start_epoch for phase in phases] == [0, 87, 175, 262]
    assert [phase.stop_epoch for phase in phases] == [87, 175, 262, 350]
    assert {(phase.cutmix, phase.drop_path, phase.batch_size) for phase in phases} == {(None,) * 3}


@pytest.mark.parametrize("epochs, phases", ((1, 1), (4, 4), (10, 3), (350, 4), (7, 7), (1000, 7)))
def test_every_epoch_is_in_one_phase_of_equal_length(epochs, phases):
    plan = ramp(epochs, phases)
    assert check(plan) == plan
    lengths = [phase.stop_epoch - phase.start_epoch for phase in plan]
    assert sum(lengths) == epochs and max(lengths) - min(lengths) <= 1
    for epoch in range(epochs):
        phase = phase_at(plan, epoch)
        assert phase.start_epoch <= epoch < phase.stop_epoch
    assert phase_at(plan, epochs + 5) == plan[-1]


@pytest.mark.parametrize(
    "multiple, pair, wanted",
    (
        (32, (128, 224), [128, 160, 192, 224]),
        (32, (128, 300), [128, 192, 256, 288]),
        (16, (128, 300), [128, 192, 240, 304]),
        (32, (8, 8), [32, 32, 32, 32]),  # never 0
    ),
)
def test_sizes_are_rounded_to_a_multiple(multiple, pair, wanted):
    sizes = [p.image_size for p in ramp(8, 4, image_size=pair, multiple_of=multiple)]
    assert sizes == wanted


def test_one_number_holds_and_one_phase_takes_the_last():
    assert {phase.dropout for phase in ramp(4, 4, dropout=0.2)} == {0.2}
    assert ramp(4, 1, image_size=(128, 300), mixup=(0, 0.5)) == (
        Phase(0, 4, image_size=300, mixup=0.5),
    )
    assert [phase.batch_size for phase in ramp(3, 3, batch_size=(128, 32))] == [128, 80, 32]


WRONG_RAMPS = {
    "no phase": ({"epochs": 4, "phases": 0}, "4 epochs cannot have 0 phases"),
    "few epochs": ({"epochs": 3}, "3 epochs cannot have 4 phases: give at least one epoch"),
    "dropout": ({"dropout": (0, 1)}, r"`dropout` is a pair .* \[0, 1\). Received: \(0, 1\)"),
    "drop_path": ({"drop_path": (-0.1, 0)}, r"`drop_path`.*\(-0.1, 0\)"),
    "randaugment": ({"randaugment": (5, 31)}, r"`randaugment`.*\(5, 31\)"),
    "image_size": ({"image_size": (0, 300)}, r"`image_size`.*\(0, 300\)"),
    "triple": ({"mixup": (0, 0.1, 0.2)}, r"`mixup` is a pair \(first, last\).*\(0, 0.1, 0.2\)"),
    "nan": ({"cutmix": (0, float("nan"))}, r"`cutmix`.*nan"),
}


@pytest.mark.parametrize("case", WRONG_RAMPS)
def test_a_wrong_ramp_is_named(case):
    arguments, message = WRONG_RAMPS[case]
    with pytest.raises(ValueError, match=message):
        ramp(**{"epochs": 8, **arguments})


@pytest.mark.parametrize(
    "phases, message",
    (
        ((), "no phases.*ramp"),
        ((Phase(1, 2),), "starts at epoch 0.*start_epoch=1"),
        ((Phase(0, 2), Phase(3, 4)), "starts at epoch 2.*start_epoch=3"),
        ((Phase(0, 2), Phase(1, 4)), "starts at epoch 2.*start_epoch=1"),
        ((Phase(0, 0),), "at least one epoch"),
        ((Phase(0, 1), Phase(1, 2, dropout=1.0)), r"`dropout` of .* \[0, 1\).*dropout=1.0"),
        ((Phase(0, 1, image_size=-32),), r"`image_size` of .* \[1, .*image_size=-32"),
        ((Phase(0, 1, batch_size=0),), r"`batch_size` of .* \[1, .*batch_size=0"),
        ((Phase(0, 1, randaugment=31),), "`randaugment` of .*randaugment=31"),
        ((Phase(0, 1, mixup=float("nan")),), "`mixup` of .*mixup=nan"),
    ),
)
def test_phases_that_cannot_be_trained_are_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveLearning(phases)


# ------------------------------------------------------------------------------ in `model.fit`


class Counting(keras.Model):
    """A model that counts how often its train step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


class Measure(keras.layers.Layer):
    """Hands its input on; the mean of `function(input)` becomes a metric of the compiled step."""

    def __init__(self, name, function):
        super().__init__(name=f"measure_{name}")
        self.function, self.mean = function, keras.metrics.Mean(name)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs):
        self.mean.update_state(self.function(inputs))
        return inputs


def zeros(x):
    return keras.ops.mean(keras.ops.cast(keras.ops.equal(x, 0), "float32"))


def side(x):
    return keras.ops.cast(keras.ops.shape(x)[1], "float32")


def make_probe(dropout=layers.Dropout):
    """Ones through dropout and through drop-path, measured; they do not change the scores."""
    images = keras.Input((None, None, 3))
    x = Measure("side", side)(keras.layers.Rescaling(1 / 255)(images))
    features = keras.layers.GlobalAveragePooling2D()(x)
    ones = keras.ops.reshape(keras.ops.ones_like(x[:, :8, :8]), (-1, 1))  # (192 batch, 1)
    ones = keras.ops.tile(ones, (1, 8))
    dropped = Measure("dropped", zeros)(dropout(0.0)(ones))
    paths = Measure("paths", zeros)(layers.DropPath(0.0, depth=1.0)(ones))
    features = features + 0.0 * (keras.ops.mean(dropped) + keras.ops.mean(paths))
    model = Counting(images, keras.layers.Dense(2, activation="softmax")(features))
    return model


def compiled(model, **settings):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "categorical_crossentropy", **settings)
    return model


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (64, 12, 12, 3), "uint8"), np.arange(64) % 2


PHASES = ramp(6, 3, image_size=(8, 16), dropout=(0.0, 0.6), drop_path=(0.5, 0.1))


@pytest.mark.parametrize("jit_compile", (False, True))
def test_every_phase_is_obeyed_by_the_compiled_step(pictures, jit_compile):
    plain, model = (compiled(make_probe(), jit_compile=jit_compile) for _ in range(2))
    plain.fit(pictures[0], np.eye(2)[pictures[1]], batch_size=16, verbose=0)
    pl = ProgressiveLearning(PHASES)
    batches = pl.dataset(pictures, batch_size=16)
    history = model.fit(batches, epochs=pl.epochs, callbacks=[pl], shuffle=False, verbose=0).history
    np.testing.assert_array_equal(history["side"], [8, 8, 12, 12, 16, 16])
    # 98,304 elements and 12,288 paths an epoch: five standard deviations
    np.testing.assert_allclose(history["dropped"], [0, 0, 0.3, 0.3, 0.6, 0.6], atol=0.008)
    np.testing.assert_allclose(history["paths"], [0.5, 0.5, 0.3, 0.3, 0.1, 0.1], atol=0.023)
    assert model.traces == plain.traces  # of one epoch in one size
    assert int(model.optimizer.iterations) == 6 * 4


def test_the_optimizer_goes_through_boundaries_unchanged(pictures):
    """Rates of 0 in two phases of one size: the same as a plain fit on the same batches."""
    phases = (Phase(0, 1, image_size=8, dropout=0.0), Phase(1, 2, image_size=8, dropout=0.0))
    probes = make_probe(), make_probe()
    probes[1].set_weights(probes[0].get_weights())
    pl = ProgressiveLearning(phases)
    batches = pl.dataset(pictures, batch_size=16)
    compiled(probes[0]).fit(batches, epochs=2, callbacks=[pl], shuffle=False, verbose=0)
    rows = []
    for pl.epoch in range(2):
        rows += list(batches)
    model = compiled(probes[1])
    for images, labels in rows:
        model.train_on_batch(images, labels)
    for ours, wanted in zip(probes[0].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    slots = [[v.numpy() for v in probe.optimizer.variables] for probe in probes]
    for ours, wanted in zip(*slots, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-7)


def test_a_step_traced_before_is_traced_anew(pictures):
    """Keras' own trace would keep the rate of 0 that it was made with."""
    model, pl = compiled(make_probe()), ProgressiveLearning(ramp(1, 1, dropout=0.4, image_size=8))
    batches = pl.dataset(pictures, batch_size=16)
    before = model.fit(batches, shuffle=False, verbose=0).history
    after = model.fit(batches, callbacks=[pl], shuffle=False, verbose=0).history
    assert before["dropped"] == [0.0]
    assert after["dropped"][0] == pytest.approx(0.4, abs=0.008)


def test_fit_from_a_later_epoch_starts_in_its_phase(pictures):
    model, pl = compiled(make_probe()), ProgressiveLearning(PHASES)
    batches = pl.dataset(pictures, batch_size=16)
    history = model.fit(
        batches, initial_epoch=4, epochs=6, callbacks=[pl], shuffle=False, verbose=0
    ).history
    np.testing.assert_array_equal(history["side"], [16, 16])
    np.testing.assert_allclose(history["dropped"], [0.6, 0.6], atol=0.008)


def test_batch_sizes_of_unequal_epochs_are_refused(pictures):
    """Keras counts the steps of the first epoch and cuts the others to it."""
    pl = ProgressiveLearning(ramp(2, 2, image_size=(8, 16), batch_size=(32, 8)))
    with pytest.raises(ValueError, match="Batches of 8, 32 .* 2, 8 steps.*keras_effv2.train"):
        pl.dataset(pictures, batch_size=1)


def test_pictures_keep_their_size_where_none_is_scheduled(pictures):
    learning = ProgressiveLearning(ramp(2, 2, dropout=(0.0, 0.2)))
    images, _ = next(iter(learning.dataset(pictures, 8)))
    assert images.shape[1:] == (min(pictures[0].shape[1:3]),) * 2 + (3,)


def test_grey_pictures_are_refused(pictures):
    learning = ProgressiveLearning(ramp(2, 2, image_size=(8, 16)))
    with pytest.raises(ValueError, match=r"\(n, height, width, 3\).*Received: uint8 \(\d+,.* 1\)"):
        learning.dataset((pictures[0][..., :1], pictures[1]), 8)


def test_a_batch_larger_than_the_pictures_is_refused(pictures):
    pl = ProgressiveLearning(ramp(2, 2, image_size=(8, 16)))
    with pytest.raises(ValueError, match="batch of 65 .* 64 pictures"):
        pl.dataset(pictures, batch_size=65)


def test_a_rate_that_nobody_takes_is_an_error(pictures):
    model = compiled(make_probe(dropout=keras.layers.Dropout))
    pl = ProgressiveLearning(ramp(2, 2, dropout=(0.1, 0.3)))
    with pytest.raises(ValueError, match="schedule dropout.*no layer.*keras_effv2.layers.Dropout"):
        model.fit(pl.dataset(pictures, 16), callbacks=[pl], shuffle=False, verbose=0)


@pytest.mark.parametrize("name, pair", (("image_size", (8, 16)), ("mixup", (0, 0.5))))
def test_a_schedule_of_pictures_needs_the_data(pictures, name, pair):
    images, labels = pictures
    pl = ProgressiveLearning(ramp(2, 2, **{name: pair}))
    with pytest.raises(ValueError, match=rf"schedule {name}, which nobody takes.*pl.dataset"):
        compiled(make_probe()).fit(
            images, np.eye(2)[labels], callbacks=[pl], shuffle=False, verbose=0
        )


def test_the_data_have_the_strengths_of_the_epochs_phase(pictures):
    pl = ProgressiveLearning(ramp(2, 2, image_size=12, mixup=(0.0, 1.0)))
    batches = pl.dataset(pictures, batch_size=16)
    for pl.epoch, mixed in ((0, False), (1, True)):
        images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        assert images.shape == (64, 12, 12, 3) and images.dtype == np.uint8
        assert (labels.max(1) < 1).any() == mixed
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("family", ("tiny_effnet", "tiny_coatnet", "tiny_coatnet_rw"))
def test_our_networks_take_both_rates(family, request):
    model = request.getfixturevalue(family)()
    weights = [w.path for w in model.weights]
    phases = ramp(2, 2, dropout=(0.1, 0.3), drop_path=(0.0, 0.4))
    progressive.prepare(model, phases)
    progressive.deliver(model, phases[1])
    assert [w.path for w in model.weights] == weights
    drops = [x for x in layers.walk(model) if isinstance(x, layers.DropPath)]
    heads = [x for x in layers.walk(model) if isinstance(x, layers.Dropout)]
    assert len(heads) == 1 and len(drops) >= 2
    step = tf.function(lambda x, layer: layer(x, training=True))
    ones = tf.ones((20_000, 1))
    assert np.mean(step(ones, heads[0]) == 0) == pytest.approx(0.3, abs=0.02)
    for layer in drops:  # deeper blocks drop more: rate x depth
        assert np.mean(step(ones, layer) == 0) == pytest.approx(0.4 * layer.depth, abs=0.02)
    assert [x.depth for x in drops] == sorted(x.depth for x in drops) and drops[-1].depth > 0.5


def test_phases_that_say_nothing_are_filled_in():
    phases = (Phase(0, 1), Phase(1, 2, image_size=48, batch_size=4, mixup=0.1))
    assert resolved(phases, 32, 8) == (
        Phase(0, 1, image_size=32, batch_size=8),
        phases[1],
    )


NOISE = """
import keras, pathlib, sys
import keras_effv2 as kev
from conftest import tiny_data

class Noise(kev.layers.Dropout):
    strength = "noise"

images = keras.Input((None, None, 3))
x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
noise = Noise(0.0)
model = keras.Model(images, keras.layers.Dense(4, activation="softmax")(noise(x)))
rates = []
note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(noise.rate))
phases = kev.ramp(2, 2, image_size=16, noise=(0.1, 0.7))
recipe = kev.recipes.Recipe("tiny", "tests", 2, 8, 1e-3, phases=phases)
done = kev.train(model, tiny_data(), recipe, sys.argv[1], "one", callbacks=[note], progress=False)
assert rates == [row["noise"] for row in done.history] == [0.1, 0.7], rates
assert "noise" in pathlib.Path(sys.argv[1], "metrics.csv").read_text().splitlines()[0]
other = keras.Model(images, keras.layers.Dense(4)(x))
try:
    kev.train(other, tiny_data(), recipe, sys.argv[1] + "2", "one", progress=False)
except ValueError as error:
    assert "schedule noise, but model" in str(error)
try:
    kev.ramp(2, 2, noise=(0, 3))
except ValueError as error:
    assert "`noise` is a pair" in str(error)
"""


def test_a_further_regulariser_is_one_field_and_its_taker(tmp_path):
    """The package with one line more ramps, checks, delivers and records its strength."""
    package = pathlib.Path(progressive.__file__).parent
    shutil.copytree(package, tmp_path / "more" / package.name)
    path = tmp_path / "more" / package.name / "phases.py"
    text, line = path.read_text(), '    drop_path: float | None = _scheduled(0, 1, "layers")\n'
    assert text.count(line) == 1
    path.write_text(
        text.replace(line, line + '    noise: float | None = _scheduled(0, 2, "layers")\n')
    )
    tests = pathlib.Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'more'}{os.pathsep}{tests}"}
    command = [sys.executable, "-c", NOISE, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
