"""Sets that other libraries keep, out of caches made by hand: nothing here asks the network."""

import os
import shutil

import hub_server
import keras
import numpy as np
import pytest
from made_pictures import encoded, noise

from keras_effv2 import data
from keras_effv2.data import elsewhere
from keras_effv2.data.records import Records


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_keras_sets(name, monkeypatch):
    """As Keras gives them: labels (n, 1); its own test split, a part of train held out."""
    classes, rng = int(name.removeprefix("cifar")), np.random.default_rng(0)
    labels = (np.arange(4 * classes) % classes)[:, None]
    pictures = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype="uint8")
    module = getattr(keras.datasets, name)
    monkeypatch.setattr(
        module, "load_data", lambda: ((pictures, labels), (pictures[:9], labels[:9]))
    )
    found = data.load(f"keras:{name}")
    assert len(found.train) == 3 * classes and len(found.validation) == classes
    np.testing.assert_array_equal(found.test.labels, labels[:9, 0])
    assert data.load(f"keras:{name}", validation=0).validation is None

    def unplugged():
        raise OSError("no route to host")

    monkeypatch.setattr(module, "load_data", unplugged)
    with pytest.raises(OSError, match=f"keras:{name} could not be fetched: no route to host"):
        data.load(f"keras:{name}")


def test_names_of_cifar_are_in_the_order_of_labels(shared):
    """Both archives number their classes by the alphabet; the ten are those of real pictures."""
    assert list(elsewhere.KERAS["cifar10"]) == sorted(
        p.name for p in (shared / "cifar10/train").iterdir()
    )
    for name, names in elsewhere.KERAS.items():
        assert list(names) == sorted(set(names)) and len(names) == int(name.removeprefix("cifar"))


def test_other_sets_of_keras_have_no_pictures_of_classes():
    with pytest.raises(ValueError, match="no keras:mnist. Sets: keras:cifar10, keras:cifar100"):
        data.load("keras:mnist")


def folder_of(root, count=8):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(encoded(noise(i + 100 * (name == "dog"))))


def test_hugging_face(tmp_path, monkeypatch):
    """A folder, which `datasets` reads as it reads a set of the hub; pictures byte for byte."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder_of(tmp_path / "set" / "train")
    folder_of(tmp_path / "set" / "test", 2)
    found = data.load(f"hf:{tmp_path}/set", validation=0.25)
    assert found.class_names == ("cat", "dog") and not found.train.several
    assert [len(split) for split in (found.train, found.validation, found.test)] == [12, 4, 4]
    np.testing.assert_array_equal(found.test.class_counts(), [2, 2])
    images, targets, _ = next(iter(found.test.eval_batches(image_size=32, batch_size=4)))
    same = data.load(f"{tmp_path}/set", validation=0.25).test
    theirs, wanted, _ = next(iter(same.eval_batches(image_size=32, batch_size=4)))
    order = np.argsort(images.numpy().sum((1, 2, 3))), np.argsort(theirs.numpy().sum((1, 2, 3)))
    np.testing.assert_array_equal(images.numpy()[order[0]], theirs.numpy()[order[1]])
    np.testing.assert_array_equal(targets.numpy()[order[0]], wanted.numpy()[order[1]])
    with pytest.raises(OSError, match="hf:.*/none could not be loaded: "):
        data.load(f"hf:{tmp_path}/none")


def test_hugging_face_offline(tmp_path, monkeypatch):
    """The cache answers, the network is not asked, and the program around us is as it was."""
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import constants

    cache, environment = tmp_path / "cache", dict(os.environ)
    for switch in (datasets.config, constants):
        monkeypatch.setattr(switch, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    folder_of(tmp_path / "set" / "train")
    datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(cache))
    (made,) = (cache / "imagefolder").iterdir()
    (cache / "me___pets").mkdir()
    kept = shutil.move(made, cache / "me___pets" / "default")  # what the hub's me/pets is called
    (rows,) = kept.rglob("imagefolder-train.arrow")
    rows.rename(rows.with_name("pets-train.arrow"))
    with hub_server.served() as (hub, address):
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        with pytest.raises(OSError, match="could not be loaded"):
            data.load("hf:me/none")
        assert hub.asked, "without the variable it is asked"
        hub.asked.clear()
        monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
        found = data.load("hf:me/pets", validation=0.25)
        assert found.class_names == ("cat", "dog") and len(found.train) + len(found.test) > 8
        with pytest.raises(OSError, match="hf:me/none could not be loaded: "):
            data.load("hf:me/none")
        assert not hub.asked
    assert not datasets.config.HF_HUB_OFFLINE and not constants.HF_HUB_OFFLINE
    assert dict(os.environ) == environment | {"KERAS_EFFV2_OFFLINE": "1"}


def test_kaggle(tmp_path, monkeypatch):
    """The cache as kagglehub leaves it; one folder around the classes is looked through."""
    pytest.importorskip("kagglehub")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    pets = tmp_path / "datasets" / "me" / "pets"
    folder_of(pets / "versions" / "3" / "pets")
    with pytest.raises(
        OSError, match="kaggle:me/pets/versions/3 could not be fetched: KERAS_EFFV2_"
    ):
        data.load("kaggle:me/pets/versions/3")
    (pets / "3.complete").touch()
    found = data.load("kaggle:me/pets/versions/3")
    assert found.name == "kaggle:me/pets/versions/3" and found.class_names == ("cat", "dog")
    assert len(found.train) + len(found.validation) + len(found.test) == 16
    with pytest.raises(OSError, match="Name the version that is there"):
        data.load("kaggle:me/pets")


def test_bytes_and_paths_of_datasets(tmp_path):
    """Rows hold the bytes of a picture, or the path of its file."""
    datasets = pytest.importorskip("datasets")
    content = encoded(noise(1))
    (tmp_path / "a.png").write_bytes(content)
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": content, "path": None}, str(tmp_path / "a.png")], "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2)}),
    )
    found = elsewhere._Rows(rows, "image", "label", datasets)
    assert [found[i]["image"] for i in range(2)] == [content] * 2 and len(found) == 2


def test_hidden_labels_are_no_labels(tmp_path, monkeypatch):
    """Contests write -1 or nothing into their test splits: it is no class, least of all the last."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    feature = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )

    def rows(labels):
        pictures = [{"bytes": encoded(noise(i)), "path": None} for i in range(len(labels))]
        return datasets.Dataset.from_dict({"image": pictures, "label": labels}, feature)

    for hidden in ([-1] * 4, [None] * 4):
        splits = {"train": rows([0, 1, 2] * 4), "test": rows(hidden)}
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(splits))  # noqa: B023
        found = data.load("hf:me/contest", validation=0.25)
        assert len(found.test) == 3  # a part of the training pictures
        assert found.test.class_counts().sum() == 3
    splits["train"] = rows([0, 1, -1] * 4)
    with pytest.raises(ValueError, match="from 0 to 2. Received: label=-1, which may mean"):
        data.load("hf:me/contest", validation=0.25).train.class_counts()


def test_a_picture_without_any_of_several_labels():
    records = Records(("a", "b"), [{"i": encoded(noise(0)), "l": []}], "i", "l", several=True)
    np.testing.assert_array_equal(records.class_counts(), [0, 0])
    _, targets, _ = next(iter(records.eval_batches(image_size=32, batch_size=1)))
    np.testing.assert_array_equal(targets, [[0, 0]])
