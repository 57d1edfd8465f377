"""Recomputing blocks gives the gradients, statistics and random state of the whole network."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import build_convnet, mirrored, tiny_data

from keras_effv2 import layers, rematerialization
from keras_effv2.training import checkpoints


@pytest.fixture(params=("tiny_effnet", "tiny_coatnet", "tiny_coatnet_rw"))
def model(request):
    make = request.getfixturevalue(request.param)
    return make(dropout=0.3, drop_path=0.3, classifier_activation=None)


def names(model):
    return [x.name for x in model.layers if not isinstance(x, keras.layers.InputLayer)]


def test_the_blocks_are_the_model(model):
    pieces = rematerialization.blocks(model)
    wanted = names(model)
    assert sorted(sum(map(names, pieces), [])) == sorted(wanted)
    for block in {name.split("_")[0] for name in wanted if name.startswith("block")}:
        owners = [piece for piece in pieces if any(x.startswith(block) for x in names(piece))]
        assert len(owners) == 1, block
    assert max(len(names(piece)) for piece in pieces) <= 20  # no longer than a block
    x = images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    for piece in pieces:
        x = piece(x, training=False)
    np.testing.assert_allclose(x, model(images, training=False), rtol=1e-5, atol=1e-6)


def step(model, forward):
    """Loss, gradients and state of one compiled step, and how often the graph convolves."""

    @tf.function
    def run(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(forward(images)))
        return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

    images = np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 3)).astype("float32")
    before = model.get_weights()
    seeds = [x.seed_generator.state for x in model.layers if hasattr(x, "seed_generator")]
    start = [seed.numpy() for seed in seeds]
    loss, gradients = run(images)
    after = [seed.numpy() for seed in seeds]
    statistics = [w.numpy() for w in model.non_trainable_weights]
    model.set_weights(before)
    for seed, value in zip(seeds, start, strict=True):
        seed.assign(value)
    graph = run.get_concrete_function(images).graph
    kinds = [operation.type for operation in graph.get_operations()]
    return [loss, *gradients, *statistics, *after], kinds.count("Conv2D")


def test_the_step_is_the_same_but_for_its_memory(model):
    whole, convolutions = step(model, lambda images: model(images, training=True))
    again, twice = step(model, rematerialization.rematerialized(model))
    assert twice == 2 * convolutions
    assert len(whole) == len(again)
    for ours, theirs in zip(again, whole, strict=True):
        scale = np.abs(np.asarray(theirs, "float64")).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7 + 1e-5 * scale)


def test_masks_are_drawn_once():
    """Another mask in the second run would give the gradient of another function."""
    layer = layers.Dropout(0.5)
    passes = layers.Passes()
    with passes.next():
        first = layer(np.ones((4, 100)), training=True)
    with passes.next():
        second = layer(np.ones((4, 100)), training=True)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, layer(np.ones((4, 100)), training=True))


@pytest.mark.parametrize("replicas", (1, 2))
def test_training(replicas, quiet_train, tmp_path):
    strategy = "one" if replicas == 1 else mirrored(2)
    ends = []
    for remat in (False, True):
        workdir = tmp_path / str(remat)
        data = tiny_data()
        quiet_train(build_convnet, data, train_tiny.PLAINEST, workdir, strategy, remat=remat)
        ends.append(checkpoints.load_newest(workdir / "checkpoints")[0])
    for name, array in ends[0].items():
        np.testing.assert_allclose(ends[1][name], array, rtol=1e-4, atol=2e-5, err_msg=name)
