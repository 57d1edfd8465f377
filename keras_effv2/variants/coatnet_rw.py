"""The rows of the CoAtNets that have trained weights; `models.coatnet_rw` builds them.

Networks of Ross Wightman's ("rw"), trained and published with timm under Apache-2.0
(`timm/models/maxxvit.py`). No number in a name means a CoAtNet of the paper.
"""

import dataclasses

from keras_effv2.variants import application
from keras_effv2.variants.coatnet import Stage

BLOCKS = ("mbconv", "convnext", "transformer")
HALVINGS = 4  # stages of stride 2; with the stem they make five levels of features
HEAD_SIZE = 32  # channels of one attention head
CHOICES = {
    "stride_at": ("pool", "depthwise"),
    "excite": ("early", "late"),
    "excite_activation": ("relu", "silu"),
    "biases": ("none", "transformer", "all"),
    "pool": ("mean", "max"),
    "norm": ("layer", "batch"),
}


@dataclasses.dataclass(frozen=True)
class Variant(application.Variant):
    """A row of the table: `application.Variant` and what changed from training to training."""

    stages: tuple[Stage, ...] = ()
    stem: int = 64  # of its second convolution; the first is half as wide
    stride_at: str = "depthwise"  # or "pool", a mean pooling before the first convolution
    pre_activation: bool = True  # behind the first norm of an MBConv block
    excite: str = "late"  # behind the inner norm and activation; or "early", before them
    excite_activation: str = "silu"
    biases: str = "transformer"  # which blocks' 1x1 convolutions out of and around them have one
    pool: str = "mean"  # of 2x2, on shortcuts and before attention; or "max", of 3x3
    norm: str = "layer"  # in transformer blocks and at the end; or "batch"

    def __post_init__(self):
        application.check_choices(self, CHOICES)


def _variant(name, repeats, channels, drop_path, blocks="CCTT", weights="imagenet", **columns):
    kinds = {"C": "mbconv", "N": "convnext", "T": "transformer"}
    stages = (Stage(kinds[b], n, 2, c) for b, n, c in zip(blocks, repeats, channels))
    columns = {"pixels": "127.5", "stem": channels[0], **columns}
    return Variant(name, 224, 0.0, drop_path, weights=weights, stages=tuple(stages), **columns)


_NANO, _BASE = (64, 128, 256, 512), (96, 192, 384, 768)
_LARGE, _HUGE = (128, 256, 512, 1024), (192, 384, 768, 1536)
_PLAIN = {"pre_activation": False, "biases": "all"}
_FIRST = {"excite": "early", "excite_activation": "relu", "biases": "none", "stem": 64}

# timm publishes no drop_path: those of the paper's models of the same size.
# fmt: off
VARIANTS = {
    variant.name: variant
    for variant in (
        _variant("CoAtNetNanoRW", (3, 4, 6, 3), _NANO, 0.1, **_PLAIN, stride_at="pool"),
        _variant("CoAtNetNanoRW2", (3, 4, 6, 3), _NANO, 0.1, **_PLAIN),  # timm: rmlp_nano_rw
        _variant("CoAtNeXtNanoRW", (3, 4, 6, 3), _NANO, 0.1, "NNTT", biases="all"),
        _variant("CoAtNet0RW", (2, 3, 7, 2), _BASE, 0.2, **_FIRST, stride_at="pool"),
        _variant("CoAtNet0RWBN", (2, 3, 7, 2), _BASE, 0.2, **_FIRST, norm="batch", pixels="imagenet"),
        _variant("CoAtNet1RW", (2, 6, 14, 2), _BASE, 0.3, **_FIRST),
        _variant("CoAtNet1RWMax", (2, 6, 14, 2), _BASE, 0.3, **_FIRST, stride_at="pool", pool="max"),
        _variant("CoAtNet1RW2", (2, 6, 14, 2), _BASE, 0.3, weights="imagenet12k-ft1k", stem=64,
                 excite_activation="relu"),
        _variant("CoAtNet2RW", (2, 6, 14, 2), _LARGE, 0.3, weights="imagenet12k-ft1k"),
        _variant("CoAtNet3RW", (2, 6, 14, 2), _HUGE, 0.5, weights="imagenet12k"),
    )
}
# fmt: on
