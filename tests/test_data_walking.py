"""What of a folder is a picture: what systems make there, links, names, pipes."""

import os
import pathlib
import shutil
import unicodedata

import pytest
from made_pictures import encoded, fill, noise, splits_of
from PIL import Image

from keras_effv2 import data
from keras_effv2.data import walking
from keras_effv2.data.split import of_names


def names_of(files, root):
    return sorted(str(pathlib.Path(file).relative_to(root)) for file in files)


@pytest.mark.parametrize("name", sorted(walking.SYSTEM | {"@eaDir", "__MACOSX", ".git", "$Extend"}))
def test_what_systems_make_is_no_class_and_holds_no_pictures(tmp_path, name, caplog):
    fill(tmp_path, count=4)
    (tmp_path / name).mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "cat", tmp_path / "dog" / name / "below")
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.class_names == ("cat", "dog")
    assert sum(map(len, splits_of(loaded))) == 8
    assert f"left out 2 hidden or of the system ({name!a}, ...)" in caplog.text


def test_pictures_are_known_by_name_or_content(tmp_path, caplog):
    fill(tmp_path, ("cat",), count=1)
    picture = Image.fromarray(noise(5))
    for name, kind in (
        *(("a.jfif", "JPEG"), ("b.JPE", "JPEG"), ("c.tif", "TIFF"), ("d", "PNG"), ("e", "TIFF")),
        *(("f.picture", "JPEG"), ("g.jp2", "JPEG2000"), ("h.ppm", "PPM")),
    ):
        picture.save(tmp_path / "cat" / name, kind)
    picture.save(tmp_path / "cat" / "raw.nef", "TIFF")  # raw photos hold small previews
    (tmp_path / "cat" / "notes").write_text("not a picture")
    (tmp_path / "cat" / "table.csv").write_text("a,b")
    (tmp_path / "cat" / "._000.png").write_bytes(b"\0\5\26\7")
    found = names_of(data.find_pictures(tmp_path / "cat"), tmp_path / "cat")
    assert found == [
        *("000.png", "a.jfif", "b.JPE", "c.tif", "d", "e", "f.picture", "g.jp2", "h.ppm"),
    ]
    assert "3 no pictures by name or content" in caplog.text
    assert "1 hidden or of the system ('._000.png')" in caplog.text


def test_linked_folders_are_followed_unless_they_lead_elsewhere(tmp_path, caplog):
    root, store = fill(tmp_path / "photos", count=4), fill(tmp_path / "store", ("more",), first=50)
    (root / "cat" / "more").symlink_to(store / "more")
    (root / "cat" / "dogs").symlink_to(root / "dog")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "again").symlink_to(root / "dog")
    (root / "dog" / "round").symlink_to("round")
    (store / "more" / "back").symlink_to(store)
    (root / "katze").symlink_to(root / "cat")
    loaded = data.load(str(root))
    assert loaded.class_names == ("cat", "dog")
    counts = [sum((split.labels == i).sum() for split in splits_of(loaded)) for i in range(2)]
    assert counts == [14, 4]
    assert "left out 5 links that lead back or elsewhere" in caplog.text


def test_links_into_another_split_are_not_followed(tmp_path):
    fill(tmp_path / "train", count=4)
    fill(tmp_path / "val", count=2, first=50)
    (tmp_path / "train" / "cat" / "more").symlink_to(tmp_path / "val" / "cat")
    loaded = data.load(str(tmp_path), validation=0)
    assert (len(loaded.train), len(loaded.test)) == (8, 4)


def test_pipes_are_not_opened(tmp_path, caplog):
    """To open one waits for a writer, for ever."""
    fill(tmp_path, count=4)
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    (tmp_path / "dog" / "linked.jpg").symlink_to(tmp_path / "cat" / "pipe.jpg")
    (tmp_path / "dog" / "null.png").symlink_to("/dev/null")
    assert sum(map(len, splits_of(data.load(str(tmp_path))))) == 8
    assert "3 pipes or devices ('cat/pipe.jpg', ...)" in caplog.text


def test_many_files_without_pictures_are_one_line(tmp_path, caplog):
    fill(tmp_path, count=4)
    for i in range(300):
        (tmp_path / "cat" / f"{i}.txt").write_text("-")
    data.load(str(tmp_path))
    assert len([r for r in caplog.records if "left out" in r.getMessage()]) == 1


def test_copies_in_two_splits_are_one_line(tmp_path, caplog):
    fill(tmp_path / "train", count=40)
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    data.load(str(tmp_path))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and lines[0].startswith("80 pictures are in two splits, such as")


def test_a_class_that_looks_like_a_split(tmp_path):
    """A folder of folders beside a folder of pictures may be either."""
    fill(tmp_path, ("bus", "car"), count=4)
    fill(tmp_path / "train", ("steam", "diesel"), count=4, first=50)
    with pytest.raises(
        ValueError, match="'train' of folders, as a split, beside .*'bus'.*give .*/train"
    ):
        data.load(str(tmp_path))
    assert data.load(str(tmp_path / "train")).class_names == ("diesel", "steam")


def test_class_names_are_compared_as_they_read(tmp_path):
    """Macs write accents apart from their letters, others do not."""
    for form, split, count in (("NFC", "train", 3), ("NFD", "val", 2)):
        names = [unicodedata.normalize(form, name) for name in ("café", "dog")]
        fill(tmp_path / split, names, count=count, first=100 * count)
    loaded = data.load(str(tmp_path), validation=0)
    assert loaded.class_names == ("caf\xe9", "dog")
    assert (len(loaded.train), len(loaded.test)) == (6, 4)
    fill(tmp_path / "both", ["caf\xe9", "cafe\u0301"], count=3)
    with pytest.raises(ValueError, match=r"written 'cafe?.*xe9' and|written 'cafe\\u0301' and"):
        data.load(str(tmp_path / "both"))


def test_names_that_differ_in_case(tmp_path, caplog):
    fill(tmp_path / "letters", ("a", "A"), count=4)
    assert data.load(str(tmp_path / "letters")).class_names == ("A", "a")
    assert "classes 'A' and 'a' differ only in case" in caplog.text
    fill(tmp_path / "train", ("Cat", "dog"), count=4)
    fill(tmp_path / "val", ("cat", "dog"), count=4)
    shutil.rmtree(tmp_path / "letters")
    with pytest.raises(
        ValueError, match=r"missing \['Cat'\].*'cat' differs only in case or spaces"
    ):
        data.load(str(tmp_path))


def test_the_home_folder_has_a_short_name(tmp_path, monkeypatch):
    fill(tmp_path / "photos", count=4)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PETS", str(tmp_path / "photos"))
    for spec in ("folder:~/photos", "~/photos", "folder:$PETS", "$HOME/photos/"):
        assert data.load(spec).name == f"folder:{tmp_path}/photos"
    monkeypatch.chdir(tmp_path)
    same = ("folder:photos", "photos/", "folder:~/photos", f"folder:{tmp_path}/photos/../photos")
    assert len({data.resolved(spec) for spec in same}) == 1
    assert data.resolved("digits") == "digits" and data.resolved("tfds:mnist") == "tfds:mnist"


def test_a_replaced_picture_is_noticed(tmp_path):
    """By its content."""
    split = data.load(str(fill(tmp_path, count=4)), validation=0).train
    before = split.fingerprint()
    assert data.load(str(tmp_path), validation=0).train.fingerprint() == before
    assert data.Split(split.class_names, split.labels, split.pictures).fingerprint() == before
    pathlib.Path(split.pictures[0]).write_bytes(encoded(noise(77)))
    changed = data.load(str(tmp_path), validation=0).train.fingerprint()
    assert changed != before and of_names(changed) == of_names(before)
