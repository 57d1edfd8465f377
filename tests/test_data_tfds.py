"""Sets of TensorFlow Datasets."""

import numpy as np
import pytest
import tensorflow as tf

import keras_effv2 as kev
from keras_effv2 import data


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that writes a small TFDS set, with the builder and the file format asked for."""
    tfds = pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    pictures = rng.integers(0, 256, (40, 16, 16, 3), dtype="uint8")

    def make(file_format, several=False, train="train"):
        label = tfds.features.ClassLabel(names=["a", "b", "c"])
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.Sequence(label) if several else label,
            }
        )

        labels = [[i % 3, 2] if several else i % 3 for i in range(40)]
        splits = {train: slice(30), "test": slice(30, 40)}
        tfds.dataset_builders.store_as_tfds_dataset(
            name="tiny",
            version="1.0.0",
            features=features,
            split_datasets={
                key: tf.data.Dataset.from_tensor_slices(
                    {"image": pictures[part], "label": labels[part]}
                )
                for key, part in splits.items()
            },
            data_dir=str(tmp_path),
            file_format=file_format,
            disable_shuffling=True,
        )
        stored = tfds.builder_from_directory(tmp_path / "tiny" / "1.0.0")
        monkeypatch.setattr(tfds, "builder", lambda name, try_gcs: stored)
        return pictures

    return make


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tfds(file_format, prepared):
    """Every picture in one split, the same pixels, read by random access."""
    if file_format == "array_record":
        pytest.importorskip("array_record")
    pictures = prepared(file_format)
    loaded = data.load("tfds:tiny", validation=0.2)
    assert loaded.class_names == ("a", "b", "c")
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [24, 6, 10]
    seen = []
    for split in (loaded.train, loaded.validation, loaded.test):
        for images, targets, mask in split.eval_batches(image_size=16, batch_size=4):
            for image, target, real in zip(
                images.numpy(), targets.numpy(), mask.numpy(), strict=True
            ):
                which = np.flatnonzero((pictures == image).all((1, 2, 3)))
                if real:
                    assert target.argmax() == which[0] % 3 and target.sum() == 1
                    seen.append(int(which[0]))
    assert sorted(seen) == list(range(40))
    whole = list(loaded.train.train_batches(image_size=16, batch_size=4, epoch=1))
    rest = list(loaded.train.train_batches(image_size=16, batch_size=4, epoch=1, skip=4))
    for (images, _), (others, _) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(images, others)


def test_tfds_with_several_labels(prepared):
    prepared("tfrecord", several=True)
    loaded = data.load("tfds:tiny")
    _, targets, _ = next(iter(loaded.test.eval_batches(image_size=16, batch_size=10)))
    assert set(targets.numpy().sum(1)) == {1.0, 2.0} and (targets.numpy()[:, 2] == 1).all()


def test_tfds_without_pictures_to_train_on(prepared):
    """As imagenet_v2, which is for testing only."""
    prepared("tfrecord", train="unknown")
    loaded = data.load("tfds:tiny")
    assert loaded.train is loaded.validation is None and len(loaded.test) == 10
    for call in (
        lambda: kev.train(lambda: None, loaded, kev.recipes.get("digits"), "w"),
        lambda: kev.finetune("EfficientNetV2B0", loaded, "w"),
    ):
        with pytest.raises(ValueError, match="tfds:tiny has no split to train on, only one to"):
            call()


def test_tfds_of_something_else(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="words",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"text": ["a", "b"]})},
        data_dir=str(tmp_path),
    )
    stored = tfds.builder_from_directory(tmp_path / "words" / "1.0.0")
    monkeypatch.setattr(tfds, "builder", lambda name, try_gcs: stored)
    with pytest.raises(ValueError, match="tfds:words is not an image classification set.*text"):
        data.load("tfds:words")


def test_tfds_in_another_format(prepared, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    prepared("tfrecord")
    other = tfds.core.FileFormat.RIEGELI
    monkeypatch.setattr(tfds.core.DatasetInfo, "file_format", other)
    with pytest.raises(ValueError, match="stored as riegeli.*tfds convert_format.*array_record"):
        data.load("tfds:tiny")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("cifar10", FileNotFoundError, "tfds:cifar10 is not prepared in .*download_and_prepare"),
        ("cars196", FileNotFoundError, "official download is gone.*cars:PATH"),
        ("cifar11", ValueError, "TFDS has no data set 'cifar11'"),
    ],
)
def test_tfds_that_cannot_be_used(name, error, message, tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder
    monkeypatch.setattr(
        tfds, "builder", lambda name, try_gcs: builder(name, try_gcs=False, data_dir=tmp_path)
    )
    with pytest.raises(error, match=message):
        data.load(f"tfds:{name}")
