"""Saved models that do not open, by their causes."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_effv2 import model_files


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "x.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(path)
    return path


def rewrite(path, member, change):
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[member] = json.dumps(change(json.loads(content[member]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def unknown_argument(config):
    config["config"]["layers"][1]["config"]["sharpness"] = 2
    return config


def test_a_file_of_a_newer_keras_says_so(saved):
    rewrite(saved, "metadata.json", lambda data: {**data, "keras_version": "99.1.0"})
    assert np.shape(model_files.load_keras(saved)(np.ones((1, 4)))) == (1, 3)  # it may well work
    rewrite(saved, "config.json", unknown_argument)
    here = keras.__version__
    with pytest.raises(ValueError, match=f"Keras 99.1.0 wrote it, and Keras here is {here}: pip"):
        model_files.load_keras(saved)


def test_the_cause_is_named_and_nothing_else(saved):
    rewrite(saved, "config.json", unknown_argument)
    with pytest.raises(ValueError, match="x.keras cannot be loaded: .*sharpness") as caught:
        model_files.load_keras(saved)
    assert "wrote it" not in str(caught.value) and "\n" not in str(caught.value)

    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input((4,)), Own()]).save(saved)
    with pytest.raises(ValueError, match="Could not locate class 'Own'") as caught:
        model_files.load_keras(saved)
    assert len(str(caught.value)) < 500


def test_files_that_are_none(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model file .*nowhere.keras"):
        model_files.load_keras(tmp_path / "nowhere.keras")
    saved.write_bytes(saved.read_bytes()[:300])
    with pytest.raises(ValueError, match="no whole .keras file. It may be cut off"):
        model_files.load_keras(saved)
    with pytest.raises(ValueError, match="A model file is .* Received: s3://x/m.keras"):
        model_files.load_keras("s3://x/m.keras")
    with pytest.raises(FileNotFoundError, match="There is no model file ram://x/m.keras"):
        model_files.load_keras("ram://x/m.keras")
    for name in ("x.txt", "x.KERAS", "x.tar.gz", "x"):
        (tmp_path / name).write_bytes(saved.read_bytes())
        with pytest.raises(
            ValueError, match=f"{name} is no model by its name: models end in .keras"
        ):
            model_files.load_keras(tmp_path / name)
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(FileNotFoundError, match="folder.keras holds no model: no saved_model.pb"):
        model_files.load_model(tmp_path / "folder.keras")


def test_hdf5_files_that_are_none(tmp_path):
    """Cut off, of something else, of weights alone, of a Keras that is gone."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.save(tmp_path / "x.h5")
    content = (tmp_path / "x.h5").read_bytes()
    for left in (content[:-100], content[:100], b"", b"no HDF5"):
        (tmp_path / "cut.h5").write_bytes(left)
        with pytest.raises(
            ValueError, match="cut.h5 is no whole HDF5 file. It may be cut off: get"
        ):
            model_files.load_keras(tmp_path / "cut.h5")
    model.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(
        ValueError, match="alone, no network: .* --model=NAME --weights=.*weights.h5"
    ):
        model_files.load_keras(tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = file.attrs["model_config"].replace("Dense", "Denser")
    with pytest.raises(ValueError, match=r"Keras 2.15.0 \(tf_keras\) wrote it, .*'Denser'"):
        model_files.load_keras(tmp_path / "x.h5")
