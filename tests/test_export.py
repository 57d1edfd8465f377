"""Exports in fresh processes and other interpreters, against the live model and numpy."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored, tiny_coatnet_row, tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2 import cli, exporting, layers, rematerialization
from keras_effv2.models import coatnet, efficientnet_v2

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


# ------------------------------------------------------------------- TF Hub, a whole network

PLAIN = """
import sys, numpy as np, tensorflow as tf
module = tf.saved_model.load("hub")
images, odd = (tf.constant(x) / 255 for x in np.load("images.npz").values())
found = {
    "default": module(images),
    "inference": module(images, training=False),
    "served": module.signatures["serving_default"](images)["outputs"],
    "odd": module(odd, training=False),
    "labels": open(module.labels.asset_path.numpy()).read().splitlines(),
    **module.features(odd),
}
served = module.signatures["features"](odd)
assert all(np.array_equal(served[key], found[key]) for key in served)
found |= {f"before {i}": v.numpy() for i, v in enumerate(module.variables)}
found |= {f"training {i}": module(images, training=True) for i in range(2)}
found |= {f"after {i}": v.numpy() for i, v in enumerate(module.variables)}
assert not {"keras_effv2", "tf_keras", "tensorflow_hub"} & set(sys.modules)
np.savez("found.npz", **found)
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A tiny EfficientNetV2, its export, and what a process with only TensorFlow finds in it."""
    folder = tmp_path_factory.mktemp("network")
    model = lively(efficientnet_v2.build(tiny_efficientnet_row(), weights=None, classes=10))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    assert kev.export_hub(model, folder / "hub", labels=LABELS) == str(folder / "hub")
    images, odd = pictures(), pictures(1, 72, 40)
    np.savez(folder / "images.npz", images, odd)
    found = fresh(PLAIN, folder)
    return types.SimpleNamespace(model=model, folder=folder, images=images, odd=odd, found=found)


def test_hub_outputs_are_the_live_logits(network):
    wanted = logits(network.model, network.images)
    assert np.ptp(wanted, axis=0).max() > 0.5  # they follow the images
    for key in ("inference", "default", "served"):
        close(network.found[key], wanted)
    close(network.found["odd"], logits(network.model, network.odd))
    assert network.found["labels"].tolist() == LABELS


def test_hub_training_drops_at_random(network):
    first, second = (network.found[f"training {i}"] for i in range(2))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - network.found["inference"]).max() > 1e-3


def test_hub_feature_maps_are_those_of_the_builder(network):
    pyramid = efficientnet_v2.build(
        tiny_efficientnet_row(), weights=None, features=[f"reduction_{i}" for i in range(1, 6)]
    )
    for layer in pyramid.layers:
        if layer.weights:
            layer.set_weights(network.model.get_layer(layer.name).get_weights())
    for key, wanted in pyramid(network.odd, training=False).items():
        close(network.found[key], wanted.numpy())


def variables(network, when):
    card = json.loads((network.folder / "hub/assets.extra/keras_effv2.json").read_text())
    return {path: network.found[f"{when} {i}"] for i, path in enumerate(card["variables"])}


def test_hub_variables_are_the_weights_and_nothing_else(network):
    before = variables(network, "before")
    assert list(before) == [weight.path for weight in network.model.weights]
    for weight in network.model.weights:
        np.testing.assert_array_equal(before[weight.path], weight.numpy())
    stored = tf.train.list_variables(str(network.folder / "hub/variables/variables"))
    numbers = sum(int(np.prod(shape)) for name, shape in stored if "_CHECKPOINTABLE" not in name)
    seeds = sum(hasattr(layer, "seed_generator") for layer in network.model.layers)
    counter = 1  # `save_counter` of tf.train.Checkpoint
    assert numbers <= network.model.count_params() + 2 * seeds + counter


def test_hub_batch_statistics_move_exactly(network):
    before, after = (variables(network, when) for when in ("before", "after"))
    kernel = before["stem_conv/kernel"]
    x = np.pad((network.images - 128) / 128, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = sum(x[:, i : i + 63 : 2, j : j + 63 : 2] @ kernel[i, j] for i in range(3) for j in range(3))
    for name, batch in (("mean", x.mean((0, 1, 2))), ("variance", x.var((0, 1, 2)))):
        moving = before[f"stem_bn/moving_{name}"]
        for _ in range(2):
            moving = 0.9 * moving + 0.1 * batch
        np.testing.assert_allclose(after[f"stem_bn/moving_{name}"], moving, atol=1e-5)
    for path in before:
        if "moving" not in path:
            np.testing.assert_array_equal(before[path], after[path])


def test_builder_loads_a_hub_export(network):
    row = tiny_efficientnet_row()
    model = efficientnet_v2.build(row, weights=str(network.folder / "hub"))
    close(model(network.odd).numpy(), network.model(network.odd).numpy(), 1e-6)
    assert layers.find_pixels(model).class_names == tuple(LABELS)
    with pytest.raises(ValueError, match="does not fit"):
        coatnet.build(tiny_coatnet_row(), weights=str(network.folder / "hub"), classes=10)


def test_model_card(network):
    text = (network.folder / "hub/assets.extra/MODEL_CARD.md").read_text()
    assert f"{network.model.count_params():,}" in text
    for word in (
        "Multiply-adds",
        "[0, 1]",
        "10 classes",
        "Licence",
        "hub.KerasLayer",
        "HubLayer",
        "tf.saved_model",
    ):
        assert word in text


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "CoAtNet0"])
def test_multiply_adds_of_the_graph_are_those_of_the_tables(name):
    model = getattr(kev, name)(weights=None)
    assert exporting.multiply_adds(model, 224) == kev.model_info(name, 224)["macs"]


@pytest.mark.slow
def test_hub_export_is_hardly_larger_than_its_weights(tmp_path):
    model = kev.EfficientNetV2B0(weights=None)
    kev.export_hub(model, tmp_path / "b0")
    size = sum(file.stat().st_size for file in (tmp_path / "b0").rglob("*") if file.is_file())
    assert size <= 1.1 * 4 * 7_200_312


# --------------------------------------------------------------------- TF Hub, a small model

TF_KERAS = """
import sys, numpy as np, tensorflow as tf, tf_keras, tensorflow_hub as hub
images = np.load("images.npz")["images"]
layer = hub.KerasLayer("hub", trainable=True)
model = tf_keras.Sequential([layer])
found = {"outputs": model(images, training=False)}
before = [v.numpy() for v in layer.variables]
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(model(images, training=True) ** 2)
found["reached"] = [g is not None and bool(np.any(g)) for g in tape.gradient(loss, layer.trainable_weights)]
found["moved"] = [bool(np.any(v.numpy() != old)) for v, old in zip(layer.variables, before)]
found["shapes"] = np.array([str(v.shape) for v in layer.variables])
found["losses"] = [float(x) for x in layer.losses]
layer.trainable = False
before = [v.numpy() for v in layer.variables]
model(images, training=True)
found["frozen moved"] = [bool(np.any(v.numpy() != old)) for v, old in zip(layer.variables, before)]
assert not {"keras_effv2"} & set(sys.modules)
np.savez("found.npz", **found)
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tf_keras_fine_tunes_the_export(tmp_path):
    pytest.importorskip("tensorflow_hub")
    model = small(kernel_regularizer="l2", bias_regularizer="l1")
    kev.export_hub(model, tmp_path / "hub")
    images = pictures(4, 32, 32)
    np.savez(tmp_path / "images.npz", images=images / 255)
    found = fresh(TF_KERAS, tmp_path, TF_USE_LEGACY_KERAS="1")
    close(found["outputs"], logits(model, images))
    assert found["reached"].tolist() == [True] * len(model.trainable_weights)
    assert sum(found["moved"]) == 2  # mean and variance
    assert not found["frozen moved"].any()
    kernel, bias = model.get_layer("head").get_weights()
    wanted = [0.01 * np.sum(kernel**2), 0.01 * np.sum(np.abs(bias))]
    assert found["losses"].tolist() == pytest.approx(wanted, rel=1e-5)


def test_penalties_are_those_that_keras_adds(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 1, kernel_regularizer="l2", trainable=False)(inputs)
    x = keras.layers.DepthwiseConv2D(3, depthwise_regularizer="l2")(x)
    x = layers.BatchNormalization(gamma_regularizer="l1")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = lively(
        keras.Model(inputs, keras.layers.Dense(3, "softmax", kernel_regularizer="l2")(x))
    )
    for kind, count in (("classification", 3), ("feature_vector", 2)):
        kev.export_hub(model, tmp_path / kind, kind)
        module = tf.saved_model.load(str(tmp_path / kind))
        losses = module.regularization_losses
        assert len(losses) == count
        np.testing.assert_allclose([loss() for loss in losses], model.losses[:count], rtol=1e-5)


@pytest.mark.parametrize("name", ["vector.tar.gz", "vector"])
def test_feature_vector(name, tmp_path, monkeypatch):
    if name == "vector":  # one of the two is enough to see the check pass
        monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    model, images = small(), pictures(3, 32, 48)
    model.get_layer("conv").trainable = False
    kev.export_hub(model, tmp_path / "made" / name, kind="feature_vector", labels=LABELS)
    assert [file.name for file in (tmp_path / "made").iterdir()] == [name]
    folder = tmp_path / "made" / name
    if name.endswith(".gz"):
        with tarfile.open(folder) as tar:
            assert "saved_model.pb" in tar.getnames()  # no folder around it
            tar.extractall(tmp_path / "unpacked", filter="data")
        folder = tmp_path / "unpacked"
    module = tf.saved_model.load(str(folder))
    close(module(images / 255, training=False), pooled(model, images))
    assert len(module.variables) == 5 and len(module.trainable_variables) == 2  # gamma and beta


def test_feature_vector_ends_before_any_head(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    images, body = pictures(3, 32, 48), small()
    x = body.get_layer("head").input
    mixed = keras.layers.Activation("softmax", dtype="float32")(keras.layers.Dense(10)(x))
    bare = keras.ops.softmax(keras.layers.Dense(10)(x))
    inputs = keras.Input((None, None, 3))
    nested = keras.Model(body.input, body.get_layer("head").input)(inputs)
    cases = {"mixed": (body.input, mixed), "bare": (body.input, bare), "nested": (inputs, nested)}
    for name, ends in cases.items():
        kev.export_hub(keras.Model(*ends), tmp_path / name, kind="feature_vector")
        module = tf.saved_model.load(str(tmp_path / name))
        close(module(images / 255, training=False), pooled(body, images))
    with pytest.raises(ValueError, match="no layer GlobalAveragePooling2D of its own"):
        kev.export_hub(keras.Model(inputs, body(inputs)), tmp_path / "x", kind="feature_vector")


def test_pixels_are_normalised_once(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    model, images = small(), pictures(2, 32, 32)
    bare = keras.models.clone_model(
        model,
        clone_function=lambda x: x.__class__.from_config(
            {**x.get_config(), "enabled": False} if isinstance(x, layers.Pixels) else x.get_config()
        ),
    )
    bare.set_weights(model.get_weights())
    kev.export_hub(bare, tmp_path / "hub")
    close(tf.saved_model.load(str(tmp_path / "hub"))(images / 255), logits(model, images))


def test_rates_vary_on_after_an_export(tmp_path, monkeypatch):
    """An export during a training must not switch progressive dropout off."""
    monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    model = small()
    dropouts = [x for x in layers.walk(model) if hasattr(x, "vary_rate")]
    for layer in dropouts:
        layer.vary_rate()
        layer.rate = 0.0
    step = tf.function(lambda x: model(x, training=True))
    images = tf.constant(pictures(2, 32, 32))
    before = step(images).numpy()
    kev.export_hub(model, tmp_path / "hub")
    kev.export(model, tmp_path / "lean", images=pictures(2, 32, 32))
    for layer in dropouts:
        layer.rate = 0.9
    assert dropouts and not np.allclose(step(images), before, atol=1e-4)


def test_layers_of_keras_that_draw_at_random(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, small()(keras.layers.RandomFlip()(inputs)))
    kev.export_hub(model, tmp_path / "hub")
    images = pictures(2, 32, 32)
    served = tf.saved_model.load(str(tmp_path / "hub"))(images / 255, training=False)
    close(tf.nn.softmax(served), model(images, training=False))


def test_what_stands_before_a_hub_layer_takes_hub_images(network, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    inputs = keras.Input((None, None, 3))
    x = kev.HubLayer(network.folder / "hub")(keras.layers.Resizing(32, 32)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    kev.export_hub(model, tmp_path / "hub")
    images = pictures(2, 48, 48) / 255
    close(tf.saved_model.load(str(tmp_path / "hub"))(images), model(images))


def test_mirrored_mixed_precision_model_exports(tmp_path):
    images = pictures(4, 32, 32)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    strategy = mirrored(2)
    try:
        with strategy.scope():
            model = small()
    finally:
        keras.config.set_dtype_policy(policy)
    before = model.get_layer("norm").moving_mean.numpy()
    tf.function(lambda: strategy.run(lambda: model(tf.constant(images), training=True)))()
    assert np.any(model.get_layer("norm").moving_mean.numpy() != before)
    kev.export_hub(model, tmp_path / "hub")
    module = tf.saved_model.load(str(tmp_path / "hub"))
    outputs = module(images / 255, training=False)
    wanted = tf.nn.log_softmax(tf.cast(logits(model, images), "float32"))
    assert outputs.dtype == tf.float32
    close(tf.nn.log_softmax(outputs), wanted, 0.02)  # bfloat16 has three digits
    for mine, theirs in zip(model.weights, module.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


# -------------------------------------------------------------------------- exports that fail


def full_disk(root, folder, **_):
    os.makedirs(folder)
    pathlib.Path(folder, "saved_model.pb").write_bytes(b"half")
    no_room()


def no_room(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_something_else(root, folder, save=tf.saved_model.save, **options):
    save(root, folder, **options)
    root.variables[0].assign_add(tf.ones_like(root.variables[0]))


def interrupt(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["hub", "hub.tar.gz"])
@pytest.mark.parametrize(
    "place, function, error",
    [
        ("tf.saved_model.save", full_disk, OSError),
        ("exporting._write_card", interrupt, KeyboardInterrupt),
        ("exporting.os.replace", no_room, OSError),
    ],
)
def test_a_broken_export_leaves_nothing(name, place, function, error, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_verify", lambda *arguments: None)
    owner, attribute = place.rsplit(".", 1)
    owner = {"tf.saved_model": tf.saved_model, "exporting": exporting, "exporting.os": os}[owner]
    monkeypatch.setattr(owner, attribute, function)
    with pytest.raises(error):
        kev.export_hub(small(), tmp_path / name, labels=LABELS)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_computes_something_else_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", save_something_else)
    with pytest.raises(RuntimeError, match="outputs differ"):
        kev.export_hub(small(), tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path):
    model, here = small(), tmp_path / "x"
    with pytest.raises(ValueError, match="classification, feature_vector.*'logits'"):
        kev.export_hub(model, here, kind="logits")
    with pytest.raises(ValueError, match="3 labels for 10 classes"):
        kev.export_hub(model, here, labels=["a", "b", "c"])
    no_pool = efficientnet_v2.build(tiny_efficientnet_row(), weights=None, include_top=False)
    with pytest.raises(ValueError, match="no feature vector"):
        kev.export_hub(no_pool, here, kind="feature_vector")
    with pytest.raises(ValueError, match="saved_model, tflite, onnx.*'coreml'"):
        kev.export(model, here, "coreml")
    for format, quantize in (("onnx", "int8"), ("tflite", "int4")):
        with pytest.raises(ValueError, match="quantize"):
            kev.export(model, here, format, quantize=quantize)
    pooled = efficientnet_v2.build(
        tiny_efficientnet_row(), weights=None, include_top=False, pooling="avg"
    )
    with pytest.raises(ValueError, match="has no classes: export it with kind='feature_vector'"):
        kev.export_hub(pooled, here)
    pyramid = efficientnet_v2.build(tiny_efficientnet_row(), weights=None, features="reduction_3")
    bare = efficientnet_v2.build(tiny_efficientnet_row(), weights=None, include_preprocessing=False)
    for export in (kev.export_hub, kev.export):
        with pytest.raises(ValueError, match="Build it without `features`, or with pooling"):
            export(pyramid, here)
    with pytest.raises(ValueError, match="include_preprocessing=False"):
        kev.export(bare, here)
    for shape in ((32, 32, 3), (0, 32, 32, 3), (2, 32, 32, 1)):
        with pytest.raises(ValueError, match=r"array \(n, height, width, 3\).*Received shape"):
            kev.export(model, here, images=np.zeros(shape))
    assert list(tmp_path.iterdir()) == []
    here.write_text("mine")
    for export in (kev.export_hub, kev.export):
        with pytest.raises(FileExistsError, match="choose another path"):
            export(model, here)
    assert here.read_text() == "mine"


# -------------------------------------------------------------------------------------- folding


def norms(model):
    return {x.name for x in model.layers if isinstance(x, keras.layers.BatchNormalization)}


@pytest.mark.parametrize("family", ["efficientnet", "coatnet"])
def test_fold_keeps_the_outputs(family):
    model = lively(tiny(family))
    lean, images = exporting.fold(model), pictures(3, 64, 96)
    wanted = model(images, training=False).numpy()
    assert np.ptp(wanted, axis=0).max() > 0.5  # they follow the images
    close(lean(images).numpy(), wanted, 1e-4)
    assert norms(model) and not norms(lean)


def tiny(family):
    module, row = {
        "efficientnet": (efficientnet_v2, tiny_efficientnet_row),
        "coatnet": (coatnet, tiny_coatnet_row),
    }[family]
    return module.build(row(), weights=None, classes=10, classifier_activation=None)


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
    lean = exporting.fold(model)
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
    lean = exporting.fold(model)
    close(lean(images).numpy(), model(images).numpy())
    assert len(norms(lean)) == stay
    x = images
    for piece in rematerialization.blocks(model):
        x = piece(x)
    close(x.numpy(), model(images).numpy())


# ----------------------------------------------------------------------------- lean exports


def in_saved_model(path, images):
    signature = tf.saved_model.load(path).signatures["serving_default"]
    return signature(tf.constant(images))["outputs"].numpy()


def in_tflite(path, images):
    interpreter = exporting._interpreter(path)  # LiteRT's, or TensorFlow's own
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    if list(given["shape"]) != [1, *images.shape[1:]]:
        interpreter.resize_tensor_input(given["index"], [1, *images.shape[1:]])
    interpreter.allocate_tensors()
    outputs = []
    for image in images:  # one at a time, as on a phone
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(wanted["index"])[0])
    return np.stack(outputs)


def in_onnx(path, images):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


RUN = {"saved_model": in_saved_model, "tflite": in_tflite, "onnx": in_onnx}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "family, format, quantize, tolerance",
    [
        ("efficientnet", "saved_model", None, 1e-4),
        ("efficientnet", "tflite", None, 1e-4),
        ("efficientnet", "tflite", "float16", 1e-2),
        ("efficientnet", "tflite", "int8", 0.3),
        ("efficientnet", "onnx", None, 1e-4),
        ("coatnet", "tflite", None, 1e-4),
        pytest.param("coatnet", "onnx", None, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_lean_exports_run_elsewhere(family, format, quantize, tolerance, tmp_path):
    model, images = lively(tiny(family)), pictures(8)
    path = tmp_path / "lean"
    report = kev.export(model, path, format, quantize=quantize, images=images, force=True)
    wanted = model(images, training=False).numpy()
    found = RUN[format](str(path), images)
    close(found, wanted, tolerance)
    assert report.max_drift == pytest.approx(np.abs(found - wanted).max(), rel=0.1, abs=3e-5)
    agreement = np.mean(found.argmax(1) == wanted.argmax(1))
    assert report.images == 8 and report.top1_agreement == pytest.approx(agreement)
    beside = path / "assets.extra/export.json" if path.is_dir() else tmp_path / "lean.json"
    assert json.loads(beside.read_text())["max_drift"] == report.max_drift
    odd = pictures(1, 96, 64)
    if quantize != "int8" and (family, format) != (
        "coatnet",
        "tflite",
    ):  # its attention has one size
        close(RUN[format](str(path), odd), model(odd).numpy(), tolerance)


def test_lean_export_around_a_hub_layer(network, tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Dense(4)(kev.HubLayer(network.folder / "hub")(inputs)))
    images = pictures(2) / 255
    kev.export(model, tmp_path / "lean", images=images)
    close(in_saved_model(str(tmp_path / "lean"), images), model(images))


def test_a_lean_export_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    model, images = small(), pictures(4, 32, 32)
    for wrong in (10 * model.get_weights()[-1][::-1], np.full(10, np.nan)):
        other = keras.models.clone_model(model)
        other.set_weights([*model.get_weights()[:-1], wrong])
        monkeypatch.setattr(exporting, "fold", lambda net, other=other: other)
        with pytest.raises(RuntimeError, match="differ.*it was not written.*fold_batch_norm=False"):
            kev.export(model, tmp_path / "lean", images=images)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_int8_that_agrees_too_little_is_refused(tmp_path):
    model, images = small(), pictures(16, 32, 32)
    kernel, bias = model.get_layer("head").get_weights()
    ties = kernel[:, :1] + 1e-3 * kernel  # ten classes that int8 can hardly tell apart
    model.get_layer("head").set_weights([ties, 0 * bias])
    options = {"format": "tflite", "quantize": "int8", "images": images}
    with pytest.raises(ValueError, match="wanted 95%.*force=True"):
        kev.export(model, tmp_path / "x.tflite", **options)
    assert list(tmp_path.iterdir()) == []
    report = kev.export(model, tmp_path / "x.tflite", force=True, **options)
    found = in_tflite(str(tmp_path / "x.tflite"), images).argmax(1)
    agreement = np.mean(found == model(images).numpy().argmax(1))
    assert report.top1_agreement == agreement < 0.95


# -------------------------------------------------------------------------------------- publishing


def test_publish(network, monkeypatch):
    hub = str(network.folder / "hub")
    on_disk = {
        os.path.relpath(os.path.join(root, name), hub): os.path.getsize(os.path.join(root, name))
        for root, _, names in os.walk(hub)
        for name in names
    }
    sent = []
    kaggle = types.SimpleNamespace(model_upload=lambda *given: sent.append(given))
    made = []
    face = types.SimpleNamespace(
        create_repo=lambda name, exist_ok: made.append(name),
        upload_folder=lambda **given: sent.append(given),
    )
    for module, value in (("kagglehub", kaggle), ("huggingface_hub", face)):
        monkeypatch.setitem(sys.modules, module, None)  # not installed
        to = "kaggle" if value is kaggle else "hf"
        assert dict(exporting.publish(hub, to, "me/flowers")) == on_disk
        with pytest.raises(ImportError, match=f"pip install {module}"):
            exporting.publish(hub, to, "me/flowers", dry_run=False)
        monkeypatch.setitem(sys.modules, module, value)
        assert dict(exporting.publish(hub, to, "me/flowers")) == on_disk and not sent
        exporting.publish(hub, to, "me/flowers", dry_run=False)
        assert "me/flowers" in str(sent.pop()) and not sent
    assert made == ["me/flowers"]
    monkeypatch.setattr(kaggle, "model_upload", lambda *_: 1 / 0)
    with pytest.raises(OSError, match="me/flowers could not be uploaded: .*logged in"):
        exporting.publish(hub, "kaggle", "me/flowers", dry_run=False)
    # a dry run leaves the export, the next command sends it
    command = ["export", "--output=" + hub, "--publish=hf", "--handle=me/flowers", "--nodry_run"]
    assert cli.main(command) == 0 and "me/flowers" in str(sent.pop())
    with pytest.raises(ValueError, match="'kaggle' or 'hf'.*'ftp'"):
        exporting.publish(hub, "ftp", "me/flowers")
    with pytest.raises(FileNotFoundError, match="export_hub first"):
        exporting.publish(network.folder, "hf", "me/flowers")
