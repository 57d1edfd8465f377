"""Small models whose outputs follow the pictures, and what a fresh process finds in an export."""

import os
import subprocess
import sys

import keras
import numpy as np
from conftest import tiny_coatnet_row, tiny_coatnet_rw_row, tiny_efficientnet_row

from keras_effv2 import layers
from keras_effv2.models import coatnet, coatnet_rw, efficientnet_v2

LABELS = [f"flower {i}" for i in range(10)]


def pictures(count=4, height=64, width=64):
    random = np.random.default_rng(count * height + width)
    coarse = random.uniform(0, 255, (count, 4, 4, 3))
    rows, columns = (np.arange(side) * 4 // side for side in (height, width))
    return coarse[:, rows][:, :, columns].astype("float32")


def lively(model):
    """Weights under which outputs follow the images, and no normalisation is the identity."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            value = random.uniform(0.5, 1.5, weight.shape)
        elif len(weight.shape) < 2:
            value = random.normal(0, 0.3, weight.shape)
        else:
            depthwise = "depthwise" in weight.name or "dwconv" in weight.path
            inputs = np.prod(weight.shape[:2] if depthwise else weight.shape[:-1])
            value = random.normal(0, np.sqrt(2 / inputs), weight.shape)
        weight.assign(value)
    return model


def small(**dense):
    """Pixels, one convolution of each kind, a head with a penalty; dropping at both places."""
    inputs = keras.Input((None, None, 3))
    x = layers.Pixels("128", image_size=32)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(momentum=0.75, name="norm")(x)
    x = keras.layers.Activation("silu")(x)
    x = layers.DropPath(0.3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3)(x)
    x = keras.layers.Dense(10, activation="softmax", name="head", **dense)(x)
    return lively(keras.Model(inputs, x, name="small"))


def tiny(family):
    module, row = {
        "efficientnet": (efficientnet_v2, tiny_efficientnet_row),
        "coatnet": (coatnet, tiny_coatnet_row),
        "coatnet_rw": (coatnet_rw, tiny_coatnet_rw_row),
    }[family]
    return module.build(row(), weights=None, classes=10, classifier_activation=None)


def pooled(model, images):
    """What enters the head's dropout."""
    layer = next(x for x in model.layers if isinstance(x, keras.layers.GlobalAveragePooling2D))
    return keras.Model(model.input, layer.output)(images, training=False).numpy()


def logits(model, images):
    head = model.layers[-1]
    features = keras.Model(model.input, head.input)(images, training=False).numpy()
    return features @ head.kernel.numpy() + head.bias.numpy()


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(found, wanted, atol=tolerance * max(1, np.abs(wanted).max()))


def fresh(script, folder, **environment):
    """Runs a program that cannot see this package."""
    quiet = {"PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **quiet},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(folder / "found.npz", allow_pickle=True))
