"""Pictures a second that each format of a data set gives, with and without decoding.

    python benchmarks/readers.py --data folder:flowers --rounds 5

Writes the training pictures once as files, TFRecord shards, tars and, if TFDS and array_record are
installed, as ArrayRecord; checks that all give one epoch; then times them in turn, round by round,
with Grain over the same files if it is installed: Pillow decodes there, crops at random and resizes.
"""

import argparse
import importlib.util
import io
import pathlib
import statistics
import tarfile
import tempfile
import time

import numpy as np
import tensorflow as tf
from PIL import Image

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--image_size", type=int, default=224)
parser.add_argument("--shards", type=int, default=16)


def write(split, folder, shards):
    """Writes the pictures as TFRecord shards, tars and ArrayRecord; gives the three splits."""
    for kind in ("tfrecord", "webdataset"):
        (folder / kind).mkdir()
        (folder / kind / "labels.txt").write_text("\n".join(split.class_names))
    examples = {"image": [pathlib.Path(p).read_bytes() for p in split.pictures]}
    examples["label"] = split.labels.tolist()
    for number, own in enumerate(np.array_split(np.arange(len(split)), shards)):
        records = tf.io.TFRecordWriter(
            str(folder / "tfrecord" / f"train-{number:05}-of-{shards:05}")
        )
        with records, tarfile.open(folder / "webdataset" / f"train-{number:05}.tar", "w") as tar:
            for i in own:
                content, label = examples["image"][i], examples["label"][i]
                records.write(_example(content, label))
                for extension, part in (("jpg", content), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{i:08}.{extension}")
                    member.size = len(part)
                    tar.addfile(member, io.BytesIO(part))
    specs = {kind: f"{kind}:{folder / kind}" for kind in ("tfrecord", "webdataset")}
    found = {kind: kev.data.load(spec, validation=0).train for kind, spec in specs.items()}
    return {**found, **_array_record(split.class_names, examples, folder)}


def _example(content, label):
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _array_record(class_names, examples, folder):
    try:
        import array_record.python.array_record_module  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError:
        return {}
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=list(class_names)),
    }
    stored = tfds.dataset_builders.store_as_tfds_dataset(
        name="photos",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(examples)},
        data_dir=str(folder),
        file_format="array_record",
        disable_shuffling=True,
    )
    tfds.builder = lambda name, try_gcs: stored
    return {"array_record": kev.data.load("tfds:photos", validation=0).train}


def read(split, epoch):
    """Reads an epoch in its order, undecoded."""
    return sum(1 for _ in split._raw(split.order(0, epoch)).batch(64))


def decode(split, epoch, image_size):
    """Reads an epoch as training does."""
    for _ in split.train_batches(image_size=image_size, batch_size=64, epoch=epoch):
        pass


class Pictures:
    """Files with their labels, as a source of Grain's."""

    def __init__(self, split):
        self.files, self.labels = list(map(str, split.pictures)), split.labels.tolist()

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return pathlib.Path(self.files[i]).read_bytes(), self.labels[i]


class Cropped:
    """Pillow's part of a picture, as large as our recipes take it, at the size of training."""

    def __init__(self, image_size):
        self.image_size = image_size

    def __call__(self, picture, rng):
        content, label = picture
        with Image.open(io.BytesIO(content)) as image:
            sides = [round(side * rng.uniform(0.5, 1)) for side in image.size]
            left, top = (rng.integers(0, a - b + 1) for a, b in zip(image.size, sides))
            box = (left, top, left + sides[0], top + sides[1])
            size = (self.image_size, self.image_size)
            return np.asarray(image.convert("RGB").resize(size, Image.BILINEAR, box)), label


def grain(split):
    """`read` and `decode` by Grain, in its threads."""
    from grain import MapDataset

    def epochs(epoch):
        return MapDataset.source(Pictures(split)).seed(epoch).shuffle()

    def run(dataset):
        return sum(1 for _ in dataset.to_iter_dataset().batch(64))

    def read_all(_, epoch):
        stream = epochs(epoch).map(lambda picture: len(picture[0]))
        return run(stream)

    def decode_all(_, epoch, image_size):
        return run(epochs(epoch).random_map(Cropped(image_size)))

    return read_all, decode_all


def main(args):
    given = kev.data.load(args.data, validation=0.1).train
    with tempfile.TemporaryDirectory() as folder:
        splits = {"files": given, **write(given, pathlib.Path(folder), args.shards)}
        options = {"image_size": 64, "batch_size": 64, "epoch": 1}
        first = {kind: next(iter(own.train_batches(**options))) for kind, own in splits.items()}
        for images, labels in first.values():
            np.testing.assert_array_equal(images, first["files"][0])
            np.testing.assert_array_equal(labels, first["files"][1])
        jobs = {kind: (split, read, decode) for kind, split in splits.items()}
        if importlib.util.find_spec("grain"):
            jobs["Grain over the files"] = (given, *grain(given))
        rates = {}
        for epoch in range(args.rounds):
            for kind, (split, *own) in jobs.items():
                for what, job, settings in zip(
                    ("read", "trained on"), own, ((), (args.image_size,)), strict=True
                ):
                    start = time.perf_counter()
                    job(split, epoch, *settings)
                    rate = len(split) / (time.perf_counter() - start)
                    rates.setdefault(what, {}).setdefault(kind, []).append(rate)
    print("| format | " + " | ".join(f"{what}, pictures/s" for what in rates) + " |")
    print("| --- |" + " ---: |" * len(rates))
    for kind in jobs:
        cells = [
            f"{statistics.median(own[kind]):,.0f} ({min(own[kind]):,.0f}-{max(own[kind]):,.0f})"
            for own in rates.values()
        ]
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(parser.parse_args())
