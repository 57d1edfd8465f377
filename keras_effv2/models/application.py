"""The shell all builders share: arguments, input, pixels, head, weights, features.

A family file gives its table of variants and a `Family`; builders differ in nothing else.
"""

import dataclasses
import os
import string
from collections.abc import Callable, Sequence

import keras
from absl import logging

from keras_effv2 import layers
from keras_effv2 import weights as checkpoints
from keras_effv2.arguments import check_kind, check_names, check_number, check_shape

_OLDER = " of tf_keras, which is Keras 2 and takes what export_hub writes: hub.KerasLayer(path)."
REDUCTIONS = tuple(f"reduction_{i}" for i in range(1, 6))


@dataclasses.dataclass(frozen=True)
class Family:
    """What the shell asks a family for.

    Attributes:
        title: Paper and arXiv number, for docstrings.
        features: `(x, variant, drop_path, prefix) -> {"reduction_1": ..., "reduction_5": ...}`.
        top: `(x, variant, prefix) -> x`, what stands between the last block and the pooling.
        neck: `(x, variant, prefix) -> x`, what stands between the pooling and the dropout.
        multiple: A static image side must be a multiple of this.
        levels: Names of what `features` gives, from large to small maps.
    """

    title: str
    features: Callable
    top: Callable
    neck: Callable
    multiple: int = 1
    levels: tuple[str, ...] = REDUCTIONS


def block_letters(index):
    """Names the blocks of a stage a, b, .., z, aa, ab, ..: 0 -> "a", 26 -> "aa"."""
    letters = string.ascii_lowercase
    return (letters[index // 26 - 1] if index >= 26 else "") + letters[index % 26]


def geometry(pixels, image_size):
    """How a picture is cut and resized before a checkpoint made for `pixels` sees it.

    Source: google/automl efficientnetv2 `preprocessing.py`, `preprocess_legacy.py`.
    """
    if pixels == "imagenet":
        return {"crop": "automl", "resize": "bicubic"}
    if pixels == "128" and image_size < 320:
        return {"crop": "automl", "resize": "bilinear"}
    return {"crop": "none", "resize": "bilinear"}


def build(
    variant,
    family,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=None,
    classifier_activation="softmax",
    include_preprocessing=True,
    name=None,
    *,
    dropout=None,
    drop_path=None,
    pixels=None,
    features=None,
):
    """Builds any variant of any family; the arguments are those of the builders, see `builder`."""
    check_kind("include_top", include_top, bool, "True or False")
    check_kind("include_preprocessing", include_preprocessing, bool, "True or False")
    shape = _check(variant, family, input_tensor, input_shape, pooling, classes)
    _check_channels(shape[-1], variant.name, weights)
    if features is not None:
        features = _check_features(features, family.levels)
        include_top, pooling = False, None
    checkpoint = checkpoints.open_checkpoint(variant.name, weights, top=include_top)
    if checkpoint is not None and checkpoint.built_for:
        variant = dataclasses.replace(variant, image_size=checkpoint.built_for)
    pixels = _choose_pixels(variant, checkpoint, pixels, shape[-1])
    prefix = f"{name}_" if name and input_tensor is not None else ""
    inputs, x = _input(input_tensor, shape)
    contract = _contract(variant, pixels, include_preprocessing, classifier_activation, prefix)
    rate = variant.drop_path if drop_path is None else drop_path
    pyramid = family.features(contract(x), variant, rate, prefix)
    if features is not None:
        outputs = {key: pyramid[key] for key in features}
    else:
        outputs = family.top(pyramid[family.levels[-1]], variant, prefix)
        outputs = _pooled(outputs, "avg" if include_top else pooling, prefix)
    if include_top:
        if classes is None:
            classes = checkpoints.classes_of(checkpoint) if checkpoint else 1000
        rate = variant.dropout if dropout is None else dropout
        outputs = family.neck(outputs, variant, prefix)
        outputs = _head(outputs, int(classes), classifier_activation, rate, prefix)
    model = keras.Model(inputs, outputs, name=name or variant.name.lower())
    levels = {id(tensor): key for key, tensor in pyramid.items()}
    contract.features = {
        levels[id(layer.output)]: layer.name for layer in model.layers if id(layer.output) in levels
    }
    if checkpoint is not None:
        whole = model  # of which features are a part
        if features is not None:
            whole = keras.Model(inputs, family.top(pyramid[family.levels[-1]], variant, prefix))
        before = [] if input_tensor is None else keras.Model(inputs, input_tensor).layers
        own = [layer for layer in whole.layers if layer not in before]
        _load(model, checkpoint, contract, own, prefix, classes if include_top else None)
    return model


def _input(input_tensor, shape):
    """What the model takes, and the tensor that its first layer takes."""
    if input_tensor is None:
        inputs = keras.Input(shape)
        return inputs, inputs
    inputs = keras.utils.get_source_inputs(input_tensor)
    return (inputs[0] if len(inputs) == 1 else inputs), input_tensor


def _contract(variant, pixels, enabled, classifier_activation, prefix):
    """The layer that normalises pixels and says what the model was made for."""
    sigmoid = keras.activations.get(classifier_activation) is keras.activations.sigmoid
    return layers.Pixels(
        pixels,
        enabled=enabled,
        image_size=variant.image_size,
        activation="sigmoid" if sigmoid else "softmax",
        **geometry(pixels, variant.image_size),
        name=prefix + "pixels",
    )


def _pooled(x, pooling, prefix):
    """(b, h, w, c) -> (b, c), in float32: means of thousands of bfloat16 numbers lose digits."""
    if pooling == "avg":
        return keras.layers.GlobalAveragePooling2D(dtype="float32", name=prefix + "avg_pool")(x)
    if pooling == "max":
        return keras.layers.GlobalMaxPooling2D(dtype="float32", name=prefix + "max_pool")(x)
    return x


def _head(x, classes, activation, dropout, prefix):
    """(b, c) -> (b, classes)."""
    x = layers.Dropout(dropout, dtype="float32", name=prefix + "top_dropout")(x)
    return keras.layers.Dense(
        classes,
        activation=activation,
        # U(-1/sqrt(classes), 1/sqrt(classes)), google/automl `dense_kernel_initializer`
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_out", "uniform"),
        dtype="float32",
        name=prefix + "predictions",
    )(x)


def _load(model, checkpoint, contract, own, prefix, classes):
    """Puts a checkpoint into a model; with its head, its contract holds too."""
    fresh_head = classes != checkpoint.classes
    checkpoints.assign(
        model,
        checkpoint,
        own=own,
        prefix=prefix,
        fresh_head=fresh_head or classes is None,
        headless=classes is None,
    )
    if classes is None:
        return
    if fresh_head:
        logging.info(
            "%s: the head for %d classes is new and has to be trained; %s has %s.",
            model.name,
            classes,
            checkpoint.origin,
            f"{checkpoint.classes} classes" if checkpoint.classes else "no head",
        )
        return
    contract.activation = checkpoint.activation or contract.activation
    contract.class_names = checkpoint.class_names or contract.class_names
    for key, value in checkpoint.use.items():
        setattr(contract, key, value)


def _check(variant, family, input_tensor, input_shape, pooling, classes):
    """Rejects arguments that cannot work; returns the shape of a picture."""
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"{variant.name} computes channels last, but keras.config.image_data_format() is "
            f"{keras.config.image_data_format()!r}. "
            'Call keras.config.set_image_data_format("channels_last").'
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` is None, 'avg' or 'max'. Received: pooling={pooling!r}.")
    if classes is not None:
        check_number("`classes`", classes, 1, whole=True)
    shape = check_shape((None, None, 3) if input_shape is None else input_shape)
    if input_tensor is not None:
        if not keras.backend.is_keras_tensor(input_tensor):
            kind = type(input_tensor)
            raise ValueError(
                "`input_tensor` is a Keras tensor, the output of keras.Input or of a layer. Received: "
                f"{kind.__name__}{_OLDER if kind.__module__.startswith('tf_keras') else '.'}"
            )
        given, shape = shape, check_shape(input_tensor.shape[1:])
        if input_shape is not None and given != shape:
            raise ValueError(
                f"`input_shape` {given} contradicts the shape {shape} of `input_tensor`. Leave "
                "`input_shape` out."
            )
    for side in shape[:2]:
        if side is not None and side < 32:
            raise ValueError(
                f"{variant.name} takes images of at least 32x32 pixels. Received: input_shape={shape}."
            )
        if side is not None and side % family.multiple:
            nearest = max(1, round(side / family.multiple)) * family.multiple
            raise ValueError(
                f"{variant.name} takes image sides that are multiples of {family.multiple}. "
                f"Received: input_shape={shape}. The nearest to {side} is {nearest}."
            )
    return shape


def _check_channels(channels, name, weights):
    """Refuses released weights for another number of channels, before they are fetched."""
    if channels != 3 and any(row.tag == weights for row in checkpoints.list_weights(name)):
        raise ValueError(
            f"weights={weights!r} are for 3 channels, the input has {channels}. Give 3 as "
            "`input_tensor`: keras.layers.Concatenate()([x] * 3) of a grey x, "
            "keras.layers.Conv2D(3, 1)(x) of more; or weights=None and pixels='128'."
        )


def _check_features(features, levels):
    features = (features,) if isinstance(features, str) else check_names("features", features)
    unknown = [key for key in features if key not in levels]
    if unknown or not features:
        raise ValueError(
            f"`features` names levels of the pyramid, out of {', '.join(levels)}. "
            f"Received: features={features}."
        )
    return features


def _choose_pixels(variant, checkpoint, pixels, channels):
    """The contract of the weights, or what the user asked for, or the variant's own."""
    recorded = checkpoint.pixels if checkpoint is not None else None
    if pixels is not None:
        layers.check_pixels(pixels, channels)
        if recorded is not None and recorded != pixels:
            raise ValueError(
                f"{checkpoint.origin} was made for pixels={recorded!r}. Received: "
                f"pixels={pixels!r}. Leave `pixels` out, or pass pixels={recorded!r}."
            )
        return pixels
    if channels != 3:
        raise ValueError(
            f"For an input of {channels} channels say how pixels are scaled: pass pixels='128' "
            "((x - 128) / 128) or pixels='127.5' (x / 127.5 - 1)."
        )
    chosen = recorded or variant.pixels
    logging.info(
        "%s: pixels=%r, as %s.",
        variant.name,
        chosen,
        f"{checkpoint.origin} says" if recorded else "this variant takes without a record",
    )
    return chosen


def builder(variant, family):
    """Makes the public function that builds one variant."""

    def make(
        include_top: bool = True,
        weights: str | os.PathLike | None = variant.weights,
        input_tensor: keras.KerasTensor | None = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int | None = None,
        classifier_activation: str | Callable | None = "softmax",
        include_preprocessing: bool = True,
        name: str | None = None,
        *,
        dropout: float | None = None,
        drop_path: float | None = None,
        pixels: str | None = None,
        features: str | Sequence[str] | None = None,
    ) -> keras.Model:
        return build(
            variant,
            family,
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            classes,
            classifier_activation,
            include_preprocessing,
            name,
            dropout=dropout,
            drop_path=drop_path,
            pixels=pixels,
            features=features,
        )

    make.__name__ = make.__qualname__ = variant.name
    make.__doc__ = _DOCSTRING.format(variant=variant, family=family, size=variant.image_size)
    return make


_DOCSTRING = """Builds {variant.name}. {family.title}.

    Args:
        include_top: Whether to end with the classifier.
        weights: None (random), a tag that `keras_effv2.list_weights("{variant.name}")` lists, or a
            path to a file. Weights load strictly: every tensor must match.
        input_tensor: Optional Keras tensor to build on.
        input_shape: `(height, width, channels)`. None gives `(None, None, 3)`: any size.
            The papers evaluate at {size} x {size}.
        pooling: Without the top, None gives the feature map `(batch, h / 32, w / 32, channels)`,
            `"avg"` or `"max"` the vector `(batch, channels)`.
        classes: Number of outputs. None gives the head of the weights, or 1000 without weights;
            another number than the weights' builds a fresh head and says so. Weights without a head
            need it.
        classifier_activation: Activation of the head. None gives logits, which evaluation reads as
            the head of the weights was trained (21k: sigmoids), those of a fresh one as a softmax.
        include_preprocessing: Whether the model takes pixels 0..255 and normalises them itself.
            If not, call `preprocess_input(x, model=model)` first.
        name: Name of the model. Over an `input_tensor` the layers are prefixed `NAME_`.
        dropout: Probability, in [0, 1), of dropping a feature before the classifier;
            None gives {variant.dropout}.
        drop_path: Probability, in [0, 1), of dropping the deepest residual branch; shallower
            blocks drop proportionally less. None gives {variant.drop_path}.
        pixels: `"imagenet"`, `"128"` or `"127.5"`: how 0..255 is normalised. None follows the
            weights.
        features: Names out of `reduction_1` .. `reduction_5`: gives a model without head whose
            output is a dictionary of feature maps at strides 2 .. 32.

    Returns:
        A `keras.Model`. With the top: `(batch, height, width, 3)` -> `(batch, classes)`.

    Raises:
        ValueError: If an argument is out of range, or the weights do not fit the model.

    Example:

    >>> model = {variant.name}(weights=None, classes=10, input_shape=(64, 64, 3))
    >>> model.output_shape
    (None, 10)
    """
