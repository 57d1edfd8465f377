"""Inputs of other kinds: what works works, what cannot is named before anything is fetched."""

import keras
import numpy as np
import pytest
from conftest import tiny_efficientnet_row

from keras_effv2 import EfficientNetV2B0
from keras_effv2.models import efficientnet_v2
from keras_effv2.weights import loading


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("options", [{}, {"pixels": "127.5"}, {"include_top": False}])
def test_released_weights_want_three_channels(channels, options, monkeypatch):
    monkeypatch.setattr(loading, "download", None)
    words = rf"for 3 channels, the input has {channels}.*Concatenate.*Conv2D\(3, 1\).*weights=None"
    with pytest.raises(ValueError, match=words):
        EfficientNetV2B0(input_shape=(64, 64, channels), **options)


def test_what_the_sentence_names_works(tmp_path):
    """A grey picture is as the same picture in three equal channels; more channels learn a mix."""
    build, row = efficientnet_v2.build, tiny_efficientnet_row()
    three = build(row, weights=None, classes=4)
    path = str(tmp_path / "three.weights.h5")
    three.save_weights(path)
    grey = keras.Input((None, None, 1))
    model = build(row, weights=path, input_tensor=keras.layers.Concatenate()([grey] * 3), classes=4)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
    np.testing.assert_allclose(model(images), three(images.repeat(3, -1)), atol=1e-6)
    mixed = keras.layers.Conv2D(3, 1)
    model = build(row, weights=path, input_tensor=mixed(keras.Input((64, 64, 4))), classes=4)
    kernel = np.eye(4, 3, dtype="float32")[None, None]
    mixed.set_weights([kernel, np.zeros(3)])
    images = images.repeat(4, -1)
    np.testing.assert_allclose(model(images), three(images[..., :3]), atol=1e-6)


def test_tensors_of_keras_2_are_named():
    tf_keras = pytest.importorskip("tf_keras")
    with pytest.raises(ValueError, match="of tf_keras, which is Keras 2.*hub.KerasLayer"):
        EfficientNetV2B0(weights=None, input_tensor=tf_keras.Input((64, 64, 3)))
    with pytest.raises(ValueError, match="Received: ndarray.$"):
        EfficientNetV2B0(weights=None, input_tensor=np.zeros((1, 64, 64, 3)))
