"""Every format of a checkpoint, and rubbish in each."""

import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
from checkpoint_files import drop_names, flips, pack, write_automl, write_hub, write_legacy

import keras_effv2 as kev
from keras_effv2 import weights


@pytest.mark.parametrize(
    "form",
    [
        "weights.h5",
        "keras",
        "legacy.h5",
        "misnamed.weights.h5",
        "ckpt",
        "tgz",
        "no_names.weights.h5",
    ],
)
def test_every_format_loads(form, tiny_effnet, images, tmp_path):
    model = tiny_effnet()
    path = str(tmp_path / f"m.{form}")
    if form in ("weights.h5", "no_names.weights.h5"):
        model.save_weights(path)
    elif form == "keras":
        model.save(path)
    elif form in ("legacy.h5", "misnamed.weights.h5"):
        write_legacy(model, path)
    else:
        (tmp_path / "c").mkdir()
        write_automl(model, tmp_path / "c" / "model")
        path = str(tmp_path / "c" / "model")
    if form == "no_names.weights.h5":
        drop_names(path)
    if form == "tgz":
        pack(tmp_path / "c", tmp_path / "m.tgz")
        path = str(tmp_path / "m.tgz")
    np.testing.assert_array_equal(tiny_effnet(weights=path)(images), model(images))
    body = tiny_effnet(weights=path, include_top=False, pooling="avg")
    expected = keras.Model(model.input, model.get_layer("avg_pool").output)
    np.testing.assert_array_equal(body(images), expected(images))
    other = tiny_effnet(weights=path, classes=3)
    kernel = other.get_layer("block5a_expand_conv").get_weights()[0]
    np.testing.assert_array_equal(kernel, model.get_layer("block5a_expand_conv").get_weights()[0])
    part = tiny_effnet(weights=path, features=["reduction_2"])(images)["reduction_2"]
    assert part.shape == (2, 16, 16, 8)


def test_keras_applications_files_load(images, tmp_path):
    peer = keras.applications.EfficientNetV2B0(weights=None, classes=7, input_shape=(64, 64, 3))
    peer.save_weights(tmp_path / "ka.weights.h5")
    ours = kev.EfficientNetV2B0(weights=str(tmp_path / "ka.weights.h5"))
    assert ours.output_shape == (None, 7)
    np.testing.assert_allclose(ours(images), peer(images), atol=1e-6)


@pytest.mark.parametrize("write", [write_automl, write_hub])
def test_every_tensor_of_automl_finds_its_layer(write, tiny_effnet, tmp_path):
    model = tiny_effnet()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1, weight.shape))
    (tmp_path / "c").mkdir()
    write(model, str(tmp_path / "c" / "model"))
    loaded = tiny_effnet(weights=str(tmp_path / "c" / "model"))
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected, weight.path)


def test_a_checkpoint_of_the_other_family_lists_what_is_missing(
    tiny_effnet, tiny_coatnet, tmp_path
):
    write_automl(tiny_effnet(), tmp_path / "model")
    with pytest.raises(ValueError, match="does not fit tinycoatnet.*missing stem_conv1/kernel"):
        tiny_coatnet(weights=str(tmp_path / "model"))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<html>not found", "no weights file"),
        (b"\x89HDF\r\n\x1a\nxx", "damaged"),
        (b"PKxx", "cut off"),
        (b"\x1f\x8bxx", "damaged"),
    ],
)
def test_rubbish_files(content, words, tiny_effnet, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        tiny_effnet(weights=str(path))
    with pytest.raises(FileNotFoundError, match="no weights file"):
        tiny_effnet(weights=str(tmp_path / "absent.h5"))


def test_saved_models_that_hold_no_weights(tiny_effnet, tmp_path):
    """Cut off, without what belongs to it, or an export whose weights are constants."""
    model, part = tiny_effnet(), "variables.data-00000-of-00001"
    write_hub(model, str(tmp_path / "hub"))
    content = (tmp_path / "hub" / "variables" / part).read_bytes()
    (tmp_path / "hub" / "variables" / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"hub is a damaged SavedModel \(.*\). Get it again."):
        weights.read(tmp_path / "hub")
    kev.export(model, tmp_path / "lean")
    with pytest.raises(ValueError, match="lean is an export for inference alone.* Give the .keras"):
        weights.read(tmp_path / "lean")
    (tmp_path / "lean" / "assets.extra" / "keras_effv2.json").write_text("{")
    with pytest.raises(ValueError, match="lean is a damaged SavedModel"):
        weights.read(tmp_path / "lean")


def test_a_flipped_byte_of_a_compressed_model_is_found(tiny_effnet, tmp_path):
    path = tmp_path / "m.keras"
    tiny_effnet().save_weights(tmp_path / "m.weights.h5")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "m.weights.h5", "model.weights.h5")
    for flipped in flips(path.read_bytes()):
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="not a whole .keras file"):
            weights.read(path)


def test_links_in_hdf5_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file.create_group("layers")
        file["layers/a"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ValueError, match="refused"):
        weights.read(str(tmp_path / "x.weights.h5"))


def test_small_files_that_declare_gigabytes_are_refused(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        variables = file.create_group("layers/dense/vars")
        variables.create_dataset("0", (30_000, 30_000), "float32", chunks=True)  # nothing written
    with pytest.raises(ValueError, match="bytes and unpacks to 3600000000; refused"):
        weights.read(path)


def test_circles_in_hdf5_are_refused(tmp_path):
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        inner = file.create_group("layers/a")
        for i in range(8):
            inner[f"again{i}"] = file["layers"]
    with pytest.raises(ValueError, match="holds the group .* twice; refused"):
        weights.read(path)


def test_a_pipe_is_no_weights_file(tmp_path):
    """It would be waited for for ever."""
    os.mkfifo(tmp_path / "x.weights.h5")
    with pytest.raises(ValueError, match="x.weights.h5 is a pipe or a device, not a file"):
        weights.read(tmp_path / "x.weights.h5")


def test_a_path_from_home(tiny_effnet, images, tmp_path, monkeypatch):
    model = tiny_effnet()
    model.save_weights(tmp_path / "x.weights.h5")
    monkeypatch.setenv("HOME", str(tmp_path))
    again = tiny_effnet(weights="~/x.weights.h5")
    np.testing.assert_array_equal(again(images), model(images))
