"""Counts parameters and multiply-adds of any variant by arithmetic, without building it.

Multiply-adds are those of convolutions, matrix products and attention; elementwise work is not
counted (the paper's and google/automl's own figures include some of it).
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
    """What has been counted so far: trainable and other parameters, and multiply-adds."""

    trainable: int = 0
    statistics: int = 0
    macs: int = 0

    def conv(self, source, target, kernel, positions, bias=False):
        weights = kernel * kernel * source * target
        self.trainable += weights + target * bias
        self.macs += weights * positions

    def depthwise(self, channels, kernel, positions):
        weights = kernel * kernel * channels
        self.trainable += weights
        self.macs += weights * positions

    def batch_norm(self, channels):
        self.trainable += 2 * channels
        self.statistics += 2 * channels

    def layer_norm(self, channels):
        self.trainable += 2 * channels

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
        `model.count_params()`), `trainable_parameters`, `macs`, `dropout`, `drop_path`, `pixels`
        and `stages`, a list with one dictionary a stage.

    Raises:
        ValueError: If no model has that name, or the file is no variant's.
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


def _efficientnet(tally, variant, height, width, classes):
    h, w = _halve(height, 2), _halve(width, 2)
    tally.conv(3, variant.stem, 3, h * w)
    tally.batch_norm(variant.stem)
    source = variant.stem
    for stage in variant.stages:
        for r in range(stage.repeats):
            stride = stage.stride if r == 0 else 1
            before = h * w
            h, w = _halve(h, stride), _halve(w, stride)
            inner = source * stage.expansion
            if stage.block == "fused" and stage.expansion == 1:
                tally.conv(source, stage.channels, stage.kernel, h * w)
            elif stage.block == "fused":
                tally.conv(source, inner, stage.kernel, h * w)
                tally.batch_norm(inner)
                tally.conv(inner, stage.channels, 1, h * w)
            else:
                if stage.expansion != 1:
                    tally.conv(source, inner, 1, before)
                    tally.batch_norm(inner)
                tally.depthwise(inner, stage.kernel, h * w)
                tally.batch_norm(inner)
                tally.squeeze_excite(inner, max(1, source // 4))
                tally.conv(inner, stage.channels, 1, h * w)
            tally.batch_norm(stage.channels)
            source = stage.channels
    tally.conv(source, variant.top, 1, h * w)
    tally.batch_norm(variant.top)
    tally.conv(variant.top, classes, 1, 1, bias=True)


def _coatnet(tally, variant, height, width, classes):
    h, w = _halve(height, 2), _halve(width, 2)
    tally.conv(3, variant.stem, 3, h * w, bias=True)
    tally.batch_norm(variant.stem)
    tally.conv(variant.stem, variant.stem, 3, h * w, bias=True)
    source = variant.stem
    for stage in variant.stages:
        target = stage.channels
        for r in range(stage.repeats):
            stride = stage.stride if r == 0 else 1
            before = h * w
            h, w = _halve(h, stride), _halve(w, stride)
            n = h * w
            if source != target:
                tally.conv(source, target, 1, n, bias=True)
            if stage.block == "mbconv":
                inner = 4 * target
                tally.batch_norm(source)
                tally.conv(source, inner, 1, n if variant.stride_at == "expand" else before)
                tally.batch_norm(inner)
                tally.depthwise(inner, 3, n)
                tally.batch_norm(inner)
                tally.squeeze_excite(inner, target // 4)
                tally.conv(inner, target, 1, n, bias=True)
            else:
                _transformer(tally, source, target, h, w, variant.head_size)
            source = target
    _hidden_head(tally, source, variant.hidden, classes)


def _transformer(tally, source, target, h, w, head_size):
    n = h * w
    tally.layer_norm(source)
    tally.conv(source, 3 * target, 1, n, bias=True)
    tally.macs += 2 * n * n * target  # queries with keys, attention with values
    tally.trainable += target // head_size * (2 * h - 1) * (2 * w - 1)
    tally.conv(target, target, 1, n, bias=True)
    tally.layer_norm(target)
    tally.conv(target, 4 * target, 1, n, bias=True)
    tally.conv(4 * target, target, 1, n, bias=True)


def _hidden_head(tally, source, hidden, classes):
    tally.layer_norm(source)
    tally.conv(source, hidden, 1, 1, bias=True)
    tally.conv(hidden, classes, 1, 1, bias=True)


def _vit_rel(tally, variant, height, width, classes):
    (stage,) = variant.stages
    h, w = _halve(height, vit_rel.PATCH), _halve(width, vit_rel.PATCH)
    tally.conv(3, stage.channels, vit_rel.PATCH, h * w, bias=True)
    for _ in range(stage.repeats):
        _transformer(tally, stage.channels, stage.channels, h, w, variant.head_size)
    _hidden_head(tally, stage.channels, variant.hidden, classes)


def _coatnet_rw(tally, variant, height, width, classes):
    h, w = _halve(height, 2), _halve(width, 2)
    tally.conv(3, variant.stem // 2, 3, h * w)
    convnext = variant.stages[0].block == "convnext"
    (tally.layer_norm if convnext else tally.batch_norm)(variant.stem // 2)
    tally.conv(variant.stem // 2, variant.stem, 3, h * w)
    norm = tally.batch_norm if variant.norm == "batch" else tally.layer_norm
    source = variant.stem
    for stage in variant.stages:
        target, transforms = stage.channels, stage.block == "transformer"
        bias = variant.biases == "all" or (transforms and variant.biases == "transformer")
        for r in range(stage.repeats):
            before = h * w
            if r == 0:
                h, w = _halve(h, stage.stride), _halve(w, stage.stride)
            n = h * w
            if source != target:
                tally.conv(source, target, 1, n, bias=bias)
            if stage.block == "mbconv":
                inner = 4 * source
                tally.batch_norm(source)
                tally.conv(source, inner, 1, n if variant.stride_at == "pool" else before)
                tally.batch_norm(inner)
                tally.depthwise(inner, 3, n)
                tally.batch_norm(inner)
                tally.squeeze_excite(inner, source)
                tally.conv(inner, target, 1, n, bias=bias)
            elif transforms:
                norm(source)
                tally.conv(source, 3 * source, 1, n, bias=True)
                tally.macs += 2 * n * n * source  # queries with keys, attention with values
                tally.trainable += source // coatnet_rw.HEAD_SIZE * (2 * h - 1) * (2 * w - 1)
                tally.conv(source, target, 1, n, bias=True)
            else:
                tally.depthwise(target, 7, n)
                tally.trainable += target  # its bias
            if stage.block != "mbconv":
                norm(target)
                tally.conv(target, 4 * target, 1, n, bias=True)
                tally.conv(4 * target, target, 1, n, bias=True)
            source = target
    norm(source)
    tally.conv(source, classes, 1, 1, bias=True)


_COUNTS = {
    efficientnet_v2.Variant: _efficientnet,
    coatnet.Variant: _coatnet,
    coatnet_rw.Variant: _coatnet_rw,
    vit_rel.Variant: _vit_rel,
}
