"""What commit 9ffd7d8 wrote is loaded, resumed and served as that commit did.

Registered names, names of weights and of checkpoint entries, file names: whatever is changed here
makes files of users unreadable.
"""

import hashlib
import io
import json
import pathlib
import shutil
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from compatibility_runs import RUNS, is_of_here
from conftest import tiny_coatnet_row, tiny_efficientnet_row
from made_pictures import encoded, noise
from packaging import version

import keras_effv2 as kev
from keras_effv2.model_files import load_keras
from keras_effv2.models import coatnet, efficientnet_v2
from keras_effv2.training import state

ARCHIVE = pathlib.Path(__file__).parent / "data" / "compatibility" / "9ffd7d8.tar.xz"
NAMES = ("red", "green", "blue", "grey")
BUILDERS = {
    "efficientnet": (efficientnet_v2.build, tiny_efficientnet_row),
    "coatnet": (coatnet.build, tiny_coatnet_row),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that commit 9ffd7d8 left."""
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def stored(written):
    """Three pictures, and what the networks said of them then."""
    with np.load(written / "predictions.npz") as arrays:
        return dict(arrays)


def assert_says(model, stored, name):
    said = model(stored["images"].astype("float32"), training=False)
    np.testing.assert_allclose(said, stored[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_keras_file(name, written, stored):
    """By the Keras that wrote it and later ones; an earlier one is named as the cause."""
    if version.parse(keras.__version__) < version.parse("3.15"):
        with pytest.raises(ValueError, match="Keras 3.15.1 wrote it, and Keras here is"):
            load_keras(written / f"{name}.keras")
        return
    model = keras.saving.load_model(written / f"{name}.keras")
    assert_says(model, stored, name)
    contract = kev.layers.find_pixels(model).contract()
    assert tuple(contract["class_names"]) == NAMES
    assert (contract["pixels"], contract["image_size"]) == ("128", 32)
    assert (contract["crop"], contract["resize"]) == ("none", "bilinear")


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_file(name, written, stored):
    """By the builder, strictly, and by Keras itself into a network that is there already."""
    build, row = BUILDERS[name]
    path = written / f"{name}.weights.h5"
    model = build(row(), weights=str(path), classes=4)
    assert_says(model, stored, name)
    assert tuple(kev.layers.find_pixels(model).class_names) == NAMES
    fresh = build(row(image_size=32), weights=None, classes=4)
    fresh.load_weights(path)
    assert_says(fresh, stored, name)


def test_hub_export(written, stored):
    images = stored["images"] / np.float32(255)
    loaded = tf.saved_model.load(written / "hub")
    np.testing.assert_allclose(loaded(images), stored["hub"], rtol=1e-5, atol=1e-5)
    served = loaded.signatures["serving_default"](tf.constant(images))
    np.testing.assert_allclose(*served.values(), stored["hub"], rtol=1e-5, atol=1e-5)
    layer = kev.HubLayer(str(written / "hub"), trainable=True)
    np.testing.assert_allclose(layer(images), stored["hub"], rtol=1e-5, atol=1e-5)
    assert len(layer.trainable_weights) == len(loaded.trainable_variables) > 0


def read_checkpoint(path):
    """Arrays and description of a checkpoint: 64 characters of sha256, then an .npz."""
    content = path.read_bytes()
    assert hashlib.sha256(content[64:]).hexdigest().encode() == content[:64]
    with np.load(io.BytesIO(content[64:])) as file:
        arrays = dict(file)
    return arrays, json.loads(arrays.pop("__meta__").tobytes())


@pytest.mark.parametrize("name", RUNS)
def test_stopped_run(name, written, tmp_path):
    """It resumes and ends as the run that was left alone: bit for bit on the same machine."""
    run, workdir = RUNS[name], tmp_path / "run"
    shutil.copytree(written / "runs" / name, workdir, ignore=shutil.ignore_patterns(".lock"))
    result = run.train(workdir)
    assert (result.resumed_from, result.steps) == (run.stop, 12)
    for file in ("recipe.json", "metrics.csv", "history.png", "model.keras", "summary.json"):
        assert (workdir / file).is_file()
    assert (workdir / "labels.txt").read_text() == (written / "labels.txt").read_text()
    arrays, meta = read_checkpoint(workdir / "checkpoints" / "step-000000012.ckpt")
    with np.load(written / "runs" / f"{name}.npz") as end:
        expected = dict(end)
    then = json.loads(str(expected.pop("__meta__")))
    assert set(arrays) == set(expected)
    tolerance, noise = (0, 0) if is_of_here(then) else (run.tolerance, 1e-7)
    for key, array in expected.items():
        assert array.dtype == arrays[key].dtype
        largest = np.abs(array.astype("float64")).max(initial=0)
        np.testing.assert_allclose(
            arrays[key], array, rtol=0, atol=tolerance * largest + noise, err_msg=key
        )
    losses, wanted = ([row["loss"] for row in m["history"]] for m in (meta, then))
    np.testing.assert_allclose(losses, wanted, rtol=tolerance)


def test_a_run_on_files_is_known_by_their_names(tmp_path):
    """9ffd7d8 hashed labels and names of files, not yet their contents."""
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for i, file in enumerate(files):
        file.write_bytes(encoded(noise(i)))
    split = kev.data.Split(NAMES, [0, 1], files)
    names = hashlib.sha256(np.array([0, 1], "int64").tobytes() + b"a.png\0b.png").hexdigest()[:16]
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "checkpoints" / "step-000000001.ckpt").touch()
    (workdir / "recipe.json").write_text(json.dumps({"training data": names}))
    described = {"training data": split.fingerprint()}
    state.check_same(workdir, None, described)
    other = {"training data": kev.data.Split(NAMES, [1, 0], files).fingerprint()}
    with pytest.raises(ValueError, match="changed: training data"):
        state.check_same(workdir, None, other)
