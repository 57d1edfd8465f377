"""ImageNet's side of a model: pixels in, names out, and how a photo becomes an input.

The labels are facts from WordNet and google/automl's class order; they ship with the package, so
nothing here needs a network.
"""

import contextlib
import functools
import gzip
import importlib.resources
import io
import struct
import threading
import warnings

import numpy as np

from keras_effv2 import layers

LABELS = {1000: "imagenet1k.tsv.gz", 21843: "imagenet21k.tsv.gz"}

# A photo with more pixels than this is taken for an attack or an accident.
MAX_PIXELS = 178_000_000  # from here on Pillow refuses, too


def preprocess_input(x, data_format=None, *, model=None):
    """Brings pixels 0..255 into the range that a model wants.

    Models normalise their input themselves unless they were built with
    `include_preprocessing=False`; for those, pass the model. For all others this returns `x` as it
    is, like `keras.applications.efficientnet_v2.preprocess_input`.

    Args:
        x: Array or tensor of pixels 0..255, `(..., height, width, channels)`.
        data_format: None or `"channels_last"`.
        model: A model of this package.

    Returns:
        `x`, normalised under the model's contract in float32 if the model does not do so itself.

    Raises:
        ValueError: If `data_format` is `"channels_first"` or the model carries no contract.

    Example:

    >>> float(preprocess_input(np.full((1, 2, 2, 3), 128.0)).max())
    128.0
    """
    if data_format not in (None, "channels_last"):
        raise ValueError(
            f"Images here are channels last. Received: data_format={data_format!r}. "
            "Transpose them to (batch, height, width, channels)."
        )
    if model is None:
        return x
    pixels = layers.find_pixels(model)
    if pixels is None:
        raise ValueError(
            f"Model {model.name!r} carries no pixel contract; it was not built by keras_effv2. "
            "Normalise its input as its author says."
        )
    if pixels.enabled:
        return x
    if isinstance(x, np.ndarray):
        x = x.astype("float32")
    return layers.normalize(x, pixels.pixels)


@functools.cache
def labels(classes):
    """Returns the `(WordNet id, name)` of every output of a 1,000- or 21,843-class head.

    Raises:
        ValueError: If `classes` is another number.

    Example:

    >>> labels(1000)[388]
    ('n02510455', 'giant_panda')
    """
    if classes not in LABELS:
        raise ValueError(
            f"Labels exist for heads of 1000 and of 21843 classes. Received: classes={classes}."
        )
    packed = importlib.resources.files("keras_effv2").joinpath("labels", LABELS[classes])
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    return tuple(tuple(line.split("\t", 1)) for line in lines)


def decode_predictions(preds, top=5):
    """Names the most probable classes.

    Args:
        preds: Array `(batch, 1000)` or `(batch, 21843)`.
        top: How many to name, at least 1.

    Returns:
        A list, one entry an image, of lists of `(WordNet id, name, score)`, best first.

    Raises:
        ValueError: If the shape is another one.

    Example:

    >>> decode_predictions(np.eye(1000)[[388]], top=1)
    [[('n02510455', 'giant_panda', 1.0)]]
    """
    preds = np.asarray(preds)
    if preds.ndim != 2 or preds.shape[1] not in LABELS:
        raise ValueError(
            "`preds` is an array (batch, 1000) or (batch, 21843), the outputs of a model with its "
            f"ImageNet head. Received shape: {preds.shape}."
        )
    names = labels(preds.shape[1])
    best = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(*names[index], float(row[index])) for index in indices]
        for row, indices in zip(preds, best, strict=True)
    ]


# ------------------------------------------------------------------------------ photos to inputs


def read_image(source):
    """Reads a picture as people see it: rotated by its EXIF tag, in RGB, its first frame.

    JPEG, PNG, GIF, BMP, WebP and whatever else Pillow reads; grey, palette and CMYK pictures are
    converted, transparency is laid over white.

    Args:
        source: Path, or the bytes of a file.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no picture, is damaged or has more than 178 megapixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = "The picture" if isinstance(source, bytes) else f"{source}"
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
    except IsADirectoryError:
        raise ValueError(f"{name} is a folder, not a picture.") from None
    with file:
        try:
            with open_picture(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(
                        f"{name} has {image.width}x{image.height} pixels, more than "
                        f"{MAX_PIXELS // 10**6} megapixels. Scale it down first."
                    )
                image.load()
                with contextlib.suppress(*DAMAGE):  # an Exif block that cannot be read says nothing
                    image = ImageOps.exif_transpose(image)
                if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    image = image.convert("RGBA")
                    white = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(white, image)
                elif image.mode.startswith("I;16") or image.mode in ("I", "F"):
                    grey = np.asarray(image, "float32")
                    grey = grey / (257.0 if grey.max() > 255 else 1.0)
                    image = Image.fromarray(grey.clip(0, 255).astype("uint8"))
                return np.asarray(image.convert("RGB"))
        except UnidentifiedImageError:
            raise ValueError(f"{name} is not a picture in a format that Pillow reads.") from None
        except Image.DecompressionBombError:
            raise ValueError(
                f"{name} has more than {MAX_PIXELS // 10**6} megapixels. Scale it down first."
            ) from None
        except DAMAGE as error:
            raise ValueError(f"{name} is damaged: {error}.") from None


# what Pillow raises for damaged files, but for ValueError
DAMAGE = (
    OSError,
    SyntaxError,
    EOFError,
    RuntimeError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    ZeroDivisionError,
)
_WARNINGS = threading.Lock()  # what is warned of is one setting for all threads


def open_picture(file):
    """`PIL.Image.open` without its warning of large pictures: ours are checked against a limit."""
    from PIL import Image

    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def prepare(image, image_size, crop="none", resize="bilinear"):
    """Cuts and resizes a picture the way a checkpoint was evaluated.

    Args:
        image: Array `(height, width, 3)`, 0..255.
        image_size: Side of the result in pixels.
        crop: `"none"`: the whole picture is squeezed into a square. `"automl"`: a centre square
            of side `int(image_size / (image_size + 32) * min(height, width))`.
        resize: `"bilinear"`, half-pixel centres without antialiasing as `tf.image.resize`; or
            `"bicubic"`, TF1's `resize_bicubic` (corner-aligned at zero, a = -0.75), with which
            the B variants were trained.

    Returns:
        float32 array `(image_size, image_size, 3)`, 0..255.

    Raises:
        ValueError: If `crop` or `resize` is unknown.

    Source: google/automl efficientnetv2 `preprocessing.py` and `preprocess_legacy.py`.
    """
    if crop not in ("none", "automl") or resize not in _RESIZERS:
        raise ValueError(
            "`crop` is 'none' or 'automl', `resize` is 'bilinear' or 'bicubic'. Received: "
            f"crop={crop!r}, resize={resize!r}."
        )
    top, left, height, width = crop_box(*image.shape[:2], image_size, crop)
    image = np.asarray(image[top : top + height, left : left + width], "float32")
    rows = _RESIZERS[resize](height, image_size)
    columns = _RESIZERS[resize](width, image_size)
    image = np.einsum("th,hwc->twc", rows, image, optimize=True)
    image = np.einsum("tw,hwc->htc", columns, image, optimize=True)
    return image.clip(0, 255)


def crop_box(height, width, image_size, crop):
    """The part of a picture that a model evaluates: `(top, left, height, width)` in pixels."""
    if crop == "none":
        return 0, 0, height, width
    side = max(1, int(image_size / (image_size + 32) * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


def _bilinear(source, target):
    """Matrix `(target, source)` of half-pixel bilinear interpolation."""
    position = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    distance = np.abs(position[:, None] - np.arange(source)[None])
    return np.maximum(1 - distance, 0).astype("float32")


def _legacy_bicubic(source, target):
    """Matrix `(target, source)` of TF1's bicubic interpolation: no half-pixel offset, a = -0.75."""
    position = np.arange(target) * (source / target)
    first = np.floor(position).astype(int)
    matrix = np.zeros((target, source), "float32")
    for tap in range(-1, 3):
        distance = np.abs(position - (first + tap))
        weight = np.where(
            distance <= 1,
            (1.25 * distance - 2.25) * distance**2 + 1,
            -0.75 * distance**3 + 3.75 * distance**2 - 6 * distance + 3,
        )
        np.add.at(matrix, (np.arange(target), (first + tap).clip(0, source - 1)), weight)
    return matrix


_RESIZERS = {"bilinear": _bilinear, "bicubic": _legacy_bicubic}
