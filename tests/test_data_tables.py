"""Tables of one's own: right, or refused when they are given."""

import os
import pathlib

import numpy as np
import pytest
from made_pictures import encoded, noise

from keras_effv2 import data

NAMES = ("a", "b", "c")
LABELS = [0, 1, 2] * 2
PIXELS = np.stack([noise(i, 8, 8) for i in range(6)])


@pytest.fixture
def paths(tmp_path):
    for i, pixels in enumerate(PIXELS):
        (tmp_path / f"{i}.png").write_bytes(encoded(pixels))
    return [str(tmp_path / f"{i}.png") for i in range(6)]


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda paths: np.array(paths, object),
        lambda paths: np.array(paths, "S"),
        lambda paths: [pathlib.Path(path) for path in paths],
        lambda paths: np.array([pathlib.Path(path) for path in paths]),
        lambda paths: [np.str_(path) for path in paths],
        lambda paths: (path for path in paths),
    ],
)
@pytest.mark.parametrize("labels", [LABELS, np.array(LABELS, "uint8"), np.array(LABELS, "float32")])
def test_paths_and_labels_of_every_kind(paths, kind, labels):
    split = data.Split(NAMES, labels, kind(paths))
    ((images, targets, _),) = split.eval_batches(image_size=8, batch_size=6)
    np.testing.assert_array_equal(images, PIXELS)
    np.testing.assert_array_equal(targets, np.eye(3)[LABELS])


def test_a_column_of_pandas(paths):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"file": paths, "label": LABELS}).iloc[::-1]
    split = data.Split(NAMES, table["label"], table["file"])
    assert split.pictures == paths[::-1] and split.labels.tolist() == LABELS[::-1]


def test_the_home_folder_in_a_table(tmp_path, paths, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    split = data.Split(NAMES, LABELS, [f"~/{i}.png" for i in range(6)])
    assert split.pictures == paths


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [1, 2, 3] * 2,
            r"integers in 0 \.\. 2, for 3 classes. Received 3 \(picture 2\), and 2 such",
        ),
        ([-1] * 6, r"Received -1 \(picture 0\), and 6 such"),
        ([0.7, 1, 2] * 2, r"Received 0.7 \(picture 0\)"),
        ([0, 1, np.nan] * 2, r"Received nan \(picture 2\)"),
        (np.eye(3)[LABELS], r"one-hot labels have: give labels.argmax\(1\)"),
        (np.zeros((6, 2, 2)), r"\(n,\). Received shape \(6, 2, 2\)"),
        (["a", "b", "c"] * 2, "Received <U1, such as .*position of each name in `class_names`"),
        ([True, False, True] * 2, "Received bool"),
        ([None] * 6, r"Received nan \(picture 0\)"),
        (LABELS[:5], "There are 5 labels for 6 pictures"),
    ],
)
def test_labels_that_are_refused(paths, labels, message):
    for pictures in (paths, PIXELS):
        with pytest.raises(ValueError, match=message):
            data.Split(NAMES, labels, pictures)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (PIXELS[..., 0], r"Received: uint8 \(6, 8, 8\).*repeat the channel of grey"),
        (PIXELS[..., :1], r"Received: uint8 \(6, 8, 8, 1\)"),
        (PIXELS / 255, r"Received: float64 \(6, 8, 8, 3\).*Scale pixels in 0..1 by 255"),
        (PIXELS.astype("float32"), "Received: float32"),
        (list(PIXELS), "Received a list with ndarray at position 0"),
        (["a.png"] * 5 + [None], "Received a list with NoneType at position 5"),
        ("a.png", "one file name a picture. Received one: 'a.png'"),
    ],
)
def test_pictures_that_are_refused(pictures, message):
    with pytest.raises(ValueError, match=message):
        data.Split(NAMES, LABELS, pictures)


def test_a_pipe_is_refused_when_it_is_given(paths, tmp_path):
    """Who reads it waits for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="pipe.png is a pipe or a device, not a file"):
        data.Split(NAMES, LABELS, [*paths[:5], tmp_path / "pipe.png"])
