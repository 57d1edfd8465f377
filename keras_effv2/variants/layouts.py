"""The layouts that the CoAtNet paper compares: where convolution ends and attention begins."""

import dataclasses

from keras_effv2.arguments import check_kind
from keras_effv2.variants import coatnet, vit_rel
from keras_effv2.variants.files import find
from keras_effv2.variants.info import model_info

LAYOUTS = ("ViT_REL", "CCCC", "CCCT", "CCTT", "CTTT")  # section 2.2; CCTT became CoAtNet
_KINDS = {"C": "mbconv", "T": "transformer"}


def layout(letters, base="CoAtNet0", repeats=None, channels=None):
    """The row of a layout, about as large as its base.

    Args:
        letters: Four of `C` (MBConv) and `T` (relative attention) for stages 1 to 4, such as
            `"CTTT"`: the first is C, no C after a T. Or `"ViT_REL"`: patches of 16 pixels and one
            stage of attention.
        base: A CoAtNet of four stages: its name, file or `Variant`.
        repeats: Blocks of every stage, four numbers (for ViT_REL one). None: the base's, those of
            stage 3 (of ViT_REL all) so that the parameters come closest to the base's.
        channels: Width of every stage, four numbers (for ViT_REL one). None: the base's (for
            ViT_REL that of its stage 3).

    Returns:
        A `Variant` named `BASE-LETTERS`, for `coatnet.build` (`vit_rel.build`) and
        `models.builder`.

    Raises:
        ValueError: If the letters are no layout, the base has not four stages, or `repeats` or
            `channels` have not as many numbers as the layout has stages.

    Source:
        Dai et al. 2021, arXiv 2106.04803, section 2.2. It says that the models it compares are of
        similar size and computation; which widths and repeats, it does not say.

    Example:

    >>> [stage.repeats for stage in layout("CCCC").stages]
    [2, 3, 8, 2]
    """
    check_kind("letters", letters, str, "a layout, such as 'CCTT'")
    base = find(base)
    if type(base) is not coatnet.Variant or len(base.stages) != 4:
        raise ValueError(
            f"`base` is a CoAtNet of four stages, CoAtNet0 to CoAtNet5. Received: {base.name}."
        )
    staged = len(letters) == 4 and set(letters) <= set(_KINDS)
    if letters != "ViT_REL" and (not staged or letters[0] != "C" or "TC" in letters):
        raise ValueError(
            f"A layout is ViT_REL, or C and T for four stages, a C first and no C after a T: "
            f"{', '.join(LAYOUTS[1:])}. Received: {letters!r}."
        )
    make, own = (_vit_rel, base.stages[2:3]) if letters == "ViT_REL" else (_staged, base.stages)
    channels = tuple(stage.channels for stage in own) if channels is None else tuple(channels)
    for name, given in (("channels", channels), ("repeats", repeats)):
        if given is not None and len(given) != len(own):
            raise ValueError(
                f"`{name}` has a number a stage, {len(own)} for {letters}. Received: {given}."
            )
    if repeats is None:
        repeats = _matched(make, letters, base, channels)
    return make(letters, base, tuple(repeats), channels)


def _staged(letters, base, repeats, channels):
    stages = tuple(
        dataclasses.replace(stage, block=_KINDS[letter], repeats=n, channels=c)
        for stage, letter, n, c in zip(base.stages, letters, repeats, channels, strict=True)
    )
    name = f"{base.name}-{letters}"
    return dataclasses.replace(base, name=name, stages=stages, hidden=channels[-1], weights=None)


def _vit_rel(letters, base, repeats, channels):
    return vit_rel.Variant(
        name=f"{base.name}-{letters}",
        image_size=base.image_size,
        dropout=base.dropout,
        drop_path=base.drop_path,
        pixels=base.pixels,
        hidden=channels[-1],
        stages=(coatnet.Stage("transformer", repeats[0], 1, channels[0]),),
        head_size=base.head_size,
        gelu=base.gelu,
    )


def _matched(make, letters, base, channels):
    """The repeats with which the layout has about as many parameters as its base."""
    own = tuple(stage.repeats for stage in base.stages)
    wanted = model_info(base)["trainable_parameters"]
    candidates = [
        (n,) if make is _vit_rel else (*own[:2], n, own[3]) for n in range(1, 4 * sum(own))
    ]

    def distance(repeats):
        row = make(letters, base, repeats, channels)
        return abs(model_info(row)["trainable_parameters"] - wanted)

    return min(candidates, key=distance)
