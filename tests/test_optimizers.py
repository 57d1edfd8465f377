"""Optimizers, schedules and the moving average against written-out arithmetic and TensorFlow 1."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effv2 import optimizers, recipes
from keras_effv2.optimizers import Schedule
from keras_effv2.recipes import Recipe


def recipe(**changes):
    return Recipe(**{"name": "r", "source": "-", "epochs": 6, "batch_size": 8, **changes})


# ------------------------------------------------------------------------------------ schedules

# shape -> rate after the warm-up, of peak 0.4, minimum 0.1, 100 steps, 20 of warm-up, stairs of 7
AFTER = {
    "cosine": lambda t: 0.1 + 0.3 * (1 + np.cos(np.pi * np.minimum(1, (t - 20) / 80))) / 2,
    "linear": lambda t: 0.4 - 0.3 * np.minimum(1, (t - 20) / 80),
    "staircase": lambda t: 0.4 * 0.9 ** (t // 7),
    "constant": lambda t: np.full(t.shape, 0.4),
}


@pytest.mark.parametrize("shape", AFTER)
def test_schedules(shape):
    schedule = Schedule(0.4, shape, 20, 100, minimum=0.1, decay_rate=0.9, decay_steps=7)
    steps = np.arange(130)
    wanted = np.where(steps < 20, 0.4 * steps / 20, AFTER[shape](steps))
    ours = [float(schedule(tf.constant(step, tf.int64))) for step in steps]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", AFTER)
def test_without_warm_up_training_starts_at_the_peak(shape):
    assert float(Schedule(0.4, shape, 0, 100)(0)) == pytest.approx(0.4)


@pytest.mark.parametrize("epoch", (0, 2.5, 5, 7.1, 7.3, 100, 349))
def test_the_papers_learning_rate(epoch):
    """0.256, warm-up of 5 epochs, times 0.97 every 2.4 epochs (arXiv 2104.00298, section 5.1)."""
    row = recipes.resolved(recipes.get("imagenet1k", "EfficientNetV2S"), 300)
    schedule = optimizers.make_schedule(row, lambda batch: 1000)
    wanted = 0.256 * (epoch / 5 if epoch < 5 else 0.97 ** int(epoch / 2.4))
    assert float(schedule(epoch * 1000)) == pytest.approx(wanted, rel=1e-5)


def test_a_schedule_survives_saving():
    optimizer = optimizers.make_optimizer(
        recipe(learning_rate=0.1, warmup_epochs=1), lambda batch: 10
    )
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    for step in (3, 17, 59):
        wanted = 0.1 * (step / 10 if step < 10 else (1 + np.cos(np.pi * (step - 10) / 50)) / 2)
        assert float(again._learning_rate(step)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("decay", (0.9999, 0.99, 0.5))
def test_the_average_starts_fast(decay):
    steps = np.array([0, 1, 8, 90, 10_000, 10_000_000])
    wanted = np.minimum(decay, (1 + steps) / (10 + steps))
    np.testing.assert_allclose([optimizers.ema_decay(decay, s) for s in steps], wanted, rtol=1e-6)


# ----------------------------------------------------------------------------------- optimizers


def gradients(steps=6):
    return np.random.default_rng(0).normal(0, [1e-4, 1e-2, 1, 30], (steps, 4)).astype("float32")


def test_rmsprop_is_tensorflow_1s():
    settings = recipe(optimizer="rmsprop", schedule="constant", learning_rate=0.256)
    ours, theirs = keras.Variable(np.ones(4, "float32")), tf.Variable(np.ones(4, "float32"))
    optimizer = optimizers.make_optimizer(settings, lambda batch: 10)
    tf1 = tf.compat.v1.train.RMSPropOptimizer(0.256, decay=0.9, momentum=0.9, epsilon=1e-3)
    value, square, momentum = np.ones(4), np.ones(4), np.zeros(4)
    for gradient in gradients():
        optimizer.apply([tf.constant(gradient)], [ours])
        optimizer.build([ours])  # a second time: nothing
        tf1.apply_gradients([(tf.constant(gradient), theirs)])
        square = 0.9 * square + 0.1 * gradient.astype(float) ** 2
        momentum = 0.9 * momentum + 0.256 * gradient / np.sqrt(square + 1e-3)
        value = value - momentum
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        np.testing.assert_allclose(ours, value, rtol=1e-4)


def test_adamw_is_adam_with_decay_beside_it():
    settings = recipe(schedule="constant", learning_rate=0.01, weight_decay=0.3)
    ours = keras.Variable(np.ones(4, "float32"))
    optimizer = optimizers.make_optimizer(settings, lambda batch: 10)
    value, first, second = np.ones(4), np.zeros(4), np.zeros(4)
    for t, gradient in enumerate(gradients().astype(float), 1):
        optimizer.apply([tf.constant(gradient, tf.float32)], [ours])
        value = value * (1 - 0.01 * 0.3)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)  # arXiv 1412.6980, end of section 2
        value = value - rate * first / (np.sqrt(second) + 1e-7)
        np.testing.assert_allclose(ours, value, rtol=1e-5)


def test_sgd_is_nesterovs():
    settings = recipe(optimizer="sgd", schedule="constant", learning_rate=0.01)
    ours, value, momentum = keras.Variable(np.ones(4, "float32")), np.ones(4), np.zeros(4)
    optimizer = optimizers.make_optimizer(settings, lambda batch: 10)
    for gradient in gradients():
        optimizer.apply([tf.constant(gradient)], [ours])
        momentum = 0.9 * momentum - 0.01 * gradient
        value = value + 0.9 * momentum - 0.01 * gradient
        np.testing.assert_allclose(ours, value, rtol=1e-4)


FUSED = {
    "rmsprop": (optimizers.RMSprop, {"rho": 0.9, "momentum": 0.9, "epsilon": 1e-3}),
    "adamw": (optimizers.AdamW, {"weight_decay": 0.1}),
    "sgd": (optimizers.SGD, {"momentum": 0.9}),
    "nesterov": (optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
}


def compiled(optimizer, variable, **settings):
    return tf.function(lambda gradient: optimizer.apply([gradient], [variable]), **settings)


@pytest.mark.parametrize("jit", (False, True), ids=("graph", "xla"))
@pytest.mark.parametrize("name", FUSED)
def test_one_kernel_computes_what_keras_does(name, jit):
    """In graph mode and in XLA, over a whole schedule, beside the class of Keras it stands for."""
    fused, settings = FUSED[name]
    ours, theirs = (keras.Variable(np.linspace(-1, 1, 4).astype("float32")) for _ in range(2))
    sides = []
    for make, variable in ((fused, ours), (fused.__bases__[1], theirs)):
        optimizer = make(Schedule(0.1, "cosine", 2, 6), **settings)
        optimizer.build([variable])
        if name == "rmsprop":
            optimizers.slot(optimizer, variable, "velocities").assign(np.ones(4))
        sides.append(compiled(optimizer, variable, jit_compile=jit))
    for gradient in gradients():
        for step in sides:
            step(tf.constant(gradient))
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", FUSED)
def test_fused_updates_are_one_node(name):
    fused, settings = FUSED[name]
    variable = keras.Variable(np.ones(4, "float32"))
    optimizer = fused(0.1, **settings)
    optimizer.build([variable])
    graph = compiled(optimizer, variable).get_concrete_function(tf.TensorSpec((4,))).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert sum(kind.startswith("ResourceApply") for kind in kinds) == 1


@pytest.mark.parametrize("name", FUSED)
def test_sparse_gradients_take_keras_way(name):
    fused, settings = FUSED[name]
    rows = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1]), tf.constant([3, 2]))
    results = []
    for make in (fused, fused.__bases__[1]):
        variable = keras.Variable(np.ones((3, 2), "float32"))
        optimizer = make(0.1, **settings)
        optimizer.build([variable])
        if name == "rmsprop":
            optimizers.slot(optimizer, variable, "velocities").assign(np.ones((3, 2)))
        optimizer.apply([rows], [variable])
        results.append(variable.numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


@pytest.mark.parametrize("family", ("tiny_effnet", "tiny_coatnet"))
def test_kernels_alone_decay(family, request):
    model = request.getfixturevalue(family)()
    norms_and_biases = ("gamma", "beta", "bias", "qkv_bias", "out_bias", "relative_bias")
    for variable in model.trainable_variables:
        assert variable.name in norms_and_biases or "kernel" in variable.name
        assert optimizers.is_decayed(variable) == (variable.name not in norms_and_biases)


@pytest.mark.parametrize("name", FUSED)
def test_a_slot_is_the_variables_own(name):
    """After a step from nothing the momentum of each variable is its own gradient's, to a factor."""
    fused, settings = FUSED[name]
    variables = [keras.Variable(np.zeros(size, "float32")) for size in (2, 3, 4)]
    optimizer = fused(0.1, **settings)
    steps = [np.full(v.shape, 1.0 + i, "float32") for i, v in enumerate(variables)]
    optimizer.apply([tf.constant(step) for step in steps], variables)
    for variable, step in zip(variables, steps, strict=True):
        momentum = optimizers.slot(optimizer, variable, "momentums")
        assert any(momentum is own for own in optimizer.variables)
        assert momentum.shape == variable.shape
        if name != "rmsprop":  # which divides by the gradient's own size
            share = momentum.numpy() / step
            np.testing.assert_allclose(share, {"adamw": 0.1}.get(name, -0.1), rtol=1e-5)


def test_an_unknown_shape_lists_the_known():
    known = "cosine, linear, staircase, constant"
    with pytest.raises(ValueError, match=f"`shape` .* {known}. Received: 'cosinus'"):
        Schedule(0.4, "cosinus", 0, 100)
