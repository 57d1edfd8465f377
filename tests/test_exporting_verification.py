"""Exports that fail leave nothing; what computes something else is refused."""

import errno
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import tiny_efficientnet_row
from exported import LABELS, pictures, small

import keras_effv2 as kev
from keras_effv2.exporting import formats, reusable
from keras_effv2.models import efficientnet_v2


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
        ("reusable.write_card", interrupt, KeyboardInterrupt),
        ("os.replace", no_room, OSError),
    ],
)
def test_a_broken_export_leaves_nothing(name, place, function, error, tmp_path, monkeypatch):
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    owner, attribute = place.rsplit(".", 1)
    owner = {"tf.saved_model": tf.saved_model, "reusable": reusable, "os": os}[owner]
    monkeypatch.setattr(owner, attribute, function)
    with pytest.raises(error):
        kev.export_hub(small(), tmp_path / name, labels=LABELS)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_check_needs_no_room_but_that_of_the_export(tmp_path, monkeypatch):
    """A full folder for temporary files ends none."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    monkeypatch.chdir(tmp_path)
    kev.export_hub(small(), "hub")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_an_export_that_computes_something_else_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", save_something_else)
    with pytest.raises(RuntimeError, match="outputs differ"):
        kev.export_hub(small(), tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []


def test_a_lean_export_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    model, images = small(), pictures(4, 32, 32)
    for wrong in (10 * model.get_weights()[-1][::-1], np.full(10, np.nan)):
        other = keras.models.clone_model(model)
        other.set_weights([*model.get_weights()[:-1], wrong])
        monkeypatch.setattr(formats, "fold", lambda net, other=other: other)
        with pytest.raises(RuntimeError, match="differ.*it was not written.*fold_batch_norm=False"):
            kev.export(model, tmp_path / "lean", images=images)
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
        with pytest.raises(ValueError, match=r"array \(n, height, width, 3\).*Received: float64"):
            kev.export(model, here, images=np.zeros(shape))
    assert list(tmp_path.iterdir()) == []
    here.write_text("mine")
    for export in (kev.export_hub, kev.export):
        with pytest.raises(FileExistsError, match="choose another path"):
            export(model, here)
    assert here.read_text() == "mine"
