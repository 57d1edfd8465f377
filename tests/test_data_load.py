"""Data sets: which picture is in which split, and what is said when it cannot be used."""

import collections
import sys

import numpy as np
import pytest
from made_pictures import encoded, fill, noise, numbered, splits_of
from sklearn.datasets import load_digits

from keras_effv2 import data


@pytest.mark.parametrize("validation", (0.1, 0.25))
def test_digits_are_scikit_learns_each_in_one_split(validation):
    digits = data.load("digits", validation=validation)
    source = load_digits()
    assert digits.class_names == tuple("0123456789")
    ours = collections.Counter()
    for split in splits_of(digits):
        for picture, label in zip(split.pictures, split.labels, strict=True):
            assert (picture == picture[..., :1]).all()
            ours[(np.rint(picture[..., 0] / 255 * 16).astype(int).tobytes(), int(label))] += 1
    wanted = zip(source.images, source.target, strict=True)
    assert ours == collections.Counter((i.astype(int).tobytes(), int(label)) for i, label in wanted)
    for split in (digits.validation, digits.test):
        assert len(split) == pytest.approx(validation * 1797, abs=5)  # rounded in each class
        assert set(split.labels) == set(range(10))


def test_another_seed_is_another_split():
    first, same, other = (data.load("digits", seed=seed).test for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.pictures, same.pictures)
    assert not np.array_equal(first.pictures, other.pictures)


@pytest.mark.parametrize("part", (0.5, -1))
def test_validation_is_a_part(part):
    with pytest.raises(ValueError, match=rf"`validation` is in \[0, 0.5\).*{part}"):
        data.load("digits", validation=part)


def test_tfds_that_is_not_installed_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"tfds:cifar10 .*pip install 'keras_effv2\[data\]'"):
        data.load("tfds:cifar10")


def test_the_typical_side_is_the_median_of_the_shorter_sides(tmp_path):
    assert numbered(5, side=7).typical_side() == 7
    root = fill(tmp_path / "photos", count=9)  # 12 x 16
    for i in range(2):
        (root / "cat" / f"huge{i}.png").write_bytes(encoded(noise(i, 40, 30)))
    assert data.load(f"folder:{root}").train.typical_side() == 12
