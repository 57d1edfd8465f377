"""The rows of CoAtNet-0..7; `models.coatnet` builds them.

Dai et al. 2021, arXiv 2106.04803, tables 3 and 4. What the paper leaves open follows the only
choices that give its parameter counts.
"""

import dataclasses

from keras_effv2.variants import application

BLOCKS = ("mbconv", "transformer")
CHOICES = {"stride_at": ("expand", "depthwise"), "gelu": ("gelu", "gelu_tanh")}
HALVINGS = 4  # stages of stride 2; with the stem they make five levels of features


@dataclasses.dataclass(frozen=True)
class Stage:
    """One column of the paper's table 3 (and 4 for CoAtNet-6 and -7)."""

    block: str  # one of `BLOCKS`
    repeats: int
    stride: int  # of the first block; the rest use 1
    channels: int


@dataclasses.dataclass(frozen=True)
class Variant(application.Variant):
    """A row of the table: `application.Variant` and what only CoAtNet has."""

    stages: tuple[Stage, ...] = ()
    stem: int = 64
    head_size: int = 32  # channels of one attention head
    stride_at: str = "expand"  # the 1x1 convolution, equation 5; or "depthwise", table 9
    gelu: str = "gelu_tanh"  # or "gelu", the exact one; the paper does not say

    def __post_init__(self):
        application.check_choices(self, CHOICES)


def _variant(
    number, stem, head_size, drop_path, repeats, channels, blocks="CCTT", strides=(2,) * 4
):
    kinds = {"C": "mbconv", "T": "transformer"}
    return Variant(
        name=f"CoAtNet{number}",
        image_size=224,
        dropout=0.0,
        drop_path=drop_path,
        hidden=channels[-1],
        stages=tuple(
            Stage(kinds[b], n, s, c) for b, n, s, c in zip(blocks, repeats, strides, channels)
        ),
        stem=stem,
        head_size=head_size,
    )


# CoAtNet-6 and -7 move two thirds of stage 2 behind the next stride, at twice the width; the
# attention that follows starts at 1/16 already and only widens.
_WIDE = {"blocks": "CCCTT", "strides": (2, 2, 2, 1, 2)}

# fmt: off
VARIANTS = {
    variant.name: variant
    for variant in (
        # N  stem head drop_path, table 10   repeats          channels
        _variant(0, 64, 32, 0.2, (2, 3, 5, 2), (96, 192, 384, 768)),
        _variant(1, 64, 32, 0.3, (2, 6, 14, 2), (96, 192, 384, 768)),
        _variant(2, 128, 32, 0.5, (2, 6, 14, 2), (128, 256, 512, 1024)),
        _variant(3, 192, 32, 0.7, (2, 6, 14, 2), (192, 384, 768, 1536)),
        _variant(4, 192, 32, 0.7, (2, 12, 28, 2), (192, 384, 768, 1536)),  # of 21k pretraining
        _variant(5, 192, 64, 0.2, (2, 12, 28, 2), (256, 512, 1280, 2048)),  # of JFT fine-tuning
        # The paper prints 2048 for the last stage of CoAtNet-6, which gives 1.35B parameters;
        # 3072, as in CoAtNet-7, gives the 1.47B it prints. drop_path of 6 and 7 is not published.
        _variant(6, 192, 128, 0.2, (2, 4, 8, 42, 2), (192, 384, 768, 1536, 3072), **_WIDE),
        _variant(7, 192, 128, 0.2, (2, 4, 8, 42, 2), (256, 512, 1024, 2048, 3072), **_WIDE),
    )
}
# fmt: on
