"""TFRecord shards, tars of WebDataset and sets of TFDS, read by random access."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_effv2 import data, weights
from keras_effv2.data import offsets
from keras_effv2.data import tfds as tfds_page

CLASSES = ("rose", "tulip", "daisy")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))


def drawn(count, seed=0):
    """Encoded pictures, JPEG and PNG in turn."""
    rng = np.random.default_rng(seed)
    contents = []
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype="uint8")).save(
            file, ("jpeg", "png")[i % 2]
        )
        contents.append(file.getvalue())
    return contents


def write_tfrecords(folder, contents, shards=3, split="train", first=0, keys=("image", "label")):
    folder.mkdir(exist_ok=True)
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    for number, own in enumerate(np.array_split(np.arange(len(contents)), shards)):
        path = folder / f"{split}-{number:05}-of-{shards:05}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for i in own:
                feature = {
                    keys[0]: tf.train.Feature(bytes_list=tf.train.BytesList(value=[contents[i]])),
                    keys[1]: tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[int(i) % 3 + first])
                    ),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())


def write_tars(folder, contents, shards=2, split="train", as_json=False):
    folder.mkdir(exist_ok=True)
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    for number, own in enumerate(np.array_split(np.arange(len(contents)), shards)):
        with tarfile.open(folder / f"{split}-{number:06}.tar", "w") as tar:
            for i in own:
                label = json.dumps({"label": int(i) % 3}) if as_json else str(int(i) % 3)
                picture = "png" if i % 2 else "jpg"
                for extension, content in (
                    (picture, contents[i]),
                    ("json" if as_json else "cls", label.encode()),
                ):
                    info = tarfile.TarInfo(f"pictures/{i:08}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def write_tfds(folder, contents, monkeypatch, file_format):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record" if file_format == "array_record" else "numpy")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
        }
    )
    rows = {"image": contents, "label": [i % 3 for i in range(len(contents))]}
    stored = tfds.dataset_builders.store_as_tfds_dataset(
        name="drawn",
        version="1.0.0",
        features=features,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(rows)},
        data_dir=str(folder),
        file_format=file_format,
        disable_shuffling=True,
    )
    monkeypatch.setattr(tfds, "builder", lambda name, try_gcs: stored)


def epoch(split, number=1, **options):
    options = {"image_size": 16, "batch_size": 4, "seed": 3, "epoch": number, **options}
    return [tuple(map(np.asarray, batch)) for batch in split.train_batches(**options)]


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def test_every_format_gives_the_same_epochs(tmp_path, monkeypatch):
    """As one that reads files: the same pictures, labels, splits, order and changes."""
    contents = drawn(50)
    write_tfrecords(tmp_path / "a", contents)
    write_tars(tmp_path / "b", contents)
    write_tfds(tmp_path / "c", contents, monkeypatch, "array_record")
    loaded = [data.load(f"{spec}") for spec in (f"tfrecord:{tmp_path / 'a'}", "tfds:drawn")]
    loaded.append(data.load(f"webdataset:{tmp_path / 'b'}"))
    first = loaded[0]
    assert [len(s) for s in (first.train, first.validation, first.test)] == [41, 4, 5]
    files = []
    for i in first.train.indices:
        files.append(str(tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}"))
        with open(files[-1], "wb") as file:
            file.write(contents[i])
    expected = data.Split(CLASSES, first.train.indices % 3, files)
    for found in loaded:
        assert found.class_names == CLASSES
        assert_same(epoch(found.train), epoch(expected))
        np.testing.assert_array_equal(found.train.class_counts(), expected.class_counts())
        assert_same(epoch(found.train, skip=7), epoch(expected)[7:])
        assert found.train.fingerprint() == first.train.fingerprint()
        halves = [epoch(found.train, batch_size=2, shard=(i, 2)) for i in (0, 1)]
        joined = [
            tuple(np.concatenate(parts) for parts in zip(*pair, strict=True))
            for pair in zip(*halves, strict=True)
        ]
        assert_same(joined, epoch(expected))


def test_a_set_of_tfds_keeps_the_order_that_tfds_gives(tmp_path):
    """Parts that were held out before stay held out: TFDS takes from 16 shards in turn."""
    lengths = [40, 3, 0, 33, 20] * 5
    places = offsets.Places(np.repeat(np.arange(25), lengths).astype("int32"), None, None, None)
    files = []
    start = 0
    for number, length in enumerate(lengths):
        files.append(str(tmp_path / f"{number:02}"))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for i in range(start, start + length):
                writer.write(str(i).encode())
        start += length
    expected = tf.data.Dataset.from_tensor_slices(files).interleave(tf.data.TFRecordDataset, 16, 16)
    assert list(tfds_page._order(places, 16)) == [int(r) for r in expected.as_numpy_iterator()]
    assert list(tfds_page._order(places, 1)) == list(range(sum(lengths)))


def test_the_index_is_kept_until_a_file_changes(tmp_path, monkeypatch):
    contents = drawn(8)
    write_tfrecords(tmp_path / "a", contents)
    spec = f"tfrecord:{tmp_path / 'a'}"
    data.load(spec, validation=0)
    (kept,) = (weights.home() / "offsets").iterdir()
    assert kept.suffix == ".npy"
    with monkeypatch.context() as patch:
        patch.setattr(offsets, "_SCANS", {})  # nothing is looked for again
        assert len(data.load(spec, validation=0).train) == 8
    for torn in (kept.read_bytes()[:200], b""):
        kept.write_bytes(torn)
        assert len(data.load(spec, validation=0).train) == 8
        assert len(np.load(kept)) == 8
    write_tfrecords(tmp_path / "a", contents[:5])
    assert len(data.load(spec, validation=0).train) == 5
    (shard,) = (tmp_path / "a").glob("*00000-of*")
    os.utime(shard, ns=(1, 1))
    data.load(spec, validation=0)
    assert len(list((weights.home() / "offsets").iterdir())) == 3


def test_splits_names_and_first_class(tmp_path):
    """As ImageNet's shards: labels from 1 on, other features, a split for validation."""
    keys = "image/encoded", "image/class/label"
    write_tfrecords(tmp_path / "a", drawn(9), first=1, keys=keys)
    write_tfrecords(tmp_path / "a", drawn(4, 1), 1, "validation", first=1, keys=keys)
    loaded = data.load(f"tfrecord:{tmp_path / 'a'}?first=1", validation=0)
    assert (len(loaded.train), loaded.validation, len(loaded.test)) == (9, None, 4)
    np.testing.assert_array_equal(loaded.train.class_counts(), [3, 3, 3])
    write_tars(tmp_path / "b", drawn(9), as_json=True)
    (tmp_path / "b" / "labels.txt").unlink()
    loaded = data.load(f"webdataset:{tmp_path / 'b'}", validation=0)
    assert loaded.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(loaded.train.class_counts(), [3, 3, 3])


@pytest.mark.parametrize("write", [write_tfrecords, write_tars])
def test_damage_is_found_while_reading_and_named(write, tmp_path):
    """The next whole picture stands in, whichever pipeline reads it; none else changes."""
    contents = drawn(24)
    damaged = list(contents)
    damaged[4] = contents[4][:-30]  # a JPEG that is cut off
    damaged[11] = contents[11][:90] + b"?" + contents[11][91:]  # a PNG with a wrong byte
    damaged[12] = b"no picture"
    repaired = list(contents)
    write(tmp_path / "whole", repaired)
    write(tmp_path / "damaged", damaged)
    kind = "tfrecord" if write is write_tfrecords else "webdataset"
    whole, loaded = (
        data.load(f"{kind}:{tmp_path / name}", validation=0).train for name in ("whole", "damaged")
    )
    assert loaded.skipped == ()
    differ = {
        int(order)
        for order, (a, b) in enumerate(
            zip(epoch(whole, batch_size=1), epoch(loaded, batch_size=1), strict=True)
        )
        if (a[0] != b[0]).any()
    }
    order = whole.order(3, 1)
    assert {int(order[i]) for i in differ} == {4, 11, 12}
    assert len(loaded.skipped) == 3 and all(str(tmp_path) in name for name in loaded.skipped)
    assert loaded.skipped[0].endswith("#4")
    assert loaded.select(np.arange(10)).skipped == loaded.skipped[:1]
    first = epoch(loaded, batch_size=12)
    halves = [epoch(loaded, batch_size=6, shard=(i, 2)) for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([halves[0][0][0], halves[1][0][0]]), first[0][0])


def test_a_wrong_byte_that_is_another_picture_is_damage(tmp_path):
    """The checksum of a record tells, as TensorFlow's own reader says of the file."""
    contents = drawn(12)
    write_tfrecords(tmp_path / "a", contents, shards=1)
    (path,) = (tmp_path / "a").glob("train-*")
    written = bytearray(path.read_bytes())
    at = written.index(contents[4]) + len(contents[4]) - 40  # within the coefficients of a JPEG
    written[at] ^= 1
    path.write_bytes(written)
    Image.open(io.BytesIO(written[at - len(contents[4]) + 40 :])).load()  # no error there
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(path)))
    written[20] ^= 1  # and of the first record, from which the features are read
    path.write_bytes(written)
    split = data.load(f"tfrecord:{tmp_path / 'a'}", validation=0).train
    epoch(split, batch_size=1)
    assert [name.rpartition("#")[2] for name in split.skipped] == ["0", "4"]
    places = offsets.find([path], "tfrecord")
    for start in places.start:
        written[start] ^= 64
    path.write_bytes(written)
    with pytest.raises(ValueError, match="first 12 records of .* are no tf.train.Example, or not"):
        data.load(f"tfrecord:{tmp_path / 'a'}", validation=0)


def test_nothing_but_damage_ends(tmp_path):
    write_tars(tmp_path / "a", [b"no picture"] * 6)
    split = data.load(f"webdataset:{tmp_path / 'a'}", validation=0).train
    with pytest.raises(tf.errors.OpError, match="6 pictures in a row are damaged"):
        epoch(split, batch_size=1)


@pytest.mark.parametrize(
    ("spec", "prepare", "message"),
    [
        ("tfrecord:{}", lambda f: None, "has no shards. Wanted: files NAME-00000-of-01024"),
        ("webdataset:{}", lambda f: None, r"has no shards. Wanted: files \*.tar"),
        ("tfrecord:{}/none", lambda f: None, "There is no folder .*none. Check the path"),
        (
            "tfrecord:{}",
            lambda f: (f / "train-00001-of-00003").unlink(),
            "1 of 3 shards are missing, such as .*train-00001-of-00003",
        ),
        ("tfrecord:{}", lambda f: (f / "labels.txt").unlink(), "no .*labels.txt. Write one with"),
        ("tfrecord:{}?imag=a", lambda f: f, "takes image=, label= and first= .*: imag=a"),
        ("tfrecord:{}?first=one", lambda f: f, "first= is the number .* Received: 'one'"),
        (
            "tfrecord:{}?image=a",
            lambda f: f,
            "has the features image, label. Say which are the picture",
        ),
        (
            "tfrecord:{}",
            lambda f: os.truncate(f / "train-00000-of-00003", 100),
            "is no uncompressed TFRecord file, or is cut off: at byte 0 of 100",
        ),
        ("webdataset:{}", lambda f: (f / "a.tar").write_bytes(b"?" * 2000), "no uncompressed tar"),
        (
            "tfrecord:{}",
            lambda f: (f / "more.tfrecord").write_bytes(b""),
            "more.tfrecord names no split, as .*train-0000",
        ),
    ],
)
def test_shards_that_cannot_be_used(spec, prepare, message, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    if "has no shards" not in message and "webdataset" not in spec:
        write_tfrecords(folder, drawn(6))
    prepare(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(spec.format(folder), validation=0)


@pytest.mark.parametrize("write", [write_tfrecords, write_tars])
def test_shards_in_a_bucket(write, tmp_path):
    write(tmp_path / "a", drawn(12))
    bucket = f"ram://{tmp_path.name}-{write.__name__}"
    tf.io.gfile.makedirs(bucket)
    for file in (tmp_path / "a").iterdir():
        with tf.io.gfile.GFile(f"{bucket}/{file.name}", "wb") as copy:
            copy.write(file.read_bytes())
    kind = "tfrecord" if write is write_tfrecords else "webdataset"
    here, there = (data.load(f"{kind}:{path}", validation=0) for path in (tmp_path / "a", bucket))
    assert_same(epoch(here.train), epoch(there.train))


def test_a_sample_without_its_class(tmp_path):
    write_tars(tmp_path / "a", drawn(4))
    with tarfile.open(tmp_path / "a" / "train-000009.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x/1.jpg"))
    with pytest.raises(ValueError, match=r"train-000009.tar: x/1 has no class \(.cls or .json\)"):
        data.load(f"webdataset:{tmp_path / 'a'}")
