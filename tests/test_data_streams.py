"""Progressive learning on somebody's `tf.data.Dataset`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_pictures import encoded, fill

from keras_effv2 import data
from keras_effv2.augment import Augment
from keras_effv2.data import streams
from keras_effv2.phases import ramp
from keras_effv2.progressive import ProgressiveLearning

COUNT, SIDE = 24, 8
VALUES = np.arange(COUNT, dtype="uint8") * 10
PIXELS = np.broadcast_to(VALUES[:, None, None, None], (COUNT, SIDE, SIDE, 3)).copy()
LABELS = np.arange(COUNT) % 3
STILL = Augment(flip=False, crop_area=(1.0, 1.0))


def dataset(pixels=PIXELS, labels=LABELS):
    return tf.data.Dataset.from_tensor_slices((pixels, labels))


def without_shapes(image, label):
    return tf.py_function(lambda *pair: pair, [image, label], [tf.uint8, tf.int64])


AS_THEY_COME = {
    "single": dataset(),
    "in batches": dataset().batch(5),
    "one-hot": dataset(labels=np.eye(3, dtype="float32")[LABELS]).batch(7),
    "float": dataset(PIXELS.astype("float32")),
    "columns": dataset(labels=LABELS[:, None].astype("float32")).batch(4),
    "dictionaries": dataset().map(lambda image, label: {"image": image, "label": label, "id": 0}),
    "shapes unknown": dataset().map(without_shapes),
    "sizes differ": dataset().map(lambda x, y: (tf.tile(x, [1, 1 + tf.cast(y, tf.int32), 1]), y)),
    "count unknown": dataset().filter(lambda image, label: True),
    "int32": dataset(PIXELS.astype("int32"), LABELS.astype("int32")),
}


@pytest.mark.parametrize("name", AS_THEY_COME)
def test_datasets_as_they_come(name):
    """Every picture once, with its label."""
    stream = streams.labelled(AS_THEY_COME[name])
    assert stream.steps(4) == 6 and len(stream.class_names) == 3
    seen = []
    for images, targets in stream.train_batches(image_size=16, batch_size=4, augment=STILL):
        assert images.dtype == tf.uint8 and images.shape == (4, 16, 16, 3)
        values = images.numpy()[:, 0, 0, 0]
        np.testing.assert_array_equal(targets, np.eye(3)[values // 10 % 3])
        seen += values.tolist()
    assert sorted(seen) == VALUES.tolist()


def test_changes_depend_on_seed_and_epoch_alone():
    stream = streams.labelled(dataset())
    settings = {"image_size": 12, "batch_size": 8, "augment": Augment(randaugment=9, mixup=0.3)}
    first, same, other = (
        next(iter(stream.train_batches(seed=3, epoch=epoch, **settings)))[0] for epoch in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_endless_ones_need_steps():
    endless = dataset().repeat()
    for arguments in ({}, {"classes": 3}, {"steps": 5}):
        with pytest.raises(ValueError, match="never ends: give `steps`.*and `classes`"):
            streams.labelled(endless, **arguments)
    stream = streams.labelled(endless, steps=20, classes=3)
    assert len(list(stream.train_batches(image_size=8, batch_size=4))) == stream.steps(4) == 20


def test_what_keras_reads_from_a_folder(tmp_path):
    fill(tmp_path, count=8)
    found = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=(12, 12), batch_size=3, label_mode="int", verbose=False
    )
    stream = streams.labelled(found)
    assert stream.class_names == ("cat", "dog") and stream.count == 16


REFUSED = {
    "pixels in 0..1": (dataset(PIXELS / np.float32(255)), "pixels 0..255.*have 0 to 0.9"),
    "normalised": (dataset(PIXELS / np.float32(128) - 1), "pixels 0..255.*have -1 to"),
    "grey": (dataset(PIXELS[..., :1]), r"\(height, width, 3\).*uint8 \(8, 8, 1\)"),
    "bytes": (dataset(np.array([encoded(x) for x in PIXELS])), r"Received: string \(\)"),
    "negative labels": (dataset(labels=LABELS - 1), "integers from 0 on.*-1 to 1"),
    "fractions": (dataset(labels=LABELS + 0.5), "0.5 to 2.5, some of them fractions"),
    "three parts": (dataset().map(lambda x, y: (x, y, 1.0)), r"gives \(image, label\)"),
    "images alone": (dataset().map(lambda x, y: x), r"gives \(image, label\)"),
    "names": (dataset(labels=np.array(["cat"] * COUNT)), "one integer a picture.*string"),
    "nothing": (dataset().take(0), "is empty"),
    "a model": (keras.Sequential(), r"\(images, labels\), or a tf.data.Dataset.*Sequential"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_when_it_is_given(name):
    given, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ProgressiveLearning(ramp(2, 2, image_size=(8, 16))).dataset(given, 4)


def test_a_label_of_no_class_ends_the_training():
    stream = streams.labelled(dataset(), steps=6, classes=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"no integer in 0 \.\. 1"):
        list(stream.train_batches(image_size=8, batch_size=4))


def test_arrays_are_checked_as_tables_are():
    pl = ProgressiveLearning(ramp(2, 2, image_size=(8, 16)))
    for labels, message in (
        (LABELS - 1, "Received -1"),
        (LABELS + 0.5, "Received 0.5"),
        (np.eye(3)[LABELS], "one integer a picture"),
        (["cat"] * COUNT, "position of each name"),
        (LABELS[:-1], "23 labels for 24 pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            pl.dataset((PIXELS, labels), 4)
    _, targets = next(iter(pl.dataset((PIXELS, LABELS[:, None]), 4)))
    assert targets.shape == (4, 3)


def test_fit_goes_through_the_phases():
    model = keras.Sequential(
        [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    )
    model.compile("sgd", "categorical_crossentropy")
    pl = ProgressiveLearning(ramp(2, 2, image_size=(8, 16), randaugment=(0, 5)))
    batches = pl.dataset(dataset().shuffle(COUNT).batch(6), batch_size=4)
    model.fit(batches, epochs=pl.epochs, callbacks=[pl], shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 12
    assert isinstance(streams.labelled(data.Split([*"abc"], LABELS, PIXELS)), data.Split)
