"""Tiny variants, made by the code that makes the big ones."""

import dataclasses
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_effv2 import data, layers, training  # noqa: E402
from keras_effv2.models import coatnet, coatnet_rw, efficientnet_v2  # noqa: E402

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


def tiny_efficientnet_row(**changes):
    """EfficientNetV2-B0's stages with one 8-channel block each and a residual in two of them."""
    row = efficientnet_v2.VARIANTS["EfficientNetV2B0"]
    repeats = (1, 2, 1, 1, 2, 1)
    stages = tuple(
        dataclasses.replace(stage, repeats=n, channels=8)
        for stage, n in zip(row.stages, repeats, strict=True)
    )
    row = dataclasses.replace(
        row, name="TinyEfficientNetV2", stages=stages, stem=8, top=16, pixels="128", weights=None
    )
    return dataclasses.replace(row, **changes)


def tiny_coatnet_row(**changes):
    """CoAtNet-0's stages with one or two 8-channel blocks each and heads of 4 channels."""
    row = coatnet.VARIANTS["CoAtNet0"]
    repeats, channels = (1, 2, 2, 1), (8, 8, 8, 16)
    stages = tuple(
        dataclasses.replace(stage, repeats=n, channels=c)
        for stage, n, c in zip(row.stages, repeats, channels, strict=True)
    )
    row = dataclasses.replace(
        row, name="TinyCoAtNet", stages=stages, stem=8, head_size=4, hidden=16
    )
    return dataclasses.replace(row, **changes)


def tiny_coatnet_rw_row(name="CoAtNet1RWMax", **changes):
    """A row of timm's CoAtNets with narrow stages: the one with both poolings, unless named."""
    row = coatnet_rw.VARIANTS[name]
    stages = tuple(
        dataclasses.replace(stage, repeats=n, channels=c)
        for stage, n, c in zip(row.stages, (1, 2, 2, 1), (8, 32, 32, 16), strict=True)
    )
    changes = {"name": f"Tiny{name}", "stages": stages, "stem": 8, "weights": None, **changes}
    return dataclasses.replace(row, **changes)


@pytest.fixture(autouse=True)
def same_weights_every_time():
    keras.utils.set_random_seed(0)


@pytest.fixture
def tiny_effnet():
    """A function that builds a tiny EfficientNetV2 of ten classes; keywords go to the builder."""

    def make(**arguments):
        return efficientnet_v2.build(
            tiny_efficientnet_row(), **{"weights": None, "classes": 10, **arguments}
        )

    return make


@pytest.fixture
def tiny_coatnet():
    """A function that builds a tiny CoAtNet of ten classes; keywords go to the builder."""

    def make(**arguments):
        return coatnet.build(tiny_coatnet_row(), **{"weights": None, "classes": 10, **arguments})

    return make


@pytest.fixture
def images():
    """Two pictures of noise, `(2, 64, 64, 3)`, 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


@pytest.fixture
def tiny_coatnet_rw():
    """A function that builds a tiny one of timm's CoAtNets, of ten classes; keywords as above."""

    def make(**arguments):
        arguments = {"weights": None, "classes": 10, **arguments}
        return coatnet_rw.build(tiny_coatnet_rw_row(), **arguments)

    return make


def tiny_data(count=48, validation=10):
    """Noise in one of three colours, or in none."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 120, (count + validation, 32, 32, 3), dtype="uint8")
    labels = np.arange(count + validation) % 4
    for channel in range(3):
        pictures[labels == channel, ..., channel] += 120
    names = ("red", "green", "blue", "grey")
    splits = (
        data.Split(names, labels[part], pictures[part])
        for part in (slice(count), slice(count, None))
    )
    return data.Data("colours", names, *splits)


def build_convnet():
    """Two convolutions, for tests that are not about our networks."""
    inputs = keras.Input((None, None, 3))
    x = layers.Pixels("127.5")(inputs)
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = keras.layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.DropPath(0.0)(x)
    x = layers.Dropout(0.0)(keras.layers.GlobalAveragePooling2D()(x))
    outputs = keras.layers.Dense(4, activation="softmax", dtype="float32", name="predictions")(x)
    return keras.Model(inputs, outputs)


def dense(classes, hidden=0):
    """A classifier of mean colours."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    if hidden:
        x = keras.layers.Dense(hidden)(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


def mirrored(replicas):
    """A strategy over the first logical CPUs; its reductions do not disturb later strategies."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


@pytest.fixture
def stores_without_rename(monkeypatch):
    """In stores nothing can be moved or copied, as in some buckets: both always raise."""
    from tensorflow.python.lib.io import _pywrap_file_io as calls

    def refusing(call):
        def refuse(source, target, *rest):
            if b"ram://" in source + target:
                raise tf.errors.UnimplementedError(None, None, "this store has no rename")
            return call(source, target, *rest)

        return refuse

    for name in ("RenameFile", "CopyFile"):
        monkeypatch.setattr(calls, name, refusing(getattr(calls, name)))
    for move in (tf.io.gfile.rename, tf.io.gfile.copy):
        with pytest.raises(tf.errors.UnimplementedError):
            move("ram://a", "ram://b")


@pytest.fixture
def quiet_train(tmp_path):
    """`train` without a progress bar, by default in a fresh workdir."""

    def run(model, data, recipe, workdir=tmp_path / "run", strategy="one", **options):
        return training.train(model, data, recipe, workdir, strategy, progress=False, **options)

    return run


def shared_data():
    """The folder of real photos and weights, or None where it is not at hand."""
    root = os.environ.get("KERAS_EFFV2_SHARED") or pathlib.Path(__file__).parents[2] / "shared"
    data = pathlib.Path(root) / "data"
    return data if data.is_dir() else None


@pytest.fixture
def shared():
    """As `shared_data`; skips the test where it is absent, but not where it was promised."""
    data = shared_data()
    if data is None:
        assert "KERAS_EFFV2_SHARED" not in os.environ, "KERAS_EFFV2_SHARED has no folder `data`"
        pytest.skip("shared data is absent: set KERAS_EFFV2_SHARED")
    return data
