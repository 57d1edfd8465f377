"""The batches of an epoch: their size, their strengths, who makes them."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import dense, mirrored, tiny_data

from keras_effv2 import recipes
from keras_effv2.data import Data, Split
from keras_effv2.phases import Phase


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
        Phase(0, 1, image_size=16),
        Phase(1, 2, image_size=24, mixup=1.0),
        Phase(2, 3, image_size=32, cutmix=1.0),
        Phase(3, 4, image_size=20, randaugment=30),
        Phase(4, 5, image_size=16),
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
    quiet_train(lambda: dense(4), tiny_data(), recipe, strategy=strategy)
    assert len(makers) == threads


def test_batch_size_may_be_scheduled_and_the_rate_goes_with_it(quiet_train):
    phases = (
        Phase(0, 1, image_size=32, batch_size=16),
        Phase(1, 3, image_size=48, batch_size=8),
    )
    recipe = recipes.Recipe("tiny", "tests", 3, 16, 1e-3, schedule="linear", phases=phases)
    result = quiet_train(lambda: dense(4), tiny_data(), recipe)
    assert [row["steps"] for row in result.history] == [3, 9, 15]
    # of the last step of an epoch: after 2 of 9 steps the whole rate, after 5.5 and 8.5 half of it
    rates = [row["learning_rate"] for row in result.history]
    assert rates == pytest.approx([1e-3 * 7 / 9, 0.5e-3 * 3.5 / 9, 0.5e-3 * 0.5 / 9], abs=1e-9)
