"""The table of released checkpoints."""

import dataclasses

from keras_effv2.arguments import check_kind


@dataclasses.dataclass(frozen=True)
class Row:
    """One released checkpoint.

    Attributes:
        model: Name of the builder.
        tag: What `weights=` takes.
        classes: Outputs of its head.
        pixels: The pixel contract it was trained with.
        activation: Activation its head was trained with.
        url: Where it is.
        url_notop: The same without the head, where there is one.
        hash: `"md5:..."`, or None: no hash was published, the first download's is kept.
        hash_notop: As `hash`.
        top1: Published ImageNet-1k accuracy in per cent, or None.
        source: Who released it.
        repository: `"owner/name"` on the Hugging Face hub, for files that are there.
        image_size: Side in pixels at which it is evaluated; None: the model's.
        crop: How pictures are cut for evaluation, see `layers.Pixels`; None: as `pixels` has it.
        resize: How they are resized; None: as `pixels` has it.
    """

    model: str
    tag: str
    classes: int
    pixels: str
    activation: str
    url: str
    hash: str | None = None
    url_notop: str | None = None
    hash_notop: str | None = None
    top1: float | None = None
    source: str = "google/automl, Apache-2.0"
    repository: str | None = None
    image_size: int | None = None
    crop: str | float | None = None
    resize: str | None = None

    @property
    def released_name(self) -> str:
        """What a file is called, or a folder that holds it, from which its contract is known."""
        if self.repository:
            return self.repository.rsplit("/", 1)[-1]
        return self.url.rsplit("/", 1)[-1].rsplit(".", 1)[0]


STORAGE = "https://storage.googleapis.com/"
_KERAS = STORAGE + "tensorflow/keras-applications/efficientnet_v2/efficientnetv2-"
_AUTOML = STORAGE + "cloud-tpu-checkpoints/efficientnet/v2/efficientnetv2-"

_MD5 = {  # keras/src/applications/efficientnet_v2.py: with top, without
    "b0": ("21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff"),
    "b1": ("069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37"),
    "b2": ("424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "b3": ("1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856"),
    "s": ("e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070"),
    "m": ("a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342"),
    "l": ("27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615"),
}
# google/automl README: trained on ImageNet-1k; pretrained on 21k, fine-tuned on 1k
_TOP1 = {"b0": 78.7, "b1": 79.8, "b2": 80.5, "b3": 82.1, "s": 83.9, "m": 85.2, "l": 85.7}
_TOP1_FT = {"s": 84.9, "m": 86.2, "l": 86.9, "xl": 87.2}


def _rows():
    for size in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl"):
        model = f"EfficientNetV2{size.upper()}"
        pixels = "imagenet" if size.startswith("b") else "128"
        if size in _MD5:
            top, notop = _MD5[size]
            yield Row(
                model,
                "imagenet",
                1000,
                pixels,
                "softmax",
                f"{_KERAS}{size}.h5",
                f"md5:{top}",
                f"{_KERAS}{size}_notop.h5",
                f"md5:{notop}",
                _TOP1[size],
                "keras.applications, Apache-2.0",
            )
            yield Row(
                model,
                "imagenet-automl",
                1000,
                pixels,
                "softmax",
                f"{_AUTOML}{size}.tgz",
                top1=_TOP1[size],
            )
        yield Row(model, "imagenet21k", 21843, "128", "sigmoid", f"{_AUTOML}{size}-21k.tgz")
        yield Row(
            model,
            "imagenet21k-ft1k",
            1000,
            "127.5",
            "softmax",
            f"{_AUTOML}{size}-21k-ft1k.tgz",
            top1=_TOP1_FT.get(size),
        )


# timm `models/maxxvit.py`: name and tag there, ImageNet top 1 of timm's results file, crop, side
# fmt: off
_TIMM = (
    ("CoAtNetNanoRW", "imagenet", "coatnet_nano_rw_224.sw_in1k", 81.70, 0.90, 224),
    ("CoAtNetNanoRW2", "imagenet", "coatnet_rmlp_nano_rw_224.sw_in1k", 82.06, 0.90, 224),
    ("CoAtNeXtNanoRW", "imagenet", "coatnext_nano_rw_224.sw_in1k", 82.00, 0.90, 224),
    ("CoAtNet0RW", "imagenet", "coatnet_0_rw_224.sw_in1k", 82.40, 0.95, 224),
    ("CoAtNet0RWBN", "imagenet", "coatnet_bn_0_rw_224.sw_in1k", 82.39, 0.95, 224),
    ("CoAtNet1RW", "imagenet", "coatnet_1_rw_224.sw_in1k", 83.62, 0.95, 224),
    ("CoAtNet1RWMax", "imagenet", "coatnet_rmlp_1_rw_224.sw_in1k", 83.35, 0.95, 224),
    ("CoAtNet1RW2", "imagenet12k", "coatnet_rmlp_1_rw2_224.sw_in12k", None, 0.95, 224),
    ("CoAtNet1RW2", "imagenet12k-ft1k", "coatnet_rmlp_1_rw2_224.sw_in12k_ft_in1k", 84.94, 0.95, 224),
    ("CoAtNet2RW", "imagenet12k", "coatnet_2_rw_224.sw_in12k", None, 0.95, 224),
    ("CoAtNet2RW", "imagenet12k-ft1k", "coatnet_2_rw_224.sw_in12k_ft_in1k", 86.58, 0.95, 224),
    ("CoAtNet2RW", "imagenet-rmlp", "coatnet_rmlp_2_rw_224.sw_in1k", 84.61, 0.95, 224),
    ("CoAtNet2RW", "imagenet12k-rmlp", "coatnet_rmlp_2_rw_224.sw_in12k", None, 0.95, 224),
    ("CoAtNet2RW", "imagenet12k-ft1k-rmlp", "coatnet_rmlp_2_rw_224.sw_in12k_ft_in1k", 86.54, 0.95, 224),
    ("CoAtNet2RW", "imagenet12k-ft1k-rmlp-384", "coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k", 87.39, "none", 384),
    ("CoAtNet3RW", "imagenet12k", "coatnet_3_rw_224.sw_in12k", None, 0.95, 224),
)
# fmt: on


def _timm_rows():
    for model, tag, name, top1, crop, image_size in _TIMM:
        yield Row(
            model,
            tag,
            11821 if name.endswith("in12k") else 1000,
            "imagenet" if model == "CoAtNet0RWBN" else "127.5",
            "softmax",
            f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
            top1=top1,
            source="timm, Ross Wightman, Apache-2.0",
            repository=f"timm/{name}",
            image_size=image_size,
            crop=crop,
            resize="pillow-bicubic",
        )


CHECKPOINTS = {(row.model, row.tag): row for row in (*_rows(), *_timm_rows())}


def list_weights(model: str) -> list[Row]:
    """Lists the released weights of a model.

    Args:
        model: Name of a builder, such as `"EfficientNetV2S"`.

    Returns:
        A list of `Row`; empty for CoAtNet-0 to 7, of which no weights were ever released.

    Example:

    >>> [row.tag for row in list_weights("EfficientNetV2XL")]
    ['imagenet21k', 'imagenet21k-ft1k']
    """
    check_kind("model", model, str, "the name of a builder")
    return [row for (name, _), row in CHECKPOINTS.items() if name == model]
