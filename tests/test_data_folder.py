"""Folders: which picture is where, and what is said when it cannot be used."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from made_pictures import encoded, fill, hashes, noise, splits_of

from keras_effv2 import data
from keras_effv2.data import damage


def test_folder_splits_are_disjoint_complete_and_sized(tmp_path):
    loaded = data.load(f"folder:{fill(tmp_path / 'pets', count=20)}")
    assert loaded.class_names == ("cat", "dog")
    everything = [content for split in splits_of(loaded) for content in hashes(split)]
    assert len(everything) == len(set(everything)) == 40
    for split, count in zip(splits_of(loaded), (16, 2, 2), strict=True):
        assert np.bincount(split.labels).tolist() == [count, count]
        for name, label in zip(split.pictures, split.labels, strict=True):
            assert pathlib.Path(name).parent.name == loaded.class_names[label]


def test_folder_split_depends_on_the_pictures_alone(tmp_path):
    """Not on the path, the file names, or the order in which the file system lists them."""
    fill(tmp_path / "a")
    for name in ("cat", "dog"):
        (tmp_path / "b" / name).mkdir(parents=True)
        for file in sorted((tmp_path / "a" / name).iterdir(), reverse=True):
            shutil.copy(file, tmp_path / "b" / name / f"x{99 - int(file.stem)}.png")
    first, second = (data.load(str(tmp_path / name)) for name in "ab")
    for one, other in zip(splits_of(first), splits_of(second), strict=True):
        assert sorted(hashes(one)) == sorted(hashes(other))
    third = data.load(str(tmp_path / "a"), seed=1)
    assert set(hashes(first.train)) != set(hashes(third.train))


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_a_picture_stay_in_one_split(tmp_path, seed):
    fill(tmp_path, count=12)
    for file in list((tmp_path / "cat").iterdir()):
        shutil.copy(file, file.with_stem(file.stem + " (1)"))
        shutil.copy(file, tmp_path / "dog" / f"from cat {file.name}")
    loaded = data.load(str(tmp_path), seed=seed)
    contents = [set(hashes(split)) for split in splits_of(loaded)]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 24
    assert sum(map(len, splits_of(loaded))) == 48


@pytest.mark.parametrize(
    "names",
    (("train", "validation", "test"), ("training", "valid", "Test"), ("Train", "val", "testing")),
)
def test_given_splits_are_used(tmp_path, names):
    folders = dict(zip(names, (8, 3, 2), strict=True))
    for i, (name, count) in enumerate(folders.items()):
        fill(tmp_path / name, count=count, first=100 * i)
    loaded = data.load(str(tmp_path))
    for split, (name, count) in zip(splits_of(loaded), folders.items(), strict=True):
        assert len(split) == 2 * count
        assert {pathlib.Path(file).parents[1].name for file in split.pictures} == {name}


def test_a_lone_val_is_looked_at_once(tmp_path):
    fill(tmp_path / "train", count=20)
    fill(tmp_path / "val", count=3, first=100)
    loaded = data.load(str(tmp_path))
    assert [len(split) for split in splits_of(loaded)] == [36, 4, 6]
    assert {pathlib.Path(file).parents[1].name for file in loaded.test.pictures} == {"val"}
    assert not set(hashes(loaded.train)) & set(hashes(loaded.validation))


def test_of_a_lone_train_two_parts_are_held_out(tmp_path):
    """What chose the best weights is not what the result is reported on."""
    fill(tmp_path / "train", count=20)
    (tmp_path / "drafts").mkdir()
    loaded = data.load(str(tmp_path))
    assert [len(split) for split in splits_of(loaded)] == [32, 4, 4]
    assert len(set().union(*(hashes(split) for split in splits_of(loaded)))) == 40


def test_other_folders_beside_the_splits_are_named(tmp_path, caplog):
    fill(tmp_path / "train", count=6)
    fill(tmp_path / "extra", count=6, first=50)
    data.load(str(tmp_path))
    assert "left out 1 no splits with class folders ('extra')" in caplog.text


def test_a_picture_of_two_given_splits_is_named(tmp_path, caplog):
    fill(tmp_path / "train", count=4)
    fill(tmp_path / "val", count=2, first=100)
    shutil.copy(tmp_path / "train" / "cat" / "001.png", tmp_path / "val" / "cat" / "same.png")
    data.load(str(tmp_path))
    assert "same.png" in caplog.text and "001.png" in caplog.text


def test_very_many_pictures_are_split_alike_wherever_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(damage, "MANY", 5)
    here = fill(tmp_path / "here", count=20)
    shutil.copytree(here, tmp_path / "far" / "away")
    monkeypatch.chdir(tmp_path)
    for other in ("here", f"{here}/", str(tmp_path / "far" / "away")):
        pairs = zip(
            splits_of(data.load(f"folder:{here}")), splits_of(data.load(other)), strict=True
        )
        for one, same in pairs:
            assert list(map(os.path.basename, one.pictures)) == list(
                map(os.path.basename, same.pictures)
            )


def test_links_in_circles_lead_nowhere(tmp_path):
    fill(tmp_path / "photos", count=4)
    (tmp_path / "photos" / "cat" / "up").symlink_to("..")
    (tmp_path / "photos" / "dog" / "self").symlink_to(".")
    (tmp_path / "photos" / "all").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "pets").symlink_to(fill(tmp_path / "far", ("pet",), first=9) / "pet")
    loaded = data.load(str(tmp_path / "photos"))
    assert loaded.class_names == ("cat", "dog", "pets")
    counts = sum(np.bincount(split.labels, minlength=3) for split in splits_of(loaded))
    assert counts.tolist() == [4, 4, 10]


def test_links_to_nowhere_are_left_out(tmp_path):
    fill(tmp_path, count=4)
    (tmp_path / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    assert [pathlib.Path(name).name for name in data.load(str(tmp_path)).train.skipped] == [
        "gone.jpg"
    ]


def test_three_pictures_a_class_are_one_a_split(tmp_path):
    loaded = data.load(str(fill(tmp_path, count=3)))
    assert [len(split) for split in splits_of(loaded)] == [2, 2, 2]


ERRORS = {
    "unknown": ("mnist", ValueError, "'mnist'.*'digits', 'folder:PATH'.*'tfds:NAME'"),
    "missing folder": ("folder:{}/nowhere", FileNotFoundError, "nowhere. Check the path"),
    "archive": ("folder:{}/flat/LICENSE", NotADirectoryError, "is a file, not a folder. Unpack it"),
    "empty folder": ("{}/empty", ValueError, r"0 class folder\(s\) \(none\).*at least two"),
    "one class": ("{}/one", ValueError, r"1 class folder\(s\) \(cat\).*PATH/CLASS/picture.jpg"),
    "no pictures": (
        "{}/texts",
        ValueError,
        r"texts/a has 0 usable.*0 damaged.*1 no pictures by name or content",
    ),
    "one picture": ("{}/few", ValueError, r"few/cat has 1 usable.*at least 3"),
    "equal pictures": ("{}/equal", ValueError, "'cat' has too few different.*Add pictures"),
    "no train": ("{}/unnamed", ValueError, "folder 'Test', which looks like a split"),
    "two trains": ("{}/twice", ValueError, "two folders for one split, 'Train' and 'training'"),
    "flat splits": ("{}/flat", ValueError, "flat/train has no class folders.*train/CLASS/picture"),
    "other classes": ("{}/other", ValueError, r"missing \['dog'\], unexpected \['eel'\]"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_came_and_what_to_do(tmp_path, case):
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "one", ("cat",))
    fill(tmp_path / "few", count=1)
    for name in "ab":
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "notes.txt").write_text("-")
    for name in ("cat", "dog"):
        (tmp_path / "equal" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "equal" / name / f"{i}.png").write_bytes(encoded(noise(0)))
    fill(tmp_path / "unnamed" / "Test")
    fill(tmp_path / "twice" / "Train")
    fill(tmp_path / "twice" / "training")
    fill(tmp_path / "flat", ("train", "val"))
    (tmp_path / "flat" / "LICENSE").write_text("no class")
    fill(tmp_path / "other" / "train")
    fill(tmp_path / "other" / "val", ("cat", "eel"))
    spec, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        data.load(spec.format(tmp_path))


def test_a_class_may_be_called_train(tmp_path):
    """It holds pictures where a split holds folders."""
    fill(tmp_path, ("bus", "test", "train"))
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.class_names == ("bus", "test", "train")
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 30


def test_without_a_part_nothing_is_split_off(tmp_path):
    fill(tmp_path / "whole", count=2)
    whole = data.load(str(tmp_path / "whole"), validation=0)
    assert len(whole.train) == 4 and whole.validation is None and whole.test is None
    fill(tmp_path / "split" / "train", count=1)
    fill(tmp_path / "split" / "val", count=2, first=100)
    split = data.load(str(tmp_path / "split"), validation=0)
    assert len(split.train) == 2 and split.validation is None and len(split.test) == 4
    digits = data.load("digits", validation=0)
    assert len(digits.train) == 1797 and digits.validation is digits.test is None


def test_names_that_are_not_utf_8_are_left_out_and_told(tmp_path, caplog):
    """One of them does not lose the others."""
    fill(tmp_path, count=4)
    os.rename(tmp_path / "cat" / "000.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    assert sum(map(len, splits_of(data.load(str(tmp_path))))) == 7
    assert r"names that are not UTF-8 (convmv renames them) ('cat/caf\udce9.png')" in caplog.text
    os.rename(tmp_path / "dog", os.fsencode(tmp_path) + b"/d\xf6g")
    with pytest.raises(ValueError, match=r"not UTF-8. Rename it"):
        data.load(str(tmp_path))


def test_a_folder_unknown_holds_pictures_of_none_of_the_classes(tmp_path, caplog):
    """Beside classes and beside splits; it is no class, and few or damaged pictures are told."""
    fill(tmp_path / "flat")
    fill(tmp_path / "split" / "train")
    fill(tmp_path / "split" / "val", count=2, first=500)
    for root in ("flat", "split"):
        fill(tmp_path / root, ["unknown"], 3, first=7000)
        found = data.load(tmp_path / root)
        assert found.class_names == ("cat", "dog") and len(found.unknown) == 3
        _, targets, mask = next(iter(found.unknown.eval_batches(image_size=32, batch_size=3)))
        assert targets.shape == (3, 2) and not targets.numpy().any() and mask.numpy().all()
    pictures = sorted((tmp_path / "flat" / "unknown").iterdir())
    pictures[0].write_bytes(b"no picture")
    assert len(data.load(tmp_path / "flat").unknown) == 2
    with pytest.raises(ValueError, match="unknown/000.png is damaged"):
        data.load(tmp_path / "flat", strict=True)
    pictures[1].unlink()
    with pytest.raises(ValueError, match="has 1 usable picture.* or call a class by another name"):
        data.load(tmp_path / "flat")
