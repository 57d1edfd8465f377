"""The papers' scaling rule: one network, made larger step by step, unevenly from step 4.

The steps are those of EfficientNet-V1 (google/automl `efficientnet_builder.py`,
`efficientnetv1_params`). The V2 paper says in words what it does beyond them (section 3.3: sizes up
to 480 pixels, more layers in later stages); the numbers here were inferred from its published rows:
B0 to B3 and L follow exactly, S, M and XL have hand-made columns, which `residuals` lists.
"""

import dataclasses
import math
import os

from keras_effv2.variants import efficientnet_v2
from keras_effv2.variants.files import find


@dataclasses.dataclass(frozen=True)
class Step:
    """How much wider and deeper than the base, and the image side in pixels for a base of 224."""

    width: float
    depth: float
    image_size: int
    dropout: float


STEPS = (
    Step(1.0, 1.0, 224, 0.2),  # B0
    Step(1.0, 1.1, 240, 0.2),  # B1
    Step(1.1, 1.2, 260, 0.3),  # B2
    Step(1.2, 1.4, 300, 0.3),  # B3
    Step(1.4, 1.8, 380, 0.2),  # S; from here on not everything grows alike
    Step(1.6, 2.2, 456, 0.3),  # M
    Step(1.8, 2.6, 528, 0.4),
    Step(2.0, 3.1, 600, 0.4),  # L
    Step(2.2, 3.6, 672, 0.4),
)
UNEVEN = 4  # the first step of the V2 paper's own additions
LARGEST_SIZE = 480


def scale(
    variant: str | os.PathLike | efficientnet_v2.Variant, step: int, from_step: int = 0
) -> efficientnet_v2.Variant:
    """Scales a network as the papers scaled theirs.

    Up to step 3 all stages, the stem and the top grow by one width and one depth (EfficientNet-V1's
    rule). From step 4 on the top stays, the stem is as wide as stage 1, and image sizes are
    multiples of 32 up to 480; from step 5 on the last stage but one has one more layer of the base
    and a new last stage of stride 1 follows, 5/3 as wide. That is stated in words by the paper and
    in numbers inferred from its rows.

    Args:
        variant: The base: a name, the file of a variant, or a `Variant` of EfficientNetV2's kind
            with any number of stages. The published rows grew from `"EfficientNetV2B0"`.
        step: 0 to 8. From B0, 1 to 3 are B1 to B3, 4 nearly S, 5 nearly M, 7 L.
        from_step: The step that the base has already; factors are then ratios to it, and what is
            added once is not added twice.

    Returns:
        A `Variant` named `NAME-stepN`, of the same blocks, kernels and expansions. Its image size
        grows in proportion to the base's. It has no weights.

    Raises:
        ValueError: If there is no such step, or the base is no EfficientNetV2 of two stages or more.

    Source:
        Tan & Le 2019, arXiv 1905.11946, and 2021, arXiv 2104.00298 section 3.3.

    Example:

    >>> [stage.repeats for stage in scale("EfficientNetV2B0", 7).stages]
    [4, 7, 7, 10, 19, 25, 7]
    """
    base = find(variant)
    if not isinstance(base, efficientnet_v2.Variant):
        raise ValueError(
            f"The scaling rule is that of EfficientNets; {base.name} is none. Take an EfficientNetV2 "
            "or a searched network."
        )
    for name, value in (("step", step), ("from_step", from_step)):
        if type(value) is not int or not 0 <= value < len(STEPS):
            raise ValueError(f"`{name}` is 0 to {len(STEPS) - 1}: {_known()}. Received: {value!r}.")
    if step < from_step:
        raise ValueError(
            f"`step` is at least `from_step`. Received: step={step}, from_step={from_step}."
        )
    added = step > UNEVEN >= from_step
    if added and len(base.stages) < 2:
        raise ValueError(
            f"From step {UNEVEN + 1} on the last stage but one grows, and {base.name} has one stage "
            f"alone. Take a step up to {UNEVEN}, or another base."
        )
    start, target = STEPS[from_step], STEPS[step]
    scaled = _scaled(
        base,
        target.width / start.width,
        target.depth / start.depth,
        uneven=step >= UNEVEN,
        added=added,
    )
    size = target.image_size * base.image_size / start.image_size
    size = round(size) if step < UNEVEN else min(LARGEST_SIZE, 32 * math.ceil(round(size / 32, 6)))
    return dataclasses.replace(
        scaled,
        name=f"{base.name}-step{step}",
        image_size=size if step > from_step else base.image_size,
        dropout=target.dropout,
        weights=None,
    )


def _scaled(base, width, depth, uneven, added):
    """The rows, stem and top of a base, multiplied; `added`: with the V2 paper's additions."""
    rows = list(base.stages)
    if added:
        last = rows[-1]
        rows[-2] = dataclasses.replace(rows[-2], repeats=rows[-2].repeats + 1)
        rows.append(dataclasses.replace(last, stride=1, repeats=2, channels=last.channels * 5 / 3))
    stages = tuple(
        dataclasses.replace(
            row,
            # the rounding takes away the dust of floats: 5 * 2.2 is 11.000000000000002
            repeats=math.ceil(round(row.repeats * depth, 6)),
            channels=_channels(row.channels * width),
        )
        for row in rows
    )
    return dataclasses.replace(
        base,
        stages=stages,
        stem=stages[0].channels if uneven else _channels(base.stem * width),
        top=base.top if uneven else _channels(base.top * width),
    )


def _channels(width):
    """The nearest multiple of 8, at least 8."""
    return max(8, int(width + 4) // 8 * 8)


def _known():
    return ", ".join(f"{i} (width {s.width}, depth {s.depth})" for i, s in enumerate(STEPS))


# ------------------------------------------------------------------------- beside published rows

# published -> width and depth over B0; XL is at no step
PUBLISHED = {
    **{f"EfficientNetV2{name}": i for i, name in enumerate(("B0", "B1", "B2", "B3", "S", "M"))},
    "EfficientNetV2L": 7,
}
XL = Step(2.0, 4.0, 672, 0.4)


def residuals(name):
    """What a published row has more than the rule gives it from B0, column by column.

    Args:
        name: `"EfficientNetV2B0"` to `"EfficientNetV2XL"`.

    Returns:
        A dictionary: `repeats` and `channels`, one number a stage, `stem`, `top`, `image_size` and
        `dropout`. All zeros: the row follows from the rule.

    Example:

    >>> residuals("EfficientNetV2M")["channels"]
    [0, 0, 0, 8, 0, 0, 0]
    """
    base, published = find("EfficientNetV2B0"), find(name)
    if name in PUBLISHED:
        rule = scale(base, PUBLISHED[name])
    else:
        rule = _scaled(base, XL.width, XL.depth, uneven=True, added=True)
        rule = dataclasses.replace(rule, image_size=LARGEST_SIZE, dropout=XL.dropout)
    pairs = list(zip(published.stages, rule.stages, strict=True))
    return {
        **{
            column: [getattr(ours, column) - getattr(theirs, column) for ours, theirs in pairs]
            for column in ("repeats", "channels")
        },
        "stem": published.stem - rule.stem,
        "top": published.top - rule.top,
        "image_size": published.image_size - rule.image_size,
        "dropout": round(published.dropout - rule.dropout, 6),
    }


def explain(variant, step, from_step=0):
    """How `scale` came to its rows, as text for people; arguments as those of `scale`."""
    base, scaled = find(variant), scale(variant, step, from_step)
    start, target = STEPS[from_step], STEPS[step]
    lines = [
        f"{base.name} at step {from_step} -> step {step}: width x {target.width / start.width:.3g}, "
        f"depth x {target.depth / start.depth:.3g}, {base.image_size} -> {scaled.image_size} px, "
        f"stem {base.stem} -> {scaled.stem}, top {base.top} -> {scaled.top}",
        f"{'stage':>5} {'block':<7} {'stride':>6} {'expansion':>9} {'kernel':>6} "
        f"{'repeats':>12} {'channels':>14}",
    ]
    for i, row in enumerate(scaled.stages):
        before = base.stages[i] if i < len(base.stages) else None
        repeats = f"{before.repeats} -> {row.repeats}" if before else f"new {row.repeats}"
        channels = f"{before.channels} -> {row.channels}" if before else f"new {row.channels}"
        lines.append(
            f"{i + 1:>5} {row.block:<7} {row.stride:>6} {row.expansion:>9} {row.kernel:>6} "
            f"{repeats:>12} {channels:>14}"
        )
    if step >= UNEVEN:
        lines.append(
            f"From step {UNEVEN} on the top stays, the stem is as wide as stage 1, sizes are "
            f"multiples of 32 up to {LARGEST_SIZE}; from step {UNEVEN + 1} on the last stage but "
            "one has a layer more and a last stage is new (inferred from the published rows)."
        )
    if from_step:
        lines.append("Scaled from another step than 0: the residuals below do not apply.")
    lines.append("Published rows less this rule from B0, zeros left out:")
    for name in (*PUBLISHED, "EfficientNetV2XL"):
        parts = [
            f"{column} {' '.join(map(str, value)) if isinstance(value, list) else value}"
            for column, value in residuals(name).items()
            if (any(value) if isinstance(value, list) else value)
        ]
        lines.append(f"  {name}: {'; '.join(parts) or 'exact'}")
    return "\n".join(lines)
