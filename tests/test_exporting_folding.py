"""Models without their normalisations give the same outputs."""

import keras
import numpy as np
import pytest
from exported import close, lively, pictures, tiny

from keras_effv2 import rematerialization
from keras_effv2.exporting import fold


def norms(model):
    return {x.name for x in model.layers if isinstance(x, keras.layers.BatchNormalization)}


@pytest.mark.parametrize("family", ["efficientnet", "coatnet", "coatnet_rw"])
def test_fold_keeps_the_outputs(family):
    model = lively(tiny(family))
    lean, images = fold(model), pictures(3, 64, 96)
    wanted = model(images, training=False).numpy()
    assert np.ptp(wanted, axis=0).max() > 0.4  # they follow the images
    close(lean(images).numpy(), wanted, 1e-4)
    merged = (
        "expand_bn",
        "stem_norm",
    )  # timm's others stand before an activation, or behind a gate
    stay = {name for name in norms(model) if family == "coatnet_rw" and not name.endswith(merged)}
    assert norms(model) > norms(lean) == stay


def test_fold_leaves_what_it_may_not_merge():
    conv, norm = keras.layers.Conv2D, keras.layers.BatchNormalization
    inputs = keras.Input((None, None, 3))
    x = norm(name="before_padding")(inputs)
    x = conv(4, 3, padding="same", activation="relu")(x)
    x = norm(name="before_pointwise", scale=False)(x)
    x = conv(4, 1, strides=2)(x)
    y = norm(name="forked")(keras.layers.ReLU()(x))
    x = conv(4, 1, use_bias=False)(y)
    x = norm(name="after_conv", center=False)(x)
    x = keras.layers.Add()([x, y])
    x = norm(name="before_groups")(x)
    x = conv(8, 1, groups=2)(x)
    shared = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    x = norm(name="after_depthwise")(shared)
    z = conv(16, 1, name="read_twice")(x)
    x = keras.layers.Add()([norm(name="after_fork")(z), z])
    x = keras.layers.Dense(5)(x)
    model = lively(keras.Model(inputs, norm(name="after_dense")(x)))
    lean = fold(model)
    assert norms(lean) == {"before_padding", "forked", "before_groups", "after_fork"}
    images = pictures(2, 16, 24) / 255
    close(lean(images).numpy(), model(images).numpy())


def called_twice(x):
    conv, norm = keras.layers.Conv2D(3, 1), keras.layers.BatchNormalization()
    return conv(norm(conv(x)))


def norm_called_twice(x):
    conv, norm = keras.layers.Conv2D(3, 1), keras.layers.BatchNormalization()
    return norm(conv(norm(x)))


def read_by_a_model(x):
    x = keras.layers.Conv2D(4, 1)(x)
    inner = keras.Input((None, None, 4))
    model = keras.Model(inner, keras.layers.Conv2D(4, 1)(inner))
    return keras.layers.Add()([keras.layers.BatchNormalization()(x), model(x)])


def read_by_an_operation(x):
    x = keras.layers.Conv2D(4, 1)(x)
    return keras.layers.BatchNormalization()(x) + x


def behind_a_model(x):
    inner = keras.Input((None, None, 3))
    model = keras.Model(inner, keras.layers.Conv2D(4, 1)(inner))
    return keras.layers.Conv2D(5, 1)(keras.layers.BatchNormalization()(model(x)))


@pytest.mark.parametrize(
    "body, stay",
    [
        (called_twice, 1),
        (norm_called_twice, 1),
        (read_by_a_model, 1),
        (read_by_an_operation, 1),
        (behind_a_model, 0),
    ],
)
def test_fold_and_blocks_go_by_the_calls_of_the_model(body, stay):
    inputs = keras.Input((None, None, 3))
    model = lively(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(body(inputs))))
    images = pictures(2, 16, 24) / 255
    lean = fold(model)
    close(lean(images).numpy(), model(images).numpy())
    assert len(norms(lean)) == stay
    x = images
    for piece in rematerialization.blocks(model):
        x = piece(x)
    close(x.numpy(), model(images).numpy())
