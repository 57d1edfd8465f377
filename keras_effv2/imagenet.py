"""ImageNet's side of a model: pixels in, names out.

The labels are facts from WordNet and google/automl's class order; they ship with the package, so
nothing here needs a network.
"""

import functools
import gzip
import importlib.resources
import itertools
import os
import typing

import keras
import numpy as np

from keras_effv2 import graph, layers
from keras_effv2.arguments import check_array, check_kind, check_number
from keras_effv2.photos import check_range, is_picture, prepare, read_image

if typing.TYPE_CHECKING:
    import PIL.Image

LABELS = {
    1000: "imagenet1k.tsv.gz",
    11821: "imagenet12k.gaps.gz",  # timm's: distances between its classes among the 21,843
    21843: "imagenet21k.tsv.gz",
}


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
        ValueError: If `data_format` is `"channels_first"`, the model carries no contract, or `x` is
            no such array.

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
    check_kind("model", model, keras.Model, "a keras.Model")
    pixels = layers.find_pixels(model)
    if pixels is None:
        raise ValueError(
            f"Model {model.name!r} carries no pixel contract; it was not built by keras_effv2. "
            "Normalise its input as its author says."
        )
    if pixels.enabled:
        return x
    if keras.ops.is_tensor(x) or isinstance(x, keras.KerasTensor):
        return layers.normalize(keras.ops.cast(x, "float32"), pixels.pixels)
    channels = model.inputs[0].shape[-1]
    wanted = f"an array or a tensor (..., height, width, {channels}) of 0..255"
    x = check_array("x", x, wanted, lambda shape: len(shape) > 2 and shape[-1] == channels)
    return layers.normalize(x.astype("float32"), pixels.pixels)


_KNOWN = "1000, 11821 or 21843"


@functools.cache
def labels(classes):
    """Returns the `(WordNet id, name)` of every output of a head for an ImageNet.

    Raises:
        ValueError: If `classes` is none of 1000, 11821 and 21843.

    Example:

    >>> labels(1000)[388]
    ('n02510455', 'giant_panda')
    """
    if classes not in LABELS:
        raise ValueError(
            f"Labels exist for heads of {_KNOWN} classes. Received: classes={classes}."
        )
    packed = importlib.resources.files("keras_effv2").joinpath("labels", LABELS[classes])
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    if classes == 11821:
        return tuple(labels(21843)[index] for index in itertools.accumulate(map(int, lines)))
    return tuple(tuple(line.split("\t", 1)) for line in lines)


def decode_predictions(preds, top=5):
    """Names the most probable classes.

    Args:
        preds: Array `(batch, 1000)`, `(batch, 11821)` or `(batch, 21843)`.
        top: How many to name, at least 1.

    Returns:
        A list, one entry an image, of lists of `(WordNet id, name, score)`, best first.

    Raises:
        ValueError: If it is no such array, or holds NaN or infinity.

    Example:

    >>> decode_predictions(np.eye(1000)[[388]], top=1)
    [[('n02510455', 'giant_panda', 1.0)]]
    """
    check_number("`top`", top, 1, whole=True)
    preds = check_array(
        "preds",
        preds,
        f"an array (batch, classes) of {_KNOWN} classes, the outputs of a model with its ImageNet head",
        lambda shape: len(shape) == 2 and shape[1] in LABELS,
    )
    names = labels(preds.shape[1])
    # in float64: of eight bits, as quantised networks give, the least has no negative
    best = np.argsort(-preds.astype("float64"), axis=1, kind="stable")[:, :top]
    return [
        [(*names[index], float(row[index])) for index in indices]
        for row, indices in zip(preds, best, strict=True)
    ]


# ------------------------------------------------------------------------- what a model wants, says


def prepare_image(
    model: keras.Model,
    picture: "str | bytes | os.PathLike | np.ndarray | PIL.Image.Image",
    image_size: int | None = None,
) -> np.ndarray:
    """Prepares a picture as a model wants it: read as people see it, cut, resized.

    What the model carries decides: the crop, the interpolation and the side in pixels. Pixels stay
    0..255, which the model normalises itself.

    Args:
        model: A model of pictures `(side, side, 3)` that normalises them itself.
        picture: Path, the bytes of a file, an image of Pillow's, or an array `(height, width, 3)` of
            0..255.
        image_size: Side in pixels; None: that at which the model was evaluated, else 224.

    Returns:
        float32 array `(image_size, image_size, 3)`, for `model.predict(image[None])`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the picture cannot be read or is no such array, or the model takes no such
            pictures, or not of that side.

    Example:

    >>> import keras_effv2 as kev
    >>> model = kev.EfficientNetV2B0(weights=None)
    >>> prepare_image(model, np.zeros((30, 40, 3), "uint8")).shape
    (224, 224, 3)
    """
    check_kind("model", model, keras.Model, "a keras.Model")
    pixels = check_array(
        "picture",
        read_image(picture) if is_picture(picture) else picture,
        "a path, the bytes of a file, an image of Pillow's, or an array (height, width, 3) of 0..255",
        lambda shape: len(shape) == 3 and shape[2] == 3 and all(shape),
    )
    if pixels.dtype != np.uint8:
        check_range("picture", pixels)
    contract = layers.find_pixels(model)
    geometry = (contract.crop, contract.resize) if contract is not None else ()
    return prepare(pixels, graph.side_of(model, image_size), *geometry)


def class_names(model: keras.Model) -> list[str]:
    """The names of the classes that a model tells apart: of its outputs, or two of one output.

    Args:
        model: A classifier.

    Returns:
        A list: the names that the model carries, else ImageNet's for 1,000, 11,821 or 21,843 outputs,
        else `class 0`, `class 1`, ...

    Raises:
        ValueError: If the model does not give one vector for a picture.

    Example:

    >>> import keras_effv2 as kev
    >>> class_names(kev.EfficientNetV2B0(weights=None, classes=2))
    ['class 0', 'class 1']
    """
    check_kind("model", model, keras.Model, "a keras.Model")
    graph.check_outputs(model)
    classes, own = model.output_shape[-1], graph.said_of_head(model, "class_names")
    if own:
        return list(own)
    if classes in LABELS:
        return [name for _, name in labels(classes)]
    return [f"class {i}" for i in range(max(2, classes))]


__all__ = [
    "LABELS",
    "class_names",
    "decode_predictions",
    "labels",
    "prepare",
    "prepare_image",
    "preprocess_input",
    "read_image",
]
