"""Counts parameters, multiply-adds and activations of any variant, without building it.

Multiply-adds are those of convolutions, matrix products and attention; elementwise work is not
counted (the paper's and google/automl's own figures include some of it). Activations are what a
compiler that fuses elementwise work keeps for the gradient: the inputs of convolutions, of matrix
products, of normalisations and of GELU, and what attention weighs.
"""

import dataclasses
import fnmatch
import math
import os

from keras_effv2.arguments import check_kind, check_number
from keras_effv2.variants import coatnet, coatnet_rw, efficientnet_v2, vit_rel
from keras_effv2.variants.application import Variant
from keras_effv2.variants.files import VARIANTS, find


@dataclasses.dataclass
class _Tally:
    """What has been counted so far: trainable and other parameters, multiply-adds, activations."""

    trainable: int = 0
    statistics: int = 0
    macs: int = 0
    activations: int = 0

    def conv(self, source, target, kernel, positions, bias=False, before=None):
        weights = kernel * kernel * source * target
        self.trainable += weights + target * bias
        self.macs += weights * positions
        self.activations += source * (before or positions)

    def depthwise(self, channels, kernel, positions, read):
        weights = kernel * kernel * channels
        self.trainable += weights
        self.macs += weights * positions
        self.activations += read

    def batch_norm(self, channels, positions):
        self.statistics += 2 * channels
        self.layer_norm(channels, positions)

    def layer_norm(self, channels, positions):
        self.trainable += 2 * channels
        self.activations += channels * positions

    def gelu(self, channels, positions):
        self.activations += channels * positions

    def attend(self, width, head_size, h, w):
        """Queries with keys, and attention with values; a table of biases."""
        n, heads = h * w, width // head_size
        self.macs += 2 * n * n * width
        self.trainable += heads * (2 * h - 1) * (2 * w - 1)
        # the logits are float32 and count twice
        self.activations += 3 * width * n + 3 * heads * n * n

    def squeeze_excite(self, channels, width):
        self.conv(channels, width, 1, 1, bias=True)
        self.conv(width, channels, 1, 1, bias=True)


def model_info(
    model: str | os.PathLike | Variant,
    image_size: int | tuple[int, int] | None = None,
    classes: int = 1000,
) -> dict:
    """Tells the size and the cost of a model without building it.

    Args:
        model: A name that `list_models()` lists, a `Variant`, or the path of a variant's file.
        image_size: Side in pixels, or `(height, width)`, at which multiply-adds are counted and
            CoAtNet's tables of biases are made. None: the variant's default size.
        classes: Outputs of the head.

    Returns:
        A dictionary: `name`, `image_size`, `parameters` (with batch statistics, as
        `model.count_params()`), `trainable_parameters`, `macs`, `activations`, `dropout`,
        `drop_path`, `pixels` and `stages`, a list with one dictionary a stage. `activations` are the
        numbers an image that training keeps for the gradient, in the type of the computation:
        two bytes each in bfloat16, four in float32.

    Raises:
        ValueError: If no model has that name, the file is no variant's, or a number is out of range.
        FileNotFoundError: If there is no such file.

    Example:

    >>> model_info("EfficientNetV2B0")["parameters"]
    7200312
    """
    variant = find(model)
    size = variant.image_size if image_size is None else image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    for side in (height, width):
        check_number("A side of `image_size`", side, 1, whole=True)
    check_number("`classes`", classes, 0, whole=True)
    tally = _Tally()
    _COUNTS[type(variant)](tally, variant, height, width, classes)
    return {
        "name": variant.name,
        "image_size": size,
        "parameters": tally.trainable + tally.statistics,
        "trainable_parameters": tally.trainable,
        "macs": tally.macs,
        "activations": tally.activations,
        "dropout": variant.dropout,
        "drop_path": variant.drop_path,
        "pixels": variant.pixels,
        "stages": [dataclasses.asdict(stage) for stage in variant.stages],
    }


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of all builders, or of those that a pattern fits.

    Args:
        pattern: As of file names, in any case: `*` stands for anything, `?` for one character.

    Returns:
        A list in the order of the tables; empty if none fits.

    Example:

    >>> len(list_models())
    26
    >>> list_models("*v2b?")
    ['EfficientNetV2B0', 'EfficientNetV2B1', 'EfficientNetV2B2', 'EfficientNetV2B3']
    """
    check_kind("pattern", pattern, str, "a pattern of names, such as '*v2b?'")
    return [name for name in VARIANTS if fnmatch.fnmatchcase(name.lower(), pattern.lower())]


def _halve(side, stride):
    return math.ceil(side / stride)


def _blocks(stages, height, width):
    """Of every block behind the stem its stage, positions of its input, height and width after it."""
    h, w = _halve(height, 2), _halve(width, 2)
    for stage in stages:
        for r in range(stage.repeats):
            before, stride = h * w, stage.stride if r == 0 else 1
            h, w = _halve(h, stride), _halve(w, stride)
            yield stage, before, h, w


def _efficientnet(tally, variant, height, width, classes):
    h, w = _halve(height, 2), _halve(width, 2)
    tally.conv(3, variant.stem, 3, h * w, before=height * width)
    tally.batch_norm(variant.stem, h * w)
    source = variant.stem
    for stage, before, h, w in _blocks(variant.stages, height, width):
        inner = source * stage.expansion
        if stage.block == "fused" and stage.expansion == 1:
            tally.conv(source, stage.channels, stage.kernel, h * w, before=before)
        elif stage.block == "fused":
            tally.conv(source, inner, stage.kernel, h * w, before=before)
            tally.batch_norm(inner, h * w)
            tally.conv(inner, stage.channels, 1, h * w)
        else:
            if stage.expansion != 1:
                tally.conv(source, inner, 1, before)
                tally.batch_norm(inner, before)
            tally.depthwise(inner, stage.kernel, h * w, inner * before)
            tally.batch_norm(inner, h * w)
            tally.squeeze_excite(inner, max(1, source // 4))
            tally.conv(inner, stage.channels, 1, h * w)
        tally.batch_norm(stage.channels, h * w)
        source = stage.channels
    tally.conv(source, variant.top, 1, h * w)
    tally.batch_norm(variant.top, h * w)
    tally.conv(variant.top, classes, 1, 1, bias=True)


def _coatnet(tally, variant, height, width, classes):
    h, w = _halve(height, 2), _halve(width, 2)
    tally.conv(3, variant.stem, 3, h * w, bias=True, before=height * width)
    tally.batch_norm(variant.stem, h * w)
    tally.gelu(variant.stem, h * w)
    tally.conv(variant.stem, variant.stem, 3, h * w, bias=True)
    source = variant.stem
    for stage, before, h, w in _blocks(variant.stages, height, width):
        target, n = stage.channels, h * w
        if source != target:
            tally.conv(source, target, 1, n, bias=True)
        if stage.block == "mbconv":
            inner, between = 4 * target, n if variant.stride_at == "expand" else before
            tally.batch_norm(source, before)
            tally.conv(source, inner, 1, between, before=before)
            tally.batch_norm(inner, between)
            tally.gelu(inner, between)
            tally.depthwise(inner, 3, n, inner * between)
            tally.batch_norm(inner, n)
            tally.gelu(inner, n)
            tally.squeeze_excite(inner, target // 4)
            tally.conv(inner, target, 1, n, bias=True)
        else:
            _transformer(tally, source, target, h, w, variant.head_size, before)
        source = target
    _hidden_head(tally, source, variant.hidden, classes)


def _transformer(tally, source, target, h, w, head_size, before):
    n = h * w
    tally.layer_norm(source, before)
    tally.conv(source, 3 * target, 1, n, bias=True)
    tally.attend(target, head_size, h, w)
    tally.conv(target, target, 1, n, bias=True)
    tally.layer_norm(target, n)
    _ffn(tally, target, n)


def _ffn(tally, channels, positions):
    tally.conv(channels, 4 * channels, 1, positions, bias=True)
    tally.gelu(4 * channels, positions)
    tally.conv(4 * channels, channels, 1, positions, bias=True)


def _hidden_head(tally, source, hidden, classes):
    tally.layer_norm(source, 1)
    tally.conv(source, hidden, 1, 1, bias=True)
    tally.conv(hidden, classes, 1, 1, bias=True)


def _vit_rel(tally, variant, height, width, classes):
    (stage,) = variant.stages
    h, w = _halve(height, vit_rel.PATCH), _halve(width, vit_rel.PATCH)
    tally.conv(3, stage.channels, vit_rel.PATCH, h * w, bias=True, before=height * width)
    for _ in range(stage.repeats):
        _transformer(tally, stage.channels, stage.channels, h, w, variant.head_size, h * w)
    _hidden_head(tally, stage.channels, variant.hidden, classes)


def _coatnet_rw(tally, variant, height, width, classes):
    h, w = _halve(height, 2), _halve(width, 2)
    tally.conv(3, variant.stem // 2, 3, h * w, before=height * width)
    if variant.stages[0].block == "convnext":
        tally.layer_norm(variant.stem // 2, h * w)
        tally.gelu(variant.stem // 2, h * w)
    else:
        tally.batch_norm(variant.stem // 2, h * w)
    tally.conv(variant.stem // 2, variant.stem, 3, h * w)
    norm = tally.batch_norm if variant.norm == "batch" else tally.layer_norm
    source = variant.stem
    for stage, before, h, w in _blocks(variant.stages, height, width):
        target, n, transforms = stage.channels, h * w, stage.block == "transformer"
        bias = variant.biases == "all" or (transforms and variant.biases == "transformer")
        if source != target:
            tally.conv(source, target, 1, n, bias=bias)
        if stage.block == "mbconv":
            inner, between = 4 * source, n if variant.stride_at == "pool" else before
            tally.batch_norm(source, before)
            tally.conv(source, inner, 1, between)
            tally.batch_norm(inner, between)
            tally.depthwise(inner, 3, n, inner * between)
            tally.batch_norm(inner, n)
            tally.squeeze_excite(inner, source)
            tally.conv(inner, target, 1, n, bias=bias)
        elif transforms:
            norm(source, before)
            tally.conv(source, 3 * source, 1, n, bias=True)
            tally.attend(source, coatnet_rw.HEAD_SIZE, h, w)
            tally.conv(source, target, 1, n, bias=True)
        else:
            tally.depthwise(target, 7, n, source * before)
            tally.trainable += target  # its bias
        if stage.block != "mbconv":
            norm(target, n)
            _ffn(tally, target, n)
        source = target
    norm(source, h * w)
    tally.conv(source, classes, 1, 1, bias=True)


_COUNTS = {
    efficientnet_v2.Variant: _efficientnet,
    coatnet.Variant: _coatnet,
    coatnet_rw.Variant: _coatnet_rw,
    vit_rel.Variant: _vit_rel,
}
