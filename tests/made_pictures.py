"""Pictures and folders of pictures that tests make."""

import hashlib
import io
import pathlib

import numpy as np
from PIL import Image

from keras_effv2 import data


def numbered(count, classes=3, side=4):
    """A split whose i-th picture has the value i everywhere."""
    pictures = np.arange(count, dtype="uint8")[:, None, None, None]
    labels = np.arange(count) % classes
    return data.Split([*"abc"[:classes]], labels, np.tile(pictures, (1, side, side, 3)))


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


def smooth(side=32):
    y, x = np.mgrid[:side, :side] * (255 / (side - 1))
    return np.stack([y, x, 255 - y], -1).astype("uint8")


def jpeg(picture, **settings):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, **settings)
    return file.getvalue()


def evaluated(tmp_path, content, size, **settings):
    (tmp_path / "picture").write_bytes(content)
    split = data.Split(["a", "b"], [0], [str(tmp_path / "picture")])
    ((images, _, _),) = split.eval_batches(image_size=size, batch_size=1, **settings)
    return images.numpy()[0]
