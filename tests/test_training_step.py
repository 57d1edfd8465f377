"""The compiled step: against NumPy, in half precision, on odd weights and gradients."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import build_convnet, dense, mirrored, tiny_data
from sklearn.utils.class_weight import compute_class_weight

from keras_effv2 import layers, recipes, training
from keras_effv2.phases import Phase
from keras_effv2.training import checkpoints

STEPS = train_tiny.STEPS


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


@pytest.mark.parametrize(
    "precision, clip, tolerance", [("float32", 0.1, 1e-5), ("mixed_float16", 0.0, 1e-2)]
)
@pytest.mark.parametrize("replicas, accumulate", [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_steps_are_written_out(replicas, accumulate, precision, clip, tolerance, quiet_train):
    """Against NumPy: Nesterov's momentum on gradients of cross-entropy, clipped or scaled."""
    phase = Phase(0, 1, image_size=16)
    recipe = recipes.Recipe("sgd", "tests", 1, 8, 0.5, optimizer="sgd", schedule="constant")
    recipe = dataclasses.replace(recipe, clip=clip, precision=precision, phases=(phase,))
    recipe = dataclasses.replace(recipe, accumulate=accumulate)
    strategy, trail = "one" if replicas == 1 else mirrored(replicas), Trail()
    quiet_train(lambda: dense(4), tiny_data(), recipe, strategy=strategy, callbacks=[trail])
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


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_part_of_a_batch_has_statistics_of_its_own(replicas, quiet_train):
    """Batch normalisation of the mean colours, over all replicas; its mean moves once a part."""

    def build():
        images = keras.Input((None, None, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
        x = layers.BatchNormalization(momentum=0.9, name="norm")(x[:, None, None])
        x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
        return keras.Model(images, keras.layers.Dense(4)(x))

    phase = Phase(0, 1, image_size=16)
    recipe = recipes.Recipe("sgd", "tests", 1, 48, 0.0, optimizer="sgd", accumulate=3)
    recipe = dataclasses.replace(recipe, phases=(phase,))
    strategy = "one" if replicas == 1 else mirrored(replicas)
    model = quiet_train(build, tiny_data(), recipe, strategy=strategy).model
    (batch, _), *_ = tiny_data().train.train_batches(
        image_size=16, batch_size=48, augment=recipes.augment_of(recipe, phase)
    )
    means = np.split(batch.numpy().mean((1, 2)) / 255, replicas)
    moved, size = np.zeros(3), 16 // replicas
    for i in range(3):
        part = np.concatenate([own[size * i :][:size] for own in means])
        moved = 0.9 * moved + 0.1 * part.mean(0)
    np.testing.assert_allclose(model.get_layer("norm").moving_mean, moved, atol=1e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_learns(precision, quiet_train):
    recipe = recipes.Recipe("tiny", "tests", 5, 8, 1e-2, precision=precision, flip=False)
    recipe = dataclasses.replace(recipe, crop_area=(0.9, 1.0))
    policy = keras.config.dtype_policy().name
    result = quiet_train(build_convnet, tiny_data(), recipe)
    assert keras.config.dtype_policy().name == policy
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    assert all(v.dtype == "float32" for v in result.model.trainable_variables)


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


def test_a_gradient_that_is_not_finite_is_never_saved(quiet_train, tmp_path):
    """At the last step of an epoch, whose loss is fine and after which a checkpoint is due."""
    recipe = recipes.Recipe("tiny", "tests", 2, 8, 1e-3, checkpoint_steps=4)
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 6.*: step 4\."):
        quiet_train(build_with_bad_gradient, tiny_data(), recipe)
    arrays, meta = checkpoints.load_newest(tmp_path / "run" / "checkpoints")
    assert meta["step"] == 4 and all(np.isfinite(array).all() for array in arrays.values())


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


def test_weights_of_classes_are_a_prior():
    """The lowest loss on pictures of 9:1 is where both classes are as likely: logits are equal.

    Of 90 and 10 pictures that look alike, scikit-learn's balanced weights give equal odds too.
    Smoothed labels change nothing of it.
    """
    labels = np.repeat(np.eye(2, dtype="float32"), [90, 10], 0)
    weights = compute_class_weight("balanced", classes=np.arange(2), y=labels.argmax(1))
    for smoothing in (0.0, 0.1):
        recipe = recipes.Recipe("loss", "tests", 1, 1, 1.0, label_smoothing=smoothing)
        losses = [
            np.mean(training.cross_entropy(labels, np.tile([[0, x]], (100, 1)), recipe, weights))
            for x in np.linspace(-1, 1, 21, dtype="float32")
        ]
        assert np.argmin(losses) == 10
    plain = recipes.Recipe("loss", "tests", 1, 1, 1.0)
    logits = np.float32([[0.3, -1.0], [2.0, 0.1]])
    adjusted = logits - np.log(weights)
    expected = np.log(np.exp(adjusted).sum(1)) - adjusted[:, 1]
    np.testing.assert_allclose(
        training.cross_entropy(labels[-2:], logits, plain, weights), expected, rtol=1e-5
    )


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
