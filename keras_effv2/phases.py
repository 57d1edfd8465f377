"""The phases of a training, planned: image size and regularisation grow together.

Tan & Le 2021, arXiv 2104.00298, section 4: training goes through phases; each has an image size and
regularisation strengths, interpolated from the first to the last.
"""

import dataclasses
import inspect
from collections.abc import Iterable

from keras_effv2.arguments import check_kind

Pair = tuple[float, float] | float  # first and last value, or one for all phases


def _scheduled(low, high, taker=None):
    """A field of `Phase` in [low, high), or None: not scheduled.

    The strength of a regulariser is taken by `"pictures"`, the field of that name of
    `augment.Augment`, or by `"layers"`, those with that name as their `strength`.
    """
    return dataclasses.field(default=None, metadata={"range": (low, high), "taker": taker})


@dataclasses.dataclass(frozen=True)
class Phase:
    """One period of training. None: not scheduled.

    A further regulariser is one more field here, and the layer or the field of `Augment` that
    takes it.

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
    image_size: int | None = _scheduled(1, 10_000)
    randaugment: float | None = _scheduled(0, 30.001, "pictures")
    mixup: float | None = _scheduled(0, 100, "pictures")
    cutmix: float | None = _scheduled(0, 100, "pictures")
    dropout: float | None = _scheduled(0, 1, "layers")
    drop_path: float | None = _scheduled(0, 1, "layers")
    batch_size: int | None = _scheduled(1, 1 << 20)


_FIELDS = {field.name: field.metadata for field in dataclasses.fields(Phase) if field.metadata}
STRENGTHS = tuple(name for name, field in _FIELDS.items() if field["taker"])
OF_LAYERS = tuple(name for name in STRENGTHS if _FIELDS[name]["taker"] == "layers")
_OF_PICTURES = tuple(name for name in STRENGTHS if _FIELDS[name]["taker"] == "pictures")


def ramp(
    epochs: int,
    phases: int = 4,
    *pairs: Pair | None,
    multiple_of: int = 1,
    **named_pairs: Pair | None,
) -> tuple[Phase, ...]:
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
        *pairs: `image_size` and what follows it, by position.
        **named_pairs: The same by name; what is left out is not scheduled.

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
    given = inspect.signature(ramp).bind(epochs, phases, *pairs, **named_pairs).arguments
    given = {name: given[name] for name in _FIELDS if given.get(name) is not None}
    given = {name: (v, v) if isinstance(v, (int, float)) else v for name, v in given.items()}
    for name, pair in given.items():
        low, high = _FIELDS[name]["range"]
        if len(pair) != 2 or not all(low <= value < high for value in pair):
            raise ValueError(
                f"`{name}` is a pair (first, last) of numbers in [{low}, {high}). Received: {pair}."
            )
    rows = []
    for i in range(phases):
        position = i / (phases - 1) if phases > 1 else 1.0
        values = {name: a + (b - a) * position for name, (a, b) in given.items()}
        if "image_size" in values:
            values["image_size"] = max(1, round(values["image_size"] / multiple_of)) * multiple_of
        if "batch_size" in values:
            values["batch_size"] = round(values["batch_size"])
        rows.append(Phase(i * epochs // phases, (i + 1) * epochs // phases, **values))
    return tuple(rows)


def _signature_of_ramp():
    """What is scheduled are the fields of `Phase`: they are the arguments of `ramp`."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first, second, _, multiple_of, _ = inspect.signature(ramp).parameters.values()
    pairs = [
        inspect.Parameter(name, kind, default=None, annotation=Pair | None) for name in _FIELDS
    ]
    return inspect.Signature(
        [first, second, *pairs, multiple_of], return_annotation=tuple[Phase, ...]
    )


ramp.__signature__ = _signature_of_ramp()  # type: ignore[attr-defined]


def check(phases):
    """Returns `phases` if they follow each other from epoch 0 and can be trained; else raises."""
    check_kind("phases", phases, Iterable, "rows of Phase, such as keras_effv2.ramp(...) gives")
    phases = tuple(phases)
    epoch = 0
    for phase in phases:
        if phase.start_epoch != epoch or phase.stop_epoch <= phase.start_epoch:
            raise ValueError(
                f"Phases follow each other without gaps: expected one that starts at epoch {epoch} "
                f"and has at least one epoch. Received: {phase}."
            )
        for name, field in _FIELDS.items():
            value, (low, high) = getattr(phase, name), field["range"]
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


def resolved(phases, image_size, batch_size):
    """The phases, each with a size and a batch size of its own.

    Args:
        phases: `Phase` rows.
        image_size: Side in pixels of phases that do not schedule it.
        batch_size: Global batch size of phases that do not schedule it.

    Returns:
        A tuple of `Phase`.

    Example:

    >>> [phase.image_size for phase in resolved([Phase(0, 1), Phase(1, 2, 64)], 32, 8)]
    [32, 64]
    """
    rows = []
    for phase in phases:
        own = {"image_size": phase.image_size, "batch_size": phase.batch_size}
        own = {name: value for name, value in own.items() if value is not None}
        rows.append(
            dataclasses.replace(
                phase, **{"image_size": image_size, "batch_size": batch_size, **own}
            )
        )
    return tuple(rows)


def of_pictures(phase):
    """Name -> strength of what changes the pictures: fields of `Augment`; 0 if not scheduled."""
    return {name: getattr(phase, name) or 0.0 for name in _OF_PICTURES}


def strengths(phase):
    """Name -> strength, or None, of a phase's regularisers."""
    return {name: getattr(phase, name) for name in STRENGTHS}
