"""The phases of a training, planned: image size and regularisation grow together.

Tan & Le 2021, arXiv 2104.00298, section 4: training goes through phases; each has an image size and
regularisation strengths, interpolated from the first to the last.
"""

import dataclasses

STRENGTHS = ("randaugment", "mixup", "cutmix", "dropout", "drop_path")


@dataclasses.dataclass(frozen=True)
class Phase:
    """One period of training. None: not scheduled.

    Attributes:
        start_epoch: First epoch of the phase, from 0.
        stop_epoch: First epoch after it.
        image_size: Side of the training images in pixels.
        randaugment: Magnitude of RandAugment, 0..30.
        mixup: Concentration of mixup's Beta distribution; 0 is off.
        cutmix: The same of CutMix.
        dropout: Probability of dropping a feature before the classifier, in [0, 1).
        drop_path: Probability of dropping the deepest residual branch, in [0, 1).
        batch_size: Global batch size.
    """

    start_epoch: int
    stop_epoch: int
    image_size: int | None = None
    randaugment: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    dropout: float | None = None
    drop_path: float | None = None
    batch_size: int | None = None


def ramp(
    epochs,
    phases=4,
    image_size=None,
    randaugment=None,
    mixup=None,
    cutmix=None,
    dropout=None,
    drop_path=None,
    batch_size=None,
    multiple_of=1,
):
    """Plans a training: algorithm 1 of the paper.

    Args:
        epochs: Epochs of the whole training, at least `phases`.
        phases: Number of phases, at least 1; a single phase takes the last values.
        image_size: `(first, last)` side in pixels, both included; or one number for all phases.
        randaugment: `(first, last)` magnitude, 0..30.
        mixup: `(first, last)`, 0 or more.
        cutmix: `(first, last)`, 0 or more.
        dropout: `(first, last)`, in [0, 1).
        drop_path: `(first, last)`, in [0, 1).
        batch_size: `(first, last)` global batch size.
        multiple_of: Image sizes are rounded to multiples of this; CoAtNet needs 32.

    Returns:
        A tuple of `Phase`.

    Raises:
        ValueError: If a value is out of range.

    Example:

    >>> [phase.image_size for phase in ramp(8, 4, image_size=(128, 300))]
    [128, 185, 243, 300]
    """
    if multiple_of < 1:
        raise ValueError(f"`multiple_of` is 1 or more. Received: {multiple_of}.")
    if phases < 1 or epochs < phases:
        raise ValueError(
            f"A training of {epochs} epochs cannot have {phases} phases: give at least one epoch "
            "a phase, and at least one phase."
        )
    pairs = {
        "image_size": image_size,
        "randaugment": randaugment,
        "mixup": mixup,
        "cutmix": cutmix,
        "dropout": dropout,
        "drop_path": drop_path,
        "batch_size": batch_size,
    }
    pairs = {
        k: (v, v) if isinstance(v, (int, float)) else v for k, v in pairs.items() if v is not None
    }
    for name, pair in pairs.items():
        low, high = _RANGES[name]
        if len(pair) != 2 or not all(low <= value < high for value in pair):
            raise ValueError(
                f"`{name}` is a pair (first, last) of numbers in [{low}, {high}). Received: {pair}."
            )
    rows = []
    for i in range(phases):
        position = i / (phases - 1) if phases > 1 else 1.0
        values = {name: a + (b - a) * position for name, (a, b) in pairs.items()}
        if "image_size" in values:
            values["image_size"] = max(1, round(values["image_size"] / multiple_of)) * multiple_of
        if "batch_size" in values:
            values["batch_size"] = round(values["batch_size"])
        rows.append(Phase(i * epochs // phases, (i + 1) * epochs // phases, **values))
    return tuple(rows)


_RANGES = {
    "image_size": (1, 10_000),
    "randaugment": (0, 30.001),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "dropout": (0, 1),
    "drop_path": (0, 1),
    "batch_size": (1, 1 << 20),
}


def check(phases):
    """Returns `phases` if they follow each other from epoch 0 and can be trained; else raises."""
    phases = tuple(phases)
    epoch = 0
    for phase in phases:
        if phase.start_epoch != epoch or phase.stop_epoch <= phase.start_epoch:
            raise ValueError(
                f"Phases follow each other without gaps: expected one that starts at epoch {epoch} "
                f"and has at least one epoch. Received: {phase}."
            )
        for name, (low, high) in _RANGES.items():
            value = getattr(phase, name)
            if value is not None and not low <= value < high:
                raise ValueError(
                    f"`{name}` of a phase is in [{low}, {high}), or None. Received: {phase}."
                )
        epoch = phase.stop_epoch
    if not phases:
        raise ValueError("There are no phases: make them with keras_effv2.ramp(...).")
    return phases


def phase_at(phases, epoch):
    """The phase that an epoch belongs to; the last for epochs after the end."""
    return next((phase for phase in phases if epoch < phase.stop_epoch), phases[-1])
