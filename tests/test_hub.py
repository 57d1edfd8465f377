"""HubLayer over a SavedModel that TensorFlow alone made, against the formula it computes."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored, tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2.exporting import reusable
from keras_effv2.models import efficientnet_v2

KERNEL = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
MEAN = np.array([0.1, 0.2, 0.3], "float32")
IMAGES = np.random.default_rng(1).uniform(size=(4, 8, 6, 3)).astype("float32")


class Reusable(tf.Module):
    """(mean of the pixels - moving mean) @ kernel, with a penalty on the kernel."""

    def __init__(self):
        self.kernel = tf.Variable(KERNEL, name="dense/kernel")
        self.mean = tf.Variable(MEAN, trainable=False, name="mean")
        self.regularization_losses = [
            tf.function(lambda: 0.01 * tf.reduce_sum(self.kernel**2), input_signature=[])
        ]

    @tf.function
    def __call__(self, images, training=False):
        colours = tf.reduce_mean(images, [1, 2])
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(colours, 0))
        return (colours - self.mean) @ self.kernel


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a reusable SavedModel."""
    folder = str(tmp_path_factory.mktemp("hub") / "saved")
    module = Reusable()
    images = tf.TensorSpec((None, None, None, 3), tf.float32)
    for training in (False, True):
        module.__call__.get_concrete_function(images, training=training)
    root = tf.train.Checkpoint()
    root.__call__ = module.__call__
    root.variables = [module.kernel, module.mean]
    root.trainable_variables = [module.kernel]
    root.regularization_losses = module.regularization_losses
    tf.saved_model.save(root, folder)
    return folder


@pytest.fixture
def packed(saved, tmp_path):
    """The same as a .tar.gz."""
    archive = tmp_path / "served" / "saved.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(saved, arcname=".")
    return archive


def formula(images, kernel=KERNEL, mean=MEAN):
    return (images.mean((1, 2)) - mean) @ kernel


def model_of(layer):
    return keras.Sequential([keras.Input((None, None, 3)), layer])


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_variables_are_weights_of_the_model(saved):
    layer = kev.HubLayer(saved, trainable=True)
    model = model_of(layer)
    assert model.output_shape == (None, 4)
    close(model(IMAGES).numpy(), formula(IMAGES))
    close([w.numpy() for w in model.trainable_weights], [KERNEL])
    close([w.numpy() for w in model.non_trainable_weights], [MEAN])
    close(model.losses, [0.01 * np.sum(KERNEL**2)])
    layer.trainable = False
    assert [w.shape for w in model.weights] == [(3, 4), (3,)] and not model.trainable_weights
    model(IMAGES)
    assert not model.losses
    model = model_of(kev.HubLayer(saved, trainable=False))
    assert not model.trainable_weights
    model.layers[0].trainable = True
    assert [w.shape for w in model.trainable_weights] == [(3, 4)] and len(model.losses) == 1


@pytest.mark.parametrize("way", ["plain", "jit_compile", "mirrored"])
def test_fit_changes_exactly_what_it_should(saved, way):
    """One step of SGD on the mean of squares: the gradient is 2 x' y / n + 0.02 kernel.

    Each replica computes with the statistics of its own images, then all keep their mean.
    """
    scope = mirrored(2).scope() if way == "mirrored" else tf.init_scope()
    with scope:
        model = model_of(kev.HubLayer(saved, trainable=True))
        model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=way == "jit_compile")
    model.fit(IMAGES, np.zeros((4, 4)), shuffle=False, verbose=0)
    mean = 0.9 * MEAN + 0.1 * IMAGES.mean((0, 1, 2))
    shares = np.split(IMAGES.mean((1, 2)), 2 if way == "mirrored" else 1)
    x = np.concatenate([share - 0.9 * MEAN - 0.1 * share.mean(0) for share in shares])
    gradient = 2 * x.T @ (x @ KERNEL) / 16 + 0.02 * KERNEL
    close(model.weights[0].numpy(), KERNEL - 0.5 * gradient)
    close(model.weights[1].numpy(), mean)
    if way == "mirrored":
        for copy in model.weights[1].value.values:
            close(copy.numpy(), mean)


def test_fit_leaves_a_frozen_layer_alone(saved):
    model = model_of(kev.HubLayer(saved))
    model.add(keras.layers.Dense(2))
    model.compile("adam", "mse")
    before = model.layers[1].kernel.numpy()
    model.fit(IMAGES, np.ones((4, 2)), epochs=2, verbose=0)
    np.testing.assert_array_equal(model.weights[0].numpy(), KERNEL)
    np.testing.assert_array_equal(model.weights[1].numpy(), MEAN)
    assert np.abs(model.layers[1].kernel.numpy() - before).min() > 1e-4


def test_files_keep_what_was_trained(saved, tmp_path):
    model = model_of(kev.HubLayer(saved, trainable=True))
    kernel, mean = KERNEL[::-1] + 1, MEAN * 3
    model.set_weights([kernel, mean])
    model.save(tmp_path / "x.keras")
    model.save_weights(tmp_path / "x.weights.h5")
    read = keras.saving.load_model(tmp_path / "x.keras", safe_mode=True)
    close(read(IMAGES).numpy(), formula(IMAGES, kernel, mean))
    assert len(read.trainable_weights) == 1
    read = model_of(kev.HubLayer(saved))
    read.load_weights(tmp_path / "x.weights.h5")
    close(read(IMAGES).numpy(), formula(IMAGES, kernel, mean))


@pytest.mark.parametrize("packing", ["folder", "archive"])
def test_a_new_process_runs_what_a_file_names_when_it_is_told_to(packing, saved, packed, tmp_path):
    """A zip with a model and a folder beside it is enough to run a graph that writes files."""
    handle = str(saved if packing == "folder" else packed)
    model_of(kev.HubLayer(handle)).save(tmp_path / "x.keras")
    load = f"""
import keras, keras_effv2
def load():
    return keras.saving.load_model({str(tmp_path / "x.keras")!r})
try:
    load()
except (ValueError, TypeError) as error:
    assert "wants to load and run {handle}" in str(error), error
    assert "HubLayer.trusted.add('{handle}')" in str(error), error
else:
    raise AssertionError("it ran")
keras_effv2.HubLayer.trusted.add({handle!r})
load()
"""
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_does_not_load_over_another_saved_model(saved, tmp_path):
    model = model_of(kev.HubLayer(saved))
    model.save(tmp_path / "x.keras")
    graph = os.path.join(saved, "saved_model.pb")
    with open(graph, "rb") as file:
        content = file.read()
    try:
        with open(graph, "ab") as file:
            file.write(b"\n")
        with pytest.raises(TypeError, match="it is not the SavedModel that was meant"):  # Keras'
            keras.saving.load_model(tmp_path / "x.keras")
    finally:
        with open(graph, "wb") as file:
            file.write(content)


def test_an_archive_is_a_handle(saved, packed):
    layer = kev.HubLayer(packed)
    close(layer(IMAGES), formula(IMAGES))
    assert layer.hash == kev.HubLayer(saved).hash
    with pytest.raises(ValueError, match=f"sha256 {layer.hash}, expected 00"):
        kev.HubLayer(packed, sha256="00")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of the folder `served` on this machine."""
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE", raising=False)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    handler = functools.partial(quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_remote_handle_needs_trust_or_a_hash(saved, packed, server, monkeypatch):
    pytest.importorskip("tensorflow_hub")
    server = f"{server}/{packed.name}"
    with pytest.raises(ValueError, match="sha256.*trust=True"):
        kev.HubLayer(server)
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    with pytest.raises(OSError, match="KERAS_EFFV2_OFFLINE"):
        kev.HubLayer(server, trust=True)
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE")
    close(kev.HubLayer(server, trust=True)(IMAGES), formula(IMAGES))
    close(kev.HubLayer(server, sha256=kev.HubLayer(saved).hash)(IMAGES), formula(IMAGES))
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")  # it lies in the cache now
    close(kev.HubLayer(server, trust=True)(IMAGES), formula(IMAGES))
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE")
    with pytest.raises(ValueError, match="expected 00"):
        kev.HubLayer(server, sha256="00")
    with pytest.raises(OSError, match="nowhere.tar.gz could not be fetched"):
        kev.HubLayer(server.replace(packed.name, "nowhere.tar.gz"), trust=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_is_no_reason_to_trust_what_it_names(saved, packed, server, tmp_path, monkeypatch):
    """Its hash comes from the file, too: nothing is fetched before the user says so."""
    pytest.importorskip("tensorflow_hub")
    monkeypatch.setattr(kev.HubLayer, "trusted", set())
    address = f"{server}/{packed.name}"
    model_of(kev.HubLayer(address, trust=True)).save(tmp_path / "x.keras")
    keras.saving.load_model(tmp_path / "x.keras")  # the process has named the address itself
    kev.HubLayer.trusted.clear()
    with monkeypatch.context() as patch:
        patch.setattr("tensorflow_hub.resolve", None)
        with pytest.raises((ValueError, TypeError), match=r"wants to load and run.*trusted\.add"):
            keras.saving.load_model(tmp_path / "x.keras")
    kev.HubLayer.trusted.add(address)
    keras.saving.load_model(tmp_path / "x.keras")


def test_a_kaggle_handle_out_of_the_cache(saved, tmp_path, monkeypatch):
    handle = "me/flowers/tensorFlow2/small/1"
    kept = tmp_path / "models" / handle
    shutil.copytree(saved, kept)
    kept.with_name("1.complete").touch()
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    with pytest.raises(ValueError, match="is remote, and a SavedModel is a program"):
        kev.HubLayer(handle)
    layer = kev.HubLayer(handle, trust=True)
    close(layer(IMAGES), formula(IMAGES))
    assert layer.get_config()["handle"] == handle


def test_a_relative_handle_is_found_from_elsewhere(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(os.path.dirname(saved))
    model_of(kev.HubLayer(os.path.basename(saved))).save(tmp_path / "x.keras")
    monkeypatch.chdir(tmp_path)
    close(keras.saving.load_model(tmp_path / "x.keras")(IMAGES), formula(IMAGES))


def test_what_is_no_reusable_saved_model(saved, packed, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no SavedModel"):
        kev.HubLayer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="There is no SavedModel"):
        kev.HubLayer(tmp_path / "nowhere.tar.gz")
    with pytest.raises(FileNotFoundError, match="There is no SavedModel exports/flwers"):
        kev.HubLayer("exports/flwers")
    with pytest.raises(FileNotFoundError, match="holds no SavedModel"):
        kev.HubLayer(tmp_path)
    half = tmp_path / "half.tar.gz"
    half.write_bytes(packed.read_bytes()[:700])
    with pytest.raises(ValueError, match="damaged"):
        kev.HubLayer(half)
    half.write_bytes(packed.read_bytes())  # got again
    close(kev.HubLayer(half)(IMAGES), formula(IMAGES))
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path / "torn", filter="data")
    (tmp_path / "torn/saved_model.pb").write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        kev.HubLayer(tmp_path / "torn")
    tf.saved_model.save(tf.train.Checkpoint(x=tf.Variable(1.0)), str(tmp_path / "mute"))
    with pytest.raises(ValueError, match="not a reusable SavedModel.*export_hub"):
        kev.HubLayer(tmp_path / "mute")


def test_a_model_with_a_hub_layer_exports_again(saved, tmp_path):
    model = model_of(kev.HubLayer(saved, trainable=True))
    kernel = KERNEL + 1
    model.layers[0].set_weights([kernel, MEAN])
    kev.export_hub(model, tmp_path / "again")
    module = tf.saved_model.load(str(tmp_path / "again"))
    close(module(IMAGES, training=False), formula(IMAGES, kernel))
    close([loss() for loss in module.regularization_losses], [0.01 * np.sum(kernel**2)])
    assert [v.shape for v in module.trainable_variables] == [(3, 4)]
    module(IMAGES, training=True)
    close(module.variables[1].numpy(), 0.9 * MEAN + 0.1 * IMAGES.mean((0, 1, 2)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_builder_takes_a_remote_export_of_ours(server, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_hub")
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    row, options = tiny_efficientnet_row(), {"include_top": False, "pooling": "avg"}
    model = efficientnet_v2.build(row, weights=None, **options)
    kev.export_hub(model, tmp_path / "served/ours.tar.gz", kind="feature_vector")
    again = efficientnet_v2.build(row, weights=f"hub:{server}/ours.tar.gz", **options)
    for mine, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_an_export_of_ours_trains_and_exports_again(tmp_path, monkeypatch):
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    row = tiny_efficientnet_row()
    model = efficientnet_v2.build(row, weights=None, include_top=False, pooling="avg")
    kev.export_hub(model, tmp_path / "one", kind="feature_vector")
    outer = model_of(kev.HubLayer(tmp_path / "one", trainable=True))
    outer.add(keras.layers.Dense(3))
    images = np.random.default_rng(0).uniform(size=(2, 32, 64, 3)).astype("float32")
    close(outer.layers[0](images), model(images * 255).numpy())
    assert len(outer.trainable_weights) == len(model.trainable_weights) + 2
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(outer(images, training=True) ** 2)
    gradients = tape.gradient(loss, [w.value for w in outer.trainable_weights])
    assert all(gradient is not None for gradient in gradients)
    kev.export_hub(outer, tmp_path / "two")
    module = tf.saved_model.load(str(tmp_path / "two"))
    close(module(images, training=False), outer(images, training=False).numpy())
    assert module(images, training=True).shape == (2, 3)
