"""Damaged pictures are found, named and left out."""

import io
import pathlib

import numpy as np
import pytest
from made_pictures import encoded, fill, noise, splits_of
from PIL import Image, ImageOps

from keras_effv2 import data, photos
from keras_effv2.data import damage
from keras_effv2.data.inspection import Inspection


def damaged(tmp_path):
    """A folder with a JPEG cut in half, a text that calls itself JPEG and an empty PNG."""
    fill(tmp_path, count=6)
    whole = encoded(noise(7, 64, 64), "JPEG")
    (tmp_path / "cat" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / "text.jpeg").write_text("<html>not found</html>")
    (tmp_path / "dog" / "empty.png").write_bytes(b"")
    (tmp_path / "dog" / "notes.txt").write_text("not counted as damaged")
    return tmp_path


def test_damaged_pictures_are_skipped_counted_and_named(tmp_path, caplog):
    loaded = data.load(str(damaged(tmp_path)))
    assert sum(map(len, splits_of(loaded))) == 12
    skipped = sorted(pathlib.Path(name).name for name in loaded.train.skipped)
    assert skipped == ["empty.png", "half.jpg", "text.jpeg"]
    assert "3 damaged, unreadable or too large pictures" in caplog.text
    assert "half.jpg" in caplog.text
    assert "1 no pictures by name or content ('dog/notes.txt')" in caplog.text
    batches = loaded.train.train_batches(image_size=8, batch_size=2)
    assert sum(len(images) for images, _ in batches) == len(loaded.train) // 2 * 2


def test_of_very_many_pictures_damage_is_found_while_reading(tmp_path, monkeypatch, caplog):
    """Nothing is read at the start; the next whole picture of a split stands in, with its label."""
    caplog.set_level("INFO", logger="absl")
    root = damaged(tmp_path / "photos")
    whole = data.load(str(root), validation=0).train
    monkeypatch.setattr(damage, "MANY", 5)
    opened, read = [], damage.read
    monkeypatch.setattr(damage, "read", lambda file: opened.append(file) or read(file))
    loaded = data.load(str(root), validation=0).train
    assert (len(loaded), loaded.skipped, opened) == (15, (), [])
    assert "15 pictures are not read beforehand" in caplog.text
    settings = {"image_size": 16, "batch_size": 1}
    for split in (loaded, loaded.select(range(15))):
        found = [(image[0].numpy(), label) for image, label, _ in split.eval_batches(**settings)]
        names = [pathlib.Path(file).name for file in split.skipped]
        assert sorted(names) == ["empty.png", "half.jpg", "text.jpeg"]
    expected = {
        file: (image[0].numpy(), label)
        for file, (image, label, _) in zip(
            whole.pictures, whole.eval_batches(**settings), strict=True
        )
    }
    files = loaded.pictures
    for i, (image, label) in enumerate(found):
        file = next(file for file in files[i:] + files if file in expected)
        np.testing.assert_array_equal(image, expected[file][0])
        np.testing.assert_array_equal(label, expected[file][1])
    assert caplog.text.count("half.jpg is damaged; the next stands in for it") == 2
    assert set(opened) == set(files)


def test_a_file_that_vanishes_is_damage_too(tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "MANY", 5)
    fill(tmp_path, count=6)
    train = data.load(str(tmp_path), validation=0).train
    pathlib.Path(train.pictures[3]).unlink()
    batches = train.train_batches(image_size=8, batch_size=4)
    assert [len(images) for images, _ in batches] == [4, 4, 4]
    assert train.skipped == (train.pictures[3],)


def test_what_was_whole_and_vanished_is_damaged():
    contents = [encoded(noise(i), "PNG") for i in range(3)]
    inspection = Inspection(3, "picture {}".format)

    def first(position):
        return inspection.first_whole(np.arange(3), position, lambda i: (i, contents[i]))

    assert (first(0), first(2)) == (0, 2)
    contents[2] = None
    assert first(2) == 0 and inspection.damaged_of([0, 2]) == ("picture 2",)
    contents[0] = contents[1] = b""
    with pytest.raises(ValueError, match="3 pictures in a row are damaged, the last is picture 0"):
        first(1)


def test_strict_reads_very_many_pictures_too(tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "MANY", 5)
    with pytest.raises(ValueError, match=r"half\.jpg is damaged.*Remove it"):
        data.load(str(damaged(tmp_path)), strict=True)


def test_strict_fails_on_the_first_damaged_picture(tmp_path):
    with pytest.raises(ValueError, match=r"half\.jpg is damaged.*Remove it"):
        data.load(str(damaged(tmp_path)), strict=True)


def test_exif_that_cannot_be_read_is_no_damage(tmp_path):
    """The picture is whole; what cannot be read of its rotation is left out."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    exif[0x011A] = 72.0
    content = bytearray(encoded(noise(1, 24, 32), "JPEG", exif=exif))
    at = content.index(b"Exif\x00\x00") + 6
    assert content[at : at + 2] in (b"II", b"MM")
    big = content[at : at + 2] == b"MM"
    tag = (0x011A).to_bytes(2, "big" if big else "little")
    entry = content.index(tag, at)
    content[entry + 2 : entry + 4] = (2).to_bytes(2, "big" if big else "little")
    with pytest.raises(TypeError), Image.open(io.BytesIO(content)) as image:  # Pillow's own
        ImageOps.exif_transpose(image)
    (tmp_path / "odd.jpg").write_bytes(content)
    assert photos.read_image(tmp_path / "odd.jpg").size == 24 * 32 * 3
    assert damage.hash_picture(str(tmp_path / "odd.jpg"))
