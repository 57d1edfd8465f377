"""From `weights=` to a model: contracts, mismatches, real checkpoints."""

import dataclasses
import hashlib
import os
import types

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from checkpoint_files import drop_names, write_automl
from conftest import tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2 import evaluation, imagenet, layers, photos, weights
from keras_effv2.models import efficientnet_v2


@pytest.mark.parametrize("form", ["weights.h5", "no_names.weights.h5", "ckpt", "part.weights.h5"])
def test_features_refuse_another_variants_checkpoint(form, tiny_effnet, tmp_path):
    """One of two blocks where the network has one, of the same widths."""
    path = str(tmp_path / f"m.{form}")
    if form == "ckpt":
        write_automl(tiny_effnet(), path)
    elif form == "part.weights.h5":
        tiny_effnet(features=["reduction_3"]).save_weights(path)
    else:
        tiny_effnet().save_weights(path)
    if form == "no_names.weights.h5":
        drop_names(path)
    tiny_effnet(weights=path, features=["reduction_3"])
    row = tiny_efficientnet_row()
    stages = tuple(dataclasses.replace(stage, repeats=1) for stage in row.stages)
    row = dataclasses.replace(row, stages=stages)
    with pytest.raises(ValueError, match="unexpected"):
        efficientnet_v2.build(row, weights=path, features=["reduction_3"])


def test_a_mismatch_lists_itself_and_changes_nothing(tiny_effnet, tmp_path):
    model = tiny_effnet(classes=4)
    model.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars"].create_dataset("0", data=np.zeros((3, 3, 3, 9)))
    other = tiny_effnet(classes=4)
    before = other.get_weights()
    checkpoint = weights.read(str(tmp_path / "a.weights.h5"))
    with pytest.raises(
        ValueError, match=r"stem_conv/kernel is \(3, 3, 3, 9\), wanted \(3, 3, 3, 8\)"
    ):
        weights.assign(other, checkpoint)
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_weights_that_are_no_numbers_change_nothing(tiny_effnet, tmp_path, value):
    model, path = tiny_effnet(classes=4), str(tmp_path / "a.weights.h5")
    head = model.get_layer("predictions")
    head.bias.assign([0, 1, value, 3])
    model.save_weights(path)
    with pytest.raises(ValueError, match="a.weights.h5 holds NaN or infinity in predictions/bias"):
        tiny_effnet(weights=path, classes=4)
    tiny_effnet(weights=path, classes=3)  # which takes another head


def test_weights_without_a_head_name_nothing(tiny_effnet, tmp_path):
    """A head of random weights is for those who say how many classes they will train it for."""
    path = str(tmp_path / "body.weights.h5")
    tiny_effnet(include_top=False).save_weights(path)
    with pytest.raises(
        ValueError, match="body.weights.h5 has no head, and a new one knows no class"
    ):
        tiny_effnet(weights=path, classes=None)
    assert tiny_effnet(weights=path, classes=3).output_shape == (None, 3)
    tiny_effnet(include_top=False, weights=path)


def test_bias_tables_fit_another_size(tiny_coatnet, tmp_path):
    model = tiny_coatnet(input_shape=(64, 64, 3))
    model.save_weights(tmp_path / "c.weights.h5")
    big = tiny_coatnet(input_shape=(96, 128, 3), weights=str(tmp_path / "c.weights.h5"))
    table = model.get_layer("block3a_attention").relative_bias.numpy()
    expected = tf.image.resize(table.transpose(1, 2, 0), (11, 15)).numpy().transpose(2, 0, 1)
    np.testing.assert_allclose(
        big.get_layer("block3a_attention").relative_bias, expected, atol=1e-6
    )


def test_a_released_archive_has_the_contract_of_its_release(
    tiny_effnet, tmp_path, monkeypatch, caplog
):
    """By its name; under another one the user is told."""
    released = weights.Row(
        "TinyEfficientNetV2", "21k", 10, "127.5", "sigmoid", f"{weights.STORAGE}x/tiny-21k.tgz"
    )
    monkeypatch.setitem(weights.CHECKPOINTS, ("TinyEfficientNetV2", "21k"), released)
    for name in ("tiny-21k", "renamed"):
        folder = tmp_path / name
        folder.mkdir()
        write_automl(tiny_effnet(), folder / "model")
        pixels = layers.find_pixels(tiny_effnet(weights=str(folder)))
        known = name == "tiny-21k"
        assert (pixels.pixels, pixels.activation) == (
            ("127.5", "sigmoid") if known else ("128", "softmax")
        )
        assert ("does not say how its pixels are scaled" in caplog.text) != known


def test_unknown_tags_list_the_known():
    with pytest.raises(ValueError, match="imagenet-automl, imagenet21k, imagenet21k-ft1k"):
        kev.EfficientNetV2B0(weights="imagenet22k")
    with pytest.raises(ValueError, match="No weights of CoAtNet0 were ever released"):
        kev.CoAtNet0(weights="imagenet")


def test_a_fresh_head_is_judged_by_its_own_activation(tiny_effnet, images, tmp_path):
    """That of the checkpoint counts where its head is kept."""
    path = str(tmp_path / "s.weights.h5")
    tiny_effnet(classifier_activation="sigmoid").save_weights(path)
    for activation in ("softmax", "sigmoid"):
        for model in (
            tiny_effnet(weights=path, classes=3, classifier_activation=activation),
            tiny_effnet(classifier_activation=activation),
        ):
            np.testing.assert_allclose(
                evaluation.probabilities(model)(images), model(images), rtol=1e-5
            )
    for model, activation in (
        (tiny_effnet(weights=path), "sigmoid"),
        (tiny_effnet(weights=path, classifier_activation=None), "sigmoid"),
        (tiny_effnet(weights=path, classes=3, classifier_activation=None), "softmax"),
        (tiny_effnet(weights=path, include_top=False), "softmax"),
        (tiny_effnet(classifier_activation=None), "softmax"),
    ):
        assert layers.find_pixels(model).activation == activation


def test_weights_that_do_not_fit_on_a_disk(tiny_effnet, tmp_path, monkeypatch):
    """HDF5 ends Python by a segmentation fault when a write fails."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=100_000))
    with pytest.raises(
        OSError, match="t.weights.h5 could not be written .No space left.*Make room"
    ):
        weights.convert(tiny_effnet(), tmp_path / "t.weights.h5", tag="t", source="here")
    assert list(tmp_path.iterdir()) == []


def test_convert_writes_a_row(tiny_effnet, tmp_path):
    made = weights.convert(tiny_effnet(), tmp_path / "t.weights.h5", tag="t", source="here")
    content = (tmp_path / "t.weights.h5").read_bytes()
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert (made["pixels"], made["classes"]) == ("128", 10)
    assert os.listdir(tmp_path) == ["t.weights.h5"]


@pytest.mark.shared_data
def test_golden_panda(shared):
    size = 224
    raw = tf.io.read_file(str(shared / "golden" / "panda.jpg"))
    image = tf.image.decode_jpeg(raw, channels=3).numpy()
    top, left, height, width = photos.crop_box(*image.shape[:2], size, "automl")
    image = tf.image.resize(image[top : top + height, left : left + width], (size, size))
    path = shared / "weights" / "efficientnetv2-b0_imagenet.weights.h5"
    model = kev.EfficientNetV2B0(
        weights=str(path), include_preprocessing=False, classifier_activation=None
    )
    logits = model((image[None] - 128) / 128).numpy()[0]
    golden = np.load(shared / "golden" / "efficientnetv2-b0_224_original_logits.npy")[0]
    assert np.sqrt(np.mean((logits - golden) ** 2)) < 0.013
    assert list(np.argsort(-logits)[:5]) == list(np.argsort(-golden)[:5])
    named = imagenet.decode_predictions(logits[None], top=1)[0][0]
    assert named[:2] == ("n02510455", "giant_panda")


@pytest.mark.shared_data
def test_real_weights_equal_keras_applications(shared):
    path = str(shared / "weights" / "efficientnetv2-b0_imagenet.weights.h5")
    ours = kev.EfficientNetV2B0(weights=path)
    peer = keras.applications.EfficientNetV2B0(weights=None)
    peer.load_weights(path)
    files = sorted((shared / "flowers" / "val").rglob("*.jpg"))[::60]
    batch = np.stack(
        [imagenet.prepare(imagenet.read_image(f), 224, "automl", "bicubic") for f in files]
    )
    a, b = ours(batch).numpy(), peer(batch).numpy()
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("form", ["run.weights.h5", "run.keras"])
def test_the_contract_travels_with_a_file(form, tiny_effnet, tmp_path):
    """Size, crop and resizing of the pictures, and below what confidence a picture is unknown."""
    model = tiny_effnet()
    pixels = layers.find_pixels(model)
    pixels.image_size, pixels.crop, pixels.resize = 160, "automl", "bicubic"
    pixels.temperature, pixels.unknown_below, pixels.thresholds = 0.5, 0.8, [0.25] * 10
    path = str(tmp_path / form)
    model.save_weights(path) if form.endswith("h5") else model.save(path)
    found = layers.find_pixels(tiny_effnet(weights=path))
    assert found.contract() == pixels.contract()
    fresh = layers.find_pixels(tiny_effnet(weights=path, classes=3))
    assert fresh.image_size != 160 and fresh.unknown_below is None  # another head, another task
    if form.endswith("h5"):
        other = tiny_effnet()
        other.load_weights(path)
        assert layers.find_pixels(other).image_size == 160


def test_weights_behind_layers_of_ones_own(tiny_effnet, images, tmp_path):
    """What stands before `input_tensor` is no business of the checkpoint's; names may differ."""
    model = tiny_effnet()
    model.save_weights(tmp_path / "w.weights.h5")
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Dense(3, kernel_initializer="identity")(inputs)
    built = tiny_effnet(input_tensor=x, weights=str(tmp_path / "w.weights.h5"), name="one")
    np.testing.assert_allclose(built(images), model(images), atol=1e-5)
    built.save_weights(tmp_path / "one.weights.h5")
    x = keras.layers.Rescaling(1.0)(keras.Input((64, 64, 3)))
    inner = tiny_effnet(input_tensor=x, weights=str(tmp_path / "w.weights.h5"), name="two")
    inner.save_weights(tmp_path / "two.weights.h5")
    again = tiny_effnet(weights=str(tmp_path / "two.weights.h5"))
    np.testing.assert_allclose(again(images), model(images), atol=1e-5)


def test_a_coatnet_backbone_takes_a_new_head(tiny_coatnet, tmp_path):
    """Its norm and hidden layer belong to the head, which a backbone lacks."""
    backbone = tiny_coatnet(include_top=False, input_shape=(64, 64, 3))
    backbone.save_weights(tmp_path / "b.weights.h5")
    model = tiny_coatnet(classes=3, weights=str(tmp_path / "b.weights.h5"), input_shape=(64, 64, 3))
    source = {layer.name: layer for layer in backbone.layers}
    for layer in model.layers:
        if layer.weights and layer.name in source:
            for one, other in zip(
                layer.get_weights(), source[layer.name].get_weights(), strict=True
            ):
                np.testing.assert_array_equal(one, other)
