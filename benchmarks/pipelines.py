"""Pictures a second of the input pipelines: ours, Keras' layers, torchvision, and the reader alone.

    python benchmarks/pipelines.py --data photos --sizes 128,224,384

Each reads the same photos from a folder, crops, mirrors, applies RandAugment (two operations of magnitude
15) and mixup (0.2), and gives batches. They take turns; torchvision where it is installed, with two
worker processes. The reader decodes and squeezes. `--step` times B0's training step too.
"""

import argparse
import glob
import importlib.util
import os
import statistics
import time

torch = importlib.util.find_spec("torchvision") and importlib.import_module("torch")  # first

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_effv2 as kev  # noqa: E402
from keras_effv2 import augment, processor, timing  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="folder of one folder of photos a class")
parser.add_argument("--sizes", default="128,224,384", help="sides in pixels")
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--batches", type=int, default=6, help="of one timing")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--step", action="store_true", help="time a training step of B0 beside")
AUTOTUNE = tf.data.AUTOTUNE


def ours(split, size, batch):
    settings = augment.Augment(randaugment=15.0, mixup=0.2, crop_area=(0.08, 1.0))
    return split.train_batches(image_size=size, batch_size=batch, augment=settings)


def reader(split, size, batch):
    return split.eval_batches(image_size=size, batch_size=batch)


def by_keras(paths, size, batch):
    layers = [
        keras.layers.RandomCrop(size, size),
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandAugment((0, 255), num_ops=2, factor=0.5),
    ]
    mixup = keras.layers.MixUp(0.2)

    def read(path):
        image = tf.image.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, (int(1.15 * size),) * 2)

    def change(images):
        for layer in layers:
            images = layer(images, training=True)
        return mixup({"images": images, "labels": tf.one_hot(tf.zeros(batch, tf.int32), 10)})

    return (
        tf.data.Dataset.from_tensor_slices(paths)
        .map(read, AUTOTUNE)
        .batch(batch, drop_remainder=True)
        .map(change, AUTOTUNE)
        .prefetch(2)
    )


def by_torchvision(paths, size, batch):
    from torch.utils.data import DataLoader, Dataset
    from torchvision.io import decode_jpeg, read_file
    from torchvision.transforms import v2

    change = v2.Compose(
        [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.RandAugment(2, 15)]
    )
    mixup = v2.MixUp(alpha=0.2, num_classes=10)

    class Photos(Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            return change(decode_jpeg(read_file(paths[index]))), 0

    def mixed(rows):
        images = torch.stack([image for image, _ in rows]).float()
        return mixup(images, torch.zeros(len(rows), dtype=torch.long))

    return DataLoader(Photos(), batch, num_workers=2, collate_fn=mixed, drop_last=True)


def rate(pipeline, batch, batches):
    """Pictures a second, the first batch left out."""
    iterator = iter(pipeline)
    next(iterator)
    start = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batch * batches / (time.perf_counter() - start)


def main(args):
    paths = sorted(glob.glob(os.path.join(args.data, "*", "*.jpg")))
    split = kev.data.load(f"folder:{args.data}", validation=0).train
    print("| pixels | pictures/s: ours | reader alone | keras.layers | torchvision | B0's step |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in map(int, args.sizes.split(",")):
        makers = {
            "ours": lambda: ours(split, size, args.batch),
            "reader": lambda: reader(split, size, args.batch),
            "keras": lambda: by_keras(paths, size, args.batch),
        }
        if torch:
            makers["torchvision"] = lambda: by_torchvision(paths, size, args.batch)
        rates = {name: [] for name in makers}
        for _ in range(args.rounds):
            for name, make in makers.items():
                rates[name].append(rate(make(), args.batch, args.batches))
        cells = [f"{statistics.median(own):.0f}" for own in rates.values()]
        cells += [""] * (4 - len(cells)) + [f"{_step(size, args):.0f}" if args.step else ""]
        print(f"| {size} | {' | '.join(cells)} |", flush=True)
    print(f"{processor.instructions()}, oneDNN {processor.onednn()}, {os.cpu_count()} processors")


def _step(size, args):
    """Pictures a second of training EfficientNetV2-B0."""
    model = kev.EfficientNetV2B0(weights=None, classes=10)
    step = timing.train_step(model, args.batch, size)
    step()
    return args.batch / np.median([timing.seconds(step) for _ in range(3)])


if __name__ == "__main__":
    main(parser.parse_args())
