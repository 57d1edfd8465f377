"""The rows of EfficientNetV2-B0..XL; `models.efficientnet_v2` builds them.

Tan & Le 2021, arXiv 2104.00298. The numbers are those of google/automl,
`efficientnetv2/effnetv2_configs.py`, which differ from the paper's table 4 in places.
"""

import dataclasses

from keras_effv2.variants import application

BLOCKS = ("fused", "mbconv")
CHOICES: dict[str, tuple[str, ...]] = {}  # it has no other columns of words
HALVINGS = 4  # stages of stride 2; with the stem they make five levels of features


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of the paper's table 4. The first block has the stride."""

    block: str  # one of `BLOCKS`
    repeats: int
    stride: int
    expansion: int  # inner channels / input channels
    channels: int  # output
    kernel: int = 3  # side of the spatial convolution; the published networks have 3 everywhere


@dataclasses.dataclass(frozen=True)
class Variant(application.Variant):
    """A row of the table: `application.Variant` and what only EfficientNetV2 has."""

    stages: tuple[Stage, ...] = ()
    stem: int = 24
    top: int = 1280


def _stages(repeats, channels):
    """The rows of a variant: only repeats and channels differ between variants."""
    kinds = (  # block, stride, expansion
        ("fused", 1, 1),
        ("fused", 2, 4),
        ("fused", 2, 4),
        ("mbconv", 2, 4),
        ("mbconv", 1, 6),
        ("mbconv", 2, 6),
        ("mbconv", 1, 6),
    )
    return tuple(
        Stage(block, n, stride, expansion, c)
        for (block, stride, expansion), n, c in zip(kinds, repeats, channels)
    )


def _variant(size, image_size, dropout, stem, top, repeats, channels, pixels, weights="imagenet"):
    return Variant(
        name=f"EfficientNetV2{size}",
        image_size=image_size,
        dropout=dropout,
        pixels=pixels,
        weights=weights,
        stages=_stages(repeats, channels),
        stem=stem,
        top=top,
    )


# fmt: off
VARIANTS = {
    variant.name: variant
    for variant in (
        # size  px  dropout stem top   repeats of stages 1..7      channels of stages 1..7
        _variant("B0", 224, 0.2, 32, 1280, (1, 2, 2, 3, 5, 8), (16, 32, 48, 96, 112, 192), "imagenet"),
        _variant("B1", 240, 0.2, 32, 1280, (2, 3, 3, 4, 6, 9), (16, 32, 48, 96, 112, 192), "imagenet"),
        _variant("B2", 260, 0.3, 32, 1408, (2, 3, 3, 4, 6, 10), (16, 32, 56, 104, 120, 208), "imagenet"),
        _variant("B3", 300, 0.3, 40, 1536, (2, 3, 3, 5, 7, 12), (16, 40, 56, 112, 136, 232), "imagenet"),
        _variant("S", 384, 0.2, 24, 1280, (2, 4, 4, 6, 9, 15), (24, 48, 64, 128, 160, 256), "128"),
        _variant("M", 480, 0.3, 24, 1280, (3, 5, 5, 7, 14, 18, 5), (24, 48, 80, 160, 176, 304, 512), "128"),
        _variant("L", 480, 0.4, 32, 1280, (4, 7, 7, 10, 19, 25, 7), (32, 64, 96, 192, 224, 384, 640), "128"),
        _variant("XL", 512, 0.4, 32, 1280, (4, 8, 8, 16, 24, 32, 8), (32, 64, 96, 192, 256, 512, 640), "128",
                 weights="imagenet21k-ft1k"),
    )
}
# fmt: on
