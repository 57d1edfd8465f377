"""Training recipes as rows, each with its source."""

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping

from keras_effv2.arguments import check_number
from keras_effv2.phases import Phase, check, of_pictures, ramp
from keras_effv2.phases import resolved as resolved_phases
from keras_effv2.variants import efficientnet_v2, find
from keras_effv2.variants.application import Variant


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training configuration; `dataclasses.replace` varies it.

    Attributes:
        name: Name of the row.
        source: Where the numbers come from.
        epochs: Length of the training.
        batch_size: Global batch, over all replicas.
        learning_rate: Peak, for this batch size.
        optimizer: `"rmsprop"`, `"adamw"` or `"sgd"` (Nesterov momentum 0.9).
        schedule: `"cosine"`, `"linear"`, `"staircase"` or `"constant"`, after a linear warm-up.
        warmup_epochs: Length of the warm-up, may be a fraction.
        min_learning_rate: Where cosine and linear end.
        decay_rate: Factor of the staircase.
        decay_epochs: Length of a stair.
        weight_decay: Of matrices and kernels only. With RMSProp it is added to the loss as
            `weight_decay / 2 * sum(w**2)`, with AdamW and SGD it is decoupled.
        label_smoothing: In [0, 1).
        loss: `"softmax"` or `"sigmoid"` cross-entropy.
        class_weight: How much a picture of each class counts: `"none"`: all alike; `"auto"`: the
            classes alike, however many pictures each has; or a mapping from names of classes to
            weights above 0, of others 1. The loss takes the logarithms of the weights off the logits
            (Menon et al. 2020, arXiv 2007.07314), which helps the few where weights in the loss do
            not: what is learnt by heart has no loss to weigh. Only with `loss="softmax"`.
        accumulate: Parts of a batch that are computed one after the other, each with its own batch
            statistics; their gradients are added up before the weights move. A batch of which one
            device holds a quarter takes 4. A batch is a multiple of it (times the replicas).
        ema: Decay of the moving average of all weights, or 0 for none.
        clip: Largest global norm of the gradients, or 0 for no clipping.
        precision: `"float32"`, `"mixed_bfloat16"`, `"mixed_float16"`, which scales the loss, or
            `"auto"`: `train` times a step in each and takes the fastest; the run keeps it.
        phases: Rows of `ramp`; empty for one phase at the model's size.
        eval_size: Side in pixels at which the model is evaluated; 0: that of the last phase.
        crop_area: Smallest and largest part of a picture that the random crop takes.
        crop: How pictures are cut for evaluation, `"none"` or `"automl"` (see `layers.Pixels`).
        flip: Whether to mirror half of the pictures; not for digits or letters.
        layers: RandAugment operations a picture.
        autoaugment: Whether AutoAugment's policy is applied.
        erasing: Probability of random erasing.
        cutout: Half side of cutout as a part of the image side.
        seed: Of order, augmentation and dropout.
        patience: Epochs without a better validation loss after which training ends, and the best
            weights seen are kept, those of the start included if their loss is a tenth below that of
            guessing; 0: never, and the last are kept.
        checkpoint_steps: Optimizer steps between checkpoints; 0: at the end of every epoch.
    """

    name: str
    source: str
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    min_learning_rate: float = 0.0
    decay_rate: float = 0.97
    decay_epochs: float = 2.4
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    loss: str = "softmax"
    class_weight: str | Mapping[str, float] = "none"
    accumulate: int = 1
    ema: float = 0.0
    clip: float = 0.0
    precision: str = "float32"
    phases: tuple[Phase, ...] = ()
    eval_size: int = 0
    crop_area: tuple[float, float] = (0.05, 1.0)
    crop: str = "none"
    flip: bool = True
    layers: int = 2
    autoaugment: bool = False
    erasing: float = 0.0
    cutout: float = 0.0
    seed: int = 0
    patience: int = 0
    checkpoint_steps: int = 0

    def __post_init__(self):
        for field, known in _CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"`{field}` of a recipe is one of {', '.join(known)}. Received: "
                    f"{getattr(self, field)!r}."
                )
        for field, (low, high) in _LIMITS.items():
            whole = self.__dataclass_fields__[field].type is int
            check_number(f"`{field}` of a recipe", getattr(self, field), low, high, whole)
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"`crop_area` of a recipe is (low, high) in (0, 1]. Received: {self.crop_area}."
            )
        check_class_weight(self.class_weight, self.loss)
        if self.phases and check(self.phases)[-1].stop_epoch != self.epochs:
            raise ValueError(
                f"The phases end at epoch {self.phases[-1].stop_epoch}, the recipe has "
                f"{self.epochs} epochs. Make both the same, ramp({self.epochs}, ...)."
            )


def check_class_weight(class_weight, loss="softmax"):
    """Refuses what is no setting of `Recipe.class_weight`."""
    if isinstance(class_weight, Mapping):
        for name, weight in class_weight.items():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not (isinstance(name, str) and number and 0 < weight < math.inf):
                raise ValueError(
                    "`class_weight` maps names of classes to finite weights above 0. Received: "
                    f"{name!r}: {weight!r}."
                )
    elif class_weight not in ("none", "auto"):
        raise ValueError(
            "`class_weight` is 'none', 'auto' or a mapping from names of classes to weights, such "
            f"as {{'daisy': 2.0}}. Received: {class_weight!r}."
        )
    if class_weight != "none" and loss != "softmax":
        raise ValueError(
            f"`class_weight` goes with loss='softmax'. Received loss={loss!r}: with it each label has "
            "a threshold of its own, so leave class_weight='none'."
        )


_CHOICES = {
    "optimizer": ("rmsprop", "adamw", "sgd"),
    "schedule": ("cosine", "linear", "staircase", "constant"),
    "loss": ("softmax", "sigmoid"),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16", "auto"),
    "crop": ("none", "automl"),
}
_LIMITS = {
    "epochs": (1, 1 << 20),
    "batch_size": (1, 1 << 20),
    "accumulate": (1, 1 << 20),
    "learning_rate": (0, 1e3),
    "label_smoothing": (0, 1),
    "ema": (0, 1),
    "clip": (0, 1e6),
    "weight_decay": (0, 10),
    "warmup_epochs": (0, 1 << 20),
    "seed": (0, 1 << 32),
    "patience": (0, 1 << 20),
    "checkpoint_steps": (0, 1 << 40),
    "layers": (0, 100),
    "erasing": (0, 1.001),
    "cutout": (0, 1.001),
    "min_learning_rate": (0, 1e3),
    "decay_rate": (0, 1.001),
    "decay_epochs": (0, 1 << 20),
    "eval_size": (0, 10_000),
}


# ----------------------------------------------------------------------------------------- rows

_PAPER = "arXiv 2104.00298"
_AUTOML = "google/automl efficientnetv2"
_COATNET = "arXiv 2106.04803, table 10"

# last values of the ramp: image size, RandAugment, mixup, dropout
_PAPER_RAMP = {  # table 6
    "EfficientNetV2S": (300, 15, 0.0, 0.3),
    "EfficientNetV2M": (380, 20, 0.2, 0.4),
    "EfficientNetV2L": (380, 25, 0.5, 0.5),
}
# google/automl hparams: train size, RandAugment, mixup = CutMix, dropout (not scheduled there)
_AUTOML_RAMP = {
    "EfficientNetV2S": (300, 10, 0.0, 0.2),
    "EfficientNetV2M": (384, 15, 0.2, 0.3),
    "EfficientNetV2L": (384, 20, 0.5, 0.4),
    "EfficientNetV2XL": (384, 20, 0.5, 0.4),
}
_SMALL = {"EfficientNetV2B0": 192, "EfficientNetV2B1": 192, "EfficientNetV2B2": 208}
_SMALL["EfficientNetV2B3"] = 240
# stochastic depth of CoAtNet 0..5: 1k, 21k, JFT pretraining, fine-tuning after JFT
_COATNET_1K = {"CoAtNet0": 0.2, "CoAtNet1": 0.3, "CoAtNet2": 0.5, "CoAtNet3": 0.7}
_COATNET_21K = {"CoAtNet2": 0.3, "CoAtNet3": 0.5, "CoAtNet4": 0.7}
_COATNET_JFT = {"CoAtNet3": 0.0, "CoAtNet4": 0.1, "CoAtNet5": 0.0}
_COATNET_JFT_FT = {"CoAtNet3": 0.1, "CoAtNet4": 0.3, "CoAtNet5": 0.2}
# timm's CoAtNets, whose own training was not published, and the paper's of their size
_LIKE = {
    **dict.fromkeys(("CoAtNet0RW", "CoAtNet0RWBN"), "CoAtNet0"),
    **dict.fromkeys(("CoAtNet1RW", "CoAtNet1RWMax", "CoAtNet1RW2"), "CoAtNet1"),
    "CoAtNet2RW": "CoAtNet2",
    "CoAtNet3RW": "CoAtNet3",
}
for _strengths in (_COATNET_1K, _COATNET_21K):
    _strengths |= {rw: _strengths[like] for rw, like in _LIKE.items() if like in _strengths}

_V2_1K = Recipe(
    "imagenet1k",
    f"{_PAPER} section 5.1 and table 6",
    epochs=350,
    batch_size=4096,
    learning_rate=0.256,
    optimizer="rmsprop",
    schedule="staircase",
    warmup_epochs=5,
    weight_decay=1e-5,
    label_smoothing=0.1,
    ema=0.9999,
    precision="mixed_bfloat16",
)
_COATNET_BASE = Recipe(
    "imagenet1k",
    _COATNET,
    epochs=300,
    batch_size=4096,
    learning_rate=1e-3,
    min_learning_rate=1e-5,
    warmup_epochs=32,  # 10,000 steps
    weight_decay=0.05,
    label_smoothing=0.1,
    clip=1.0,
    precision="mixed_bfloat16",
    crop="automl",
)


def _imagenet1k(variant):
    if variant.name in _PAPER_RAMP:
        size, randaugment, mixup, dropout = _PAPER_RAMP[variant.name]
        phases = ramp(
            350,
            4,
            image_size=(128, size),
            randaugment=(5, randaugment),
            mixup=(0, mixup),
            dropout=(0.1, dropout),
        )
        return dataclasses.replace(_V2_1K, phases=phases, eval_size=variant.image_size)
    if variant.name in _SMALL:  # the paper trains small models without progressive learning
        phases = (Phase(0, 350, image_size=_SMALL[variant.name]),)
        return dataclasses.replace(
            _V2_1K,
            phases=phases,
            eval_size=variant.image_size,
            crop_area=(0.08, 1.0),
            crop="automl",
            autoaugment=True,
        )
    if variant.name in _COATNET_1K:
        phases = ramp(
            300, 1, image_size=224, randaugment=15, mixup=0.8, drop_path=_COATNET_1K[variant.name]
        )
        return dataclasses.replace(_COATNET_BASE, phases=phases)
    return None


def _imagenet1k_automl(variant):
    if variant.name not in _AUTOML_RAMP:
        return None
    size, randaugment, mixing, dropout = _AUTOML_RAMP[variant.name]
    # its sizes grow from 128 but leave the first step out: 128 + (size - 128) * (i + 1) / 4
    first = 128 + (size - 128) // 4
    phases = ramp(
        350,
        4,
        image_size=(first, size),
        randaugment=(5, randaugment),
        mixup=(0, mixing),
        cutmix=(0, mixing),
        dropout=dropout,
    )
    return dataclasses.replace(
        _V2_1K,
        source=f"{_AUTOML} main.py",
        phases=phases,
        eval_size=variant.image_size,
    )


def _imagenet21k(variant):
    if variant.name in _COATNET_21K:
        phases = ramp(90, 1, image_size=224, drop_path=_COATNET_21K[variant.name])
        return dataclasses.replace(
            _COATNET_BASE,
            epochs=90,
            schedule="linear",
            warmup_epochs=5,
            weight_decay=0.01,
            label_smoothing=1e-4,
            loss="sigmoid",
            phases=phases,
        )
    if not isinstance(variant, efficientnet_v2.Variant):
        return None
    return dataclasses.replace(
        _V2_1K,
        source=f"{_PAPER} section 5.2; {_AUTOML} datasets.py",
        epochs=60,
        learning_rate=0.128,
        schedule="cosine",
        warmup_epochs=1,
        label_smoothing=0.0,
        loss="softmax",
        crop="automl",  # as google/automl evaluates below 320 pixels
        phases=(Phase(0, 60, image_size=224, dropout=0.0, drop_path=0.0),),
    )


_COATNET_FT = dataclasses.replace(
    _COATNET_BASE,
    epochs=30,
    batch_size=512,
    learning_rate=5e-5,
    min_learning_rate=0.0,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=1e-8,
    ema=0.9999,
    crop="none",
)


def _imagenet1k_ft(variant):
    """CoAtNet at 384 pixels after training at 224."""
    if variant.name not in _COATNET_1K:
        return None
    randaugment = 20 if _LIKE.get(variant.name, variant.name) == "CoAtNet3" else 15
    phases = ramp(
        30,
        1,
        image_size=384,
        randaugment=randaugment,
        mixup=0.8,
        drop_path=_COATNET_1K[variant.name],
    )
    return dataclasses.replace(_COATNET_FT, phases=phases)


def _imagenet21k_ft1k(variant):
    if variant.name in _COATNET_21K:
        randaugment = {"randaugment": 5} if variant.name == "CoAtNet4" else {}
        phases = ramp(30, 1, image_size=384, drop_path=_COATNET_21K[variant.name], **randaugment)
        return dataclasses.replace(_COATNET_FT, batch_size=1024, phases=phases)
    if not isinstance(variant, efficientnet_v2.Variant):
        return None
    return dataclasses.replace(
        _V2_1K,
        source=f"{_PAPER} section 5.2; {_AUTOML} datasets.py imagenetFt",
        epochs=15,
        batch_size=512,
        learning_rate=0.001,
        schedule="constant",
        warmup_epochs=1,
        ema=0.9996,
        cutout=0.25,
        crop_area=(1.0, 1.0),
        # at the size of evaluation, rounded down
        phases=(Phase(0, 15, image_size=variant.image_size // 16 * 16, dropout=0.0),),
    )


def _jft_ft1k(variant):
    if variant.name not in _COATNET_JFT_FT:
        return None
    phases = ramp(30, 1, image_size=384, randaugment=5, drop_path=_COATNET_JFT_FT[variant.name])
    return dataclasses.replace(_COATNET_FT, phases=phases)


def _jft(variant):
    if variant.name not in _COATNET_JFT:
        return None
    return dataclasses.replace(
        _COATNET_BASE,
        epochs=14,
        learning_rate=1e-3 if variant.name == "CoAtNet3" else 5e-4,
        schedule="linear",
        warmup_epochs=0.27,  # 20,000 steps of 73,242 an epoch
        weight_decay=0.01,
        label_smoothing=1e-4,
        loss="sigmoid",
        phases=ramp(14, 1, image_size=224, randaugment=5, drop_path=_COATNET_JFT[variant.name]),
    )


def _transfer(epochs):
    """The paper's transfer: batch 512, cosine from 0.001, 10,000 steps, no decay, cutout.

    Pictures that are held out make it fewer steps; the crop is milder than ImageNet's.
    """

    def row(variant):
        return Recipe(
            "transfer",
            f"{_PAPER} section 5.3; epochs make about 10,000 steps",
            epochs=epochs,
            batch_size=512,
            learning_rate=0.001,
            optimizer="rmsprop",
            ema=0.9996,
            label_smoothing=0.1,
            cutout=0.25,
            crop_area=(0.25, 1.0),
            precision="mixed_bfloat16",
        )

    return row


def _finetune(variant):
    """For somebody's folder: as `finetuning.plan` has it for 1,800 photos on a CPU, as measured."""
    return Recipe(
        "finetune",
        "measured by this project: docs/measured.md",
        epochs=11,
        batch_size=32,
        learning_rate=5e-4,
        warmup_epochs=0.5,
        weight_decay=0.02,
        label_smoothing=0.1,
        class_weight="auto",
        ema=0.99,
        crop_area=(0.5, 1.0),
        patience=4,
        phases=ramp(11, 4, image_size=(128, 224), randaugment=(0, 5), multiple_of=32),
    )


def _digits(variant):
    return Recipe(
        "digits",
        "measured by this project: `make demo`",
        epochs=20,
        batch_size=32,
        learning_rate=1e-3,
        warmup_epochs=2,
        weight_decay=0.05,
        ema=0.98,
        clip=1.0,
        crop_area=(0.7, 1.0),
        flip=False,
        phases=ramp(
            20,
            4,
            image_size=(32, 56),
            dropout=(0.0, 0.2),
            drop_path=(0.0, 0.1),
            multiple_of=32 if not isinstance(variant, efficientnet_v2.Variant) else 1,
        ),
    )


def _search(variant):
    """The same for every network of a search: short, without phases, without an average."""
    return Recipe(
        "search",
        "measured by this project: docs/search.md",
        epochs=10,
        batch_size=64,
        learning_rate=4e-3,
        warmup_epochs=0.5,
        weight_decay=0.02,
        clip=1.0,
        crop_area=(0.6, 1.0),
    )


RECIPES = {
    "imagenet1k": _imagenet1k,
    "imagenet1k-automl": _imagenet1k_automl,
    "imagenet21k": _imagenet21k,
    "imagenet21k-ft1k": _imagenet21k_ft1k,
    "imagenet1k-ft": _imagenet1k_ft,
    "jft": _jft,
    "jft-ft1k": _jft_ft1k,
    "cifar10": _transfer(104),  # 97 steps an epoch of 50,000 images
    "cifar100": _transfer(104),
    "flowers": _transfer(3334),  # 3 of 2,040, TFDS' train and validation
    "cars": _transfer(667),  # 15 of 8,144
    "finetune": _finetune,
    "digits": _digits,
    "search": _search,
}


def get(name: str, model: str | os.PathLike | Variant = "EfficientNetV2S") -> Recipe:
    """Returns a recipe.

    Args:
        name: One of `RECIPES`.
        model: Its name, the file of a variant, or a `Variant`; image sizes and strengths depend on
            it. A network that was not published has the recipes that fit any.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If there is no such recipe or model, or none for this model.

    Example:

    >>> [p.image_size for p in get("imagenet1k", "EfficientNetV2S").phases]
    [128, 185, 243, 300]
    """
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}. Recipes: {', '.join(RECIPES)}.")
    variant = find(model)
    recipe = RECIPES[name](variant)
    if recipe is None:
        those = ", ".join(other for other, row in RECIPES.items() if row(variant))
        raise ValueError(
            f"No recipe {name!r} was published for {variant.name}. Its recipes: {those}."
        )
    if recipe.source == _COATNET and variant.name in _LIKE:
        recipe = dataclasses.replace(recipe, source=f"{_COATNET}, for {_LIKE[variant.name]}")
    return dataclasses.replace(recipe, name=name)


def resolved(recipe, image_size):
    """The recipe with phases, one at least, that say size and batch size themselves.

    Args:
        recipe: A `Recipe`.
        image_size: Side in pixels of phases that do not schedule it.

    Example:

    >>> resolved(get("cifar10"), 224).phases
    (Phase(start_epoch=0, stop_epoch=104, image_size=224, ..., batch_size=512),)
    """
    phases = recipe.phases or (Phase(0, recipe.epochs),)
    phases = resolved_phases(phases, image_size, recipe.batch_size)
    return dataclasses.replace(recipe, phases=phases)


def rescale(recipe, changes):
    """The recipe with other values; its phases keep their parts of the training.

    Args:
        recipe: A `Recipe`.
        changes: Field -> value; without `epochs` the recipe's own stay. Not `phases`.

    Returns:
        A `Recipe`; with fewer epochs than phases, it has the last of them.

    Raises:
        ValueError: If a value is out of range.

    Example:

    >>> short = rescale(get("imagenet1k", "EfficientNetV2S"), {"epochs": 8})
    >>> [(phase.start_epoch, phase.image_size) for phase in short.phases]
    [(0, 128), (2, 185), (4, 243), (6, 300)]
    """
    epochs = changes.get("epochs", recipe.epochs)
    check_number("`epochs` of a recipe", epochs, *_LIMITS["epochs"], whole=True)
    rows = recipe.phases[-epochs:]
    phases = tuple(
        dataclasses.replace(row, start_epoch=start, stop_epoch=stop)
        for row, (start, stop) in zip(rows, _bounds(rows, epochs), strict=True)
    )
    return dataclasses.replace(recipe, phases=phases, **changes)


def _bounds(rows, epochs):
    """First and last epochs of phases that keep their parts of a training, each one at least."""
    whole = sum(row.stop_epoch - row.start_epoch for row in rows)
    stops, done = [], 0
    for i, row in enumerate(rows):
        done += row.stop_epoch - row.start_epoch
        least = stops[-1] + 1 if stops else 1
        stops.append(min(max(least, round(done * epochs / whole)), epochs - len(rows) + i + 1))
    return list(itertools.pairwise([0, *stops]))


def augment_of(recipe, phase):
    """The `Augment` of a phase of a recipe."""
    from keras_effv2.augment import Augment

    return Augment(
        **of_pictures(phase),
        crop_area=recipe.crop_area,
        flip=recipe.flip,
        layers=recipe.layers,
        autoaugment=recipe.autoaugment,
        erasing=recipe.erasing,
        cutout=recipe.cutout,
    )
