"""Data sets: which picture is where, in which order, and what is said when it cannot be used."""

import collections
import hashlib
import io
import os
import pathlib
import shutil
import struct
import sys
import tarfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from scipy.io import savemat
from sklearn.datasets import load_digits

import keras_effv2 as kev
from keras_effv2 import data, imagenet, progressive
from keras_effv2.augment import Augment

STILL = Augment(flip=False, crop_area=(1.0, 1.0))


def numbered(count, classes=3, side=4):
    """A split whose i-th picture has the value i everywhere."""
    pictures = np.arange(count, dtype="uint8")[:, None, None, None]
    labels = np.arange(count) % classes
    return data.Split("abc"[:classes], labels, np.tile(pictures, (1, side, side, 3)))


def numbers(batches):
    """The numbers of the pictures of every batch."""
    return [batch[0].numpy()[:, 0, 0, 0].astype(int).tolist() for batch in batches]


def encoded(pixels, kind="PNG", **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    return file.getvalue()


def noise(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype("uint8")


def fill(root, classes=("cat", "dog"), count=10, first=0):
    """Writes `count` different pictures a class."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03}.png").write_bytes(encoded(noise(first + 1000 * label + i)))
    return root


def hashes(split):
    return [hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest() for name in split.pictures]


def splits_of(loaded):
    return [split for split in (loaded.train, loaded.validation, loaded.test) if split]


# --------------------------------------------------------------------------------------- digits


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


# --------------------------------------------------------------------------------------- folder


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
    assert "extra are no splits with class folders and are ignored" in caplog.text


def test_a_picture_of_two_given_splits_is_named(tmp_path, caplog):
    fill(tmp_path / "train", count=4)
    fill(tmp_path / "val", count=2, first=100)
    shutil.copy(tmp_path / "train" / "cat" / "001.png", tmp_path / "val" / "cat" / "same.png")
    data.load(str(tmp_path))
    assert "same.png" in caplog.text and "001.png" in caplog.text


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
    assert "half.jpg" in caplog.text and "1 files in" in caplog.text
    batches = loaded.train.train_batches(image_size=8, batch_size=2)
    assert sum(len(images) for images, _ in batches) == len(loaded.train) // 2 * 2


def test_of_very_many_pictures_the_damaged_are_remembered(tmp_path, monkeypatch):
    """They are read again when a file has changed."""
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data, "MANY", 5)
    root = damaged(tmp_path / "photos")
    read = []
    is_whole = data._is_whole
    monkeypatch.setattr(data, "_is_whole", lambda file: read.append(file) or is_whole(file))
    names = {"empty.png", "half.jpg", "text.jpeg"}
    for _ in range(2):
        skipped = data.load(str(root)).train.skipped
        assert {pathlib.Path(name).name for name in skipped} == names
    assert len(read) == 15 + 3
    (root / "cat" / "half.jpg").write_bytes(encoded(noise(7), "JPEG"))
    skipped = data.load(str(root)).train.skipped
    assert {pathlib.Path(name).name for name in skipped} == names - {"half.jpg"}
    assert len(read) == 18 + 15


def test_very_many_pictures_are_split_alike_wherever_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data, "MANY", 5)
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


def test_pipelines_share_the_pictures():
    """A copy for every epoch would pile up."""
    split = numbered(12)
    split.train_batches(image_size=4, batch_size=4)
    first = split._tensor
    split.train_batches(image_size=4, batch_size=4, epoch=1)
    assert split._tensor is first


def test_shards_mix_with_shares_of_their_own():
    split, mixed = numbered(64), Augment(mixup=0.5, flip=False, crop_area=(1.0, 1.0))
    settings = {"image_size": 4, "batch_size": 16, "augment": mixed}
    shares = [
        [labels.numpy().max(1) for _, labels in split.train_batches(shard=(i, 2), **settings)][0]
        for i in range(2)
    ]
    assert not np.allclose(*(np.sort(share) for share in shares))


def test_strict_fails_on_the_first_damaged_picture(tmp_path):
    with pytest.raises(ValueError, match=r"half\.jpg is damaged.*Remove it"):
        data.load(str(damaged(tmp_path)), strict=True)


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


def test_a_picture_of_a_hundred_megapixels_is_read(tmp_path):
    large = Image.new("1", (12_500, 8_000))
    large.save(tmp_path / "large.png")
    assert imagenet.read_image(tmp_path / "large.png").shape == (8_000, 12_500, 3)
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="178 megapixels. Scale it down first"):
        imagenet.read_image(tmp_path / "huge.png")


ERRORS = {
    "unknown": ("mnist", ValueError, "'mnist'.*'digits', 'folder:PATH'.*'tfds:NAME'"),
    "missing folder": ("folder:{}/nowhere", FileNotFoundError, "nowhere. Check the path"),
    "empty folder": ("{}/empty", ValueError, r"0 class folder\(s\) \(none\).*at least two"),
    "one class": ("{}/one", ValueError, r"1 class folder\(s\) \(cat\).*PATH/CLASS/picture.jpg"),
    "no pictures": ("{}/texts", ValueError, r"texts/a has 0 usable.*1 with other ext.*\.png"),
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


def test_names_that_are_not_utf_8_are_told(tmp_path):
    fill(tmp_path, count=4)
    os.rename(tmp_path / "cat" / "000.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    with pytest.raises(ValueError, match=r"not UTF-8: b'.*caf\\xe9.png'. Rename it"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("part", (0.5, -1))
def test_validation_is_a_part(part):
    with pytest.raises(ValueError, match=rf"`validation` is a part in \[0, 0.5\).*{part}"):
        data.load("digits", validation=part)


def test_tfds_that_is_not_installed_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"tfds:cifar10 .*pip install 'keras_effv2\[data\]'"):
        data.load("tfds:cifar10")


# ------------------------------------------------------------------------------ training batches


@pytest.mark.parametrize("shards", (1, 2, 3))
def test_shards_make_the_global_batches(shards):
    split, whole = numbered(50), 12
    settings = {"image_size": 4, "seed": 3, "epoch": 1, "augment": STILL}
    wanted = split.order(3, 1)[:48].reshape(4, 12).tolist()
    parts = [
        numbers(split.train_batches(batch_size=whole // shards, shard=(i, shards), **settings))
        for i in range(shards)
    ]
    assert [sum(batches, []) for batches in zip(*parts, strict=True)] == wanted
    assert len(set(sum(wanted, []))) == 48


@pytest.mark.parametrize("shards", (1, 2, 3))
def test_shards_cover_an_epoch_with_its_remainder(shards):
    seen = []
    for i in range(shards):
        batches = numbered(50).train_batches(
            image_size=4, batch_size=4, shard=(i, shards), drop_remainder=False, augment=STILL
        )
        seen += sum(numbers(batches), [])
    assert sorted(seen) == list(range(50))


def test_labels_belong_to_their_pictures():
    for images, labels in numbered(50).train_batches(image_size=4, batch_size=10, augment=STILL):
        np.testing.assert_array_equal(labels, np.eye(3)[images.numpy()[:, 0, 0, 0] % 3])


def test_the_order_is_a_permutation_that_differs_by_seed_and_epoch():
    split = numbered(50)
    orders = [tuple(split.order(seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 16
    first = np.array([split.order(0, epoch)[0] for epoch in range(1000)])
    assert np.bincount(first, minlength=50).max() < 20 + 5 * np.sqrt(20)  # no favourite


@pytest.mark.parametrize("seed, epoch", ((0, 0), (2**40 + 7, 5000)))
def test_a_skipped_start_changes_nothing_after_it(seed, epoch):
    split = data.load("digits").validation
    settings = {
        "image_size": 16,
        "batch_size": 25,
        "seed": seed,
        "epoch": epoch,
        "augment": Augment(randaugment=10, layers=1, mixup=0.5, cutmix=0.5, erasing=0.3),
    }
    whole = list(split.train_batches(**settings))
    for skip in (3, len(whole)):
        rest = list(split.train_batches(skip=skip, **settings))
        assert len(rest) == len(whole) - skip
        for ours, wanted in zip(rest, whole[skip:], strict=True):
            np.testing.assert_array_equal(ours[0], wanted[0])
            np.testing.assert_array_equal(ours[1], wanted[1])
    other = next(iter(split.train_batches(**{**settings, "epoch": epoch + 1})))
    assert not np.array_equal(other[0], whole[0][0])


def test_skipped_pictures_are_not_read(tmp_path):
    split = data.load(str(fill(tmp_path))).train
    for i in split.order(0, 0)[:4]:
        pathlib.Path(split.pictures[i]).unlink()
    assert len(list(split.train_batches(image_size=8, batch_size=4, skip=1))) == 3


def test_each_phase_has_its_size():
    phases = progressive.ramp(8, 4, image_size=(128, 300))
    for phase, size in zip(phases, (128, 185, 243, 300), strict=True):
        images, _ = next(iter(numbered(4).train_batches(image_size=phase.image_size, batch_size=2)))
        assert images.shape == (2, size, size, 3) and images.dtype == "uint8"


def test_a_batch_larger_than_the_split_is_an_error():
    with pytest.raises(ValueError, match="batch of 51 .* 50 pictures.*at most 50"):
        numbered(50).steps(51)
    assert numbered(50).steps(16) == 3


# ---------------------------------------------------------------------------- evaluation batches


@pytest.mark.parametrize("shards", (1, 2, 3))
@pytest.mark.parametrize("count", (5, 24, 50))
def test_every_picture_is_evaluated_once(count, shards):
    seen, lengths = [], set()
    for i in range(shards):
        batches = list(numbered(count).eval_batches(image_size=4, batch_size=4, shard=(i, shards)))
        lengths.add(len(batches))
        for images, labels, mask in batches:
            assert images.shape == (4, 4, 4, 3) and labels.shape == (4, 3)
            own = images.numpy()[mask.numpy() == 1, 0, 0, 0].astype(int)
            np.testing.assert_array_equal(labels.numpy()[mask.numpy() == 1], np.eye(3)[own % 3])
            seen += own.tolist()
    assert sorted(seen) == list(range(count))
    assert lengths == {-(-count // (4 * shards))}


def evaluated(tmp_path, content, size, **settings):
    (tmp_path / "picture").write_bytes(content)
    split = data.Split("ab", [0], [str(tmp_path / "picture")])
    ((images, _, _),) = split.eval_batches(image_size=size, batch_size=1, **settings)
    return images.numpy()[0]


FILES = {
    "PNG": lambda x: encoded(x),
    "BMP": lambda x: encoded(x, "BMP"),
    "lossless WebP": lambda x: encoded(x, "WEBP", lossless=True),
    "grey PNG": lambda x: encoded(x[..., 0]),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_give_their_pixels(tmp_path, kind):
    pixels = noise(1, 20, 20)
    wanted = np.repeat(pixels[..., :1], 3, -1) if kind.startswith("grey") else pixels
    np.testing.assert_array_equal(evaluated(tmp_path, FILES[kind](pixels), 20), wanted)


def smooth(side=32):
    y, x = np.mgrid[:side, :side] * (255 / (side - 1))
    return np.stack([y, x, 255 - y], -1).astype("uint8")


def jpeg(picture, **settings):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, **settings)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(Image.fromarray(smooth()), exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_allclose(evaluated(tmp_path, content, 32), wanted, atol=6)


@pytest.mark.parametrize("mode", ("RGB", "L", "CMYK"))
def test_jpegs_of_all_kinds_are_read(tmp_path, mode):
    picture = Image.fromarray(smooth()).convert(mode)
    wanted = np.asarray(picture.convert("RGB"))
    np.testing.assert_allclose(evaluated(tmp_path, jpeg(picture), 32), wanted, atol=16)


def test_the_centre_is_cut_as_automl_does(tmp_path):
    pixels = noise(2, 64, 96)  # side 64 * 32 / (32 + 32) of the centre
    ours = evaluated(tmp_path, encoded(pixels), 32, crop="automl")
    np.testing.assert_array_equal(ours, pixels[16:48, 32:64])


@pytest.mark.parametrize("crop", ("none", "automl"))
@pytest.mark.parametrize("resize", ("bilinear", "bicubic"))
def test_evaluation_sees_what_prediction_sees(tmp_path, crop, resize):
    pixels = noise(3, 50, 70)
    ours = evaluated(tmp_path, encoded(pixels), 24, crop=crop, resize=resize)
    # TensorFlow takes cubic weights from a table of 1024 entries
    np.testing.assert_allclose(ours, imagenet.prepare(pixels, 24, crop, resize), atol=0.2)


def test_training_crops_are_parts_of_the_picture():
    """A ramp from left to right: each crop is a ramp between two of its values."""
    ramp = np.broadcast_to(np.arange(0, 256, 2, dtype="uint8")[None, :, None], (128, 128, 3))
    split = data.Split("ab", [0, 1] * 32, np.tile(ramp, (64, 1, 1, 1)))
    settings = Augment(flip=False, crop_area=(0.45, 0.55))
    ((images, _),) = split.train_batches(image_size=32, batch_size=64, augment=settings)
    images = images.numpy().astype(int)
    assert (np.ptp(images, axis=(1, 3)) == 0).all()
    steps = np.diff(images[:, 0, :, 0])
    width = steps.mean(1) * 32 / 2  # columns of the crop
    assert (np.ptp(steps, axis=1) <= 2).all()
    low, high = 128 * np.sqrt(0.45 * 3 / 4), 128 * np.sqrt(0.55 * 4 / 3)
    assert low - 3 < width.min() < width.max() < high + 3
    assert np.ptp(width) > 10 and len(set(images[:, 0, 0, 0])) > 10


# -------------------------------------------------------------------------------- TFDS


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that writes a small TFDS set, with the builder and the file format asked for."""
    tfds = pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
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
    """Every picture in one split, the same pixels, read in memory or by random access."""
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
        lambda: kev.train(None, loaded, None, "w"),
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


def test_tfds_too_large_for_the_memory(prepared, monkeypatch):
    prepared("tfrecord")
    monkeypatch.setattr(data, "IN_MEMORY", 100)
    with pytest.raises(ValueError, match="cannot be read in any order.*file_format='array_record'"):
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


# -------------------------------------------------------------------------------- cars


@pytest.fixture
def cars(tmp_path):
    """The two files of Stanford Cars, with twelve cars of two makes."""
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "car_ims.tgz", "w:gz") as tar:
        for i in range(12):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype="uint8")).save(picture, "JPEG")
            member = tarfile.TarInfo(f"car_ims/{i:06d}.jpg")
            member.size = len(picture.getvalue())
            tar.addfile(member, io.BytesIO(picture.getvalue()))
    kind = [("relative_im_path", "O"), ("bbox_x1", "O"), ("class", "O"), ("test", "O")]
    rows = np.array([(f"car_ims/{i:06d}.jpg", 1, i % 2 + 1, int(i >= 8)) for i in range(12)], kind)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], object)
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": names})
    return tmp_path


def test_cars_from_their_two_files(cars):
    loaded = data.load(f"cars:{cars}", validation=0.3)
    assert loaded.class_names[1] == "Acura RL Sedan 2012"
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [6, 2, 4]
    for split in (loaded.train, loaded.validation, loaded.test):
        numbers = [int(os.path.basename(file)[:6]) for file in split.pictures]
        assert [number % 2 for number in numbers] == split.labels.tolist()
    assert not [name for name in os.listdir(cars) if name.startswith("tmp")]
    (cars / "car_ims" / "000003.jpg").write_bytes(b"torn")
    assert len(data.load(f"cars:{cars}").train.skipped) == 1
    with pytest.raises(ValueError, match="000003.jpg is damaged"):
        data.load(f"cars:{cars}", strict=True)


def test_cars_without_their_files_or_with_a_torn_archive(cars, tmp_path):
    content = (cars / "car_ims.tgz").read_bytes()
    (cars / "car_ims.tgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="car_ims.tgz is a damaged archive"):
        data.load(f"cars:{cars}")
    assert not (cars / "car_ims").exists()
    (cars / "cars_annos.mat").unlink()
    with pytest.raises(FileNotFoundError, match="lacks cars_annos.mat, or car_ims.tgz"):
        data.load(f"cars:{cars}")


def test_the_typical_side_is_the_median_of_the_shorter_sides(tmp_path):
    assert numbered(5, side=7).typical_side() == 7
    root = fill(tmp_path / "photos", count=9)  # 12 x 16
    for i in range(2):
        (root / "cat" / f"huge{i}.png").write_bytes(encoded(noise(i, 40, 30)))
    assert data.load(f"folder:{root}").train.typical_side() == 12


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
    assert imagenet.read_image(tmp_path / "odd.jpg").size == 24 * 32 * 3
    assert data._is_whole(str(tmp_path / "odd.jpg"))


def test_whatever_pillow_raises_is_damage(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(encoded(noise(1), "JPEG"))
    for error in (struct.error("short"), RuntimeError("codec"), KeyError(5)):
        monkeypatch.setattr(Image.Image, "convert", mock.Mock(side_effect=error))
        with pytest.raises(ValueError, match="x.jpg is damaged"):
            imagenet.read_image(tmp_path / "x.jpg")
