"""What a search may draw: for each stage a kind of block, layers, a kernel and an expansion.

The stages of a network are chosen one by one and all blocks of a stage are alike (Tan & Le 2021,
arXiv 2104.00298, section 3.3). Widths, strides, stem and top belong to the space. The paper does not
print its spaces: these are not they, only of the same kind.
"""

import dataclasses
import hashlib
import itertools
import json
import math

from keras_effv2 import files
from keras_effv2.errors import first_line
from keras_effv2.variants import model_info
from keras_effv2.variants.efficientnet_v2 import BLOCKS, Stage, Variant

SMALLEST_IMAGE = 64  # below, the last stages see maps of one pixel, on which kernels mean nothing


@dataclasses.dataclass(frozen=True)
class Space:
    """Networks to draw from; checked when it is made.

    Attributes:
        name: Of the space.
        channels: Width of every stage.
        strides: 1 or 2 for every stage, four of them 2.
        stem: Width of the stem.
        top: Width of the last convolution.
        layers: For every stage the numbers of layers to choose from; the last stage may have 0 of
            them: it is left out.
        image_size: Side in pixels, 64 or more.
        baseline: Rows of the network that drawn ones are compared with: its step takes 1.
        blocks: Kinds to choose from, out of `"fused"` and `"mbconv"`.
        kernels: Sides to choose from, odd.
        expansions: Factors to choose from.
        origin: Rows of a second network that the last comparison includes; none: `()`.

    Raises:
        ValueError: If it could draw a network that cannot be built; says what is wrong.

    Example:

    >>> SPACES["tiny"].count()
    7962624
    """

    name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stem: int
    top: int
    layers: tuple[tuple[int, ...], ...]
    image_size: int
    baseline: tuple[Stage, ...]
    blocks: tuple[str, ...] = BLOCKS
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[int, ...] = (1, 4, 6)
    origin: tuple[Stage, ...] = ()

    def __post_init__(self):
        problem = _problem(self)
        if problem:
            raise ValueError(f"The space {self.name!r} cannot be searched: {problem}.")

    def parameters(self):
        """What is drawn: `{"stage1_block": ("fused", "mbconv"), "stage1_layers": (1, 2), ...}`."""
        drawn = {}
        for i, layers in enumerate(self.layers, start=1):
            drawn[f"stage{i}_block"] = self.blocks
            drawn[f"stage{i}_layers"] = layers
            drawn[f"stage{i}_kernel"] = self.kernels
            drawn[f"stage{i}_expansion"] = self.expansions
        return drawn

    def count(self):
        """How many different networks there are; a stage without layers counts once."""
        kinds = len(self.blocks) * len(self.kernels) * len(self.expansions)
        return math.prod(
            sum(kinds if layers else 1 for layers in choices) for choices in self.layers
        )

    def networks(self):
        """All networks, one after the other, as rows; for spaces of a few stages."""
        kinds = list(itertools.product(self.blocks, self.kernels, self.expansions))
        stages = []
        for i, choices in enumerate(self.layers):
            stages.append([])
            for layers in choices:
                for block, kernel, expansion in kinds if layers else kinds[:1]:
                    stages[-1].append(self._stage(i, block, layers, kernel, expansion))
        for rows in itertools.product(*stages):
            yield tuple(row for row in rows if row.repeats)

    def draw(self, random):
        """One value for every parameter, uniformly; `random` is a `numpy.random.Generator`."""
        return {
            name: choices[int(random.integers(len(choices)))]
            for name, choices in self.parameters().items()
        }

    def rows(self, values):
        """The rows of a network, from the values of all parameters; stages of 0 layers left out."""
        keys = ("block", "layers", "kernel", "expansion")
        rows = tuple(
            self._stage(i, *(values[f"stage{i + 1}_{key}"] for key in keys))
            for i in range(len(self.layers))
        )
        return tuple(row for row in rows if row.repeats)

    def values(self, rows):
        """The parameters that give these rows; None if the space does not have them."""
        values = {name: choices[0] for name, choices in self.parameters().items()}
        if len(rows) < len(self.layers):
            values[f"stage{len(self.layers)}_layers"] = 0
        for i, row in enumerate(rows[: len(self.layers)], start=1):
            values[f"stage{i}_block"], values[f"stage{i}_layers"] = row.block, row.repeats
            values[f"stage{i}_kernel"], values[f"stage{i}_expansion"] = row.kernel, row.expansion
        allowed = all(values[name] in choices for name, choices in self.parameters().items())
        return values if allowed and self.rows(values) == tuple(rows) else None

    def variant(self, rows):
        """The network of some rows. It is named by a hash of what it consists of."""
        content = [[dataclasses.astuple(row) for row in rows], self.stem, self.top]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
        return Variant(
            name=f"search-{digest}",
            image_size=self.image_size,
            stages=tuple(rows),
            stem=self.stem,
            top=self.top,
        )

    def _stage(self, i, block, layers, kernel, expansion):
        return Stage(block, layers, self.strides[i], expansion, self.channels[i], kernel)


def find(space):
    """A space by its name or its `.json` file; a `Space` is returned as it is."""
    if isinstance(space, Space):
        return space
    if str(space).endswith(".json"):
        return _read(files.place(space, "The file of a space"))
    if space not in SPACES:
        raise ValueError(
            f"There is no space {space!r}. Spaces: {', '.join(SPACES)}; or give a "
            "keras_effv2.space.Space or a .json file of your own."
        )
    return SPACES[space]


def _read(place):
    """The space in a file: a dictionary of the attributes of `Space`, rows of stages as dictionaries."""
    if not place.exists():
        raise FileNotFoundError(f"There is no file {place} of a space.")
    try:
        columns = {key: _tuple(value) for key, value in json.loads(place.read_bytes()).items()}
        rows = {key: columns.pop(key, ()) for key in ("baseline", "origin")}
        rows = {key: tuple(Stage(**row) for row in value) for key, value in rows.items()}
        return Space(**columns, **rows)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place} is no space: {first_line(error)}. Write it as docs/search.md says."
        ) from error


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def too_large(variant, baseline, classes, max_parameters, max_macs):
    """Why a network is over the cap, or None; counted by arithmetic, nothing is built.

    Args:
        variant: The network.
        baseline: The network it is compared with.
        classes: Outputs of both heads.
        max_parameters: Largest number of trainable parameters, in those of the baseline.
        max_macs: Largest number of multiply-adds, in those of the baseline.
    """
    ours, theirs = (model_info(row, classes=classes) for row in (variant, baseline))
    for key, cap in (("trainable_parameters", max_parameters), ("macs", max_macs)):
        ratio = ours[key] / theirs[key]
        if ratio > cap:
            return f"{key.replace('_', ' ')} are {ratio:.2f} times the baseline's, over {cap:g}"
    return None


def _problem(space):
    """What is wrong with a space, or None."""
    stages = len(space.channels)
    if not len(space.strides) == len(space.layers) == stages:
        return (
            f"`channels`, `strides` and `layers` have one entry a stage; they have {stages}, "
            f"{len(space.strides)} and {len(space.layers)}"
        )
    for name in ("channels", "strides", "kernels", "expansions"):
        if not all(_whole(value) for value in getattr(space, name)):
            return f"`{name}` are whole numbers from 1; received {getattr(space, name)}"
    for name in ("stem", "top", "image_size"):
        if not _whole(getattr(space, name)):
            return f"`{name}` is a whole number from 1; received {getattr(space, name)!r}"
    if set(space.strides) - {1, 2} or space.strides.count(2) != 4:
        return f"strides are 1 or 2 and exactly four are 2; received {space.strides}"
    if space.image_size < SMALLEST_IMAGE:
        return (
            f"`image_size` is {SMALLEST_IMAGE} or more, small pictures are scaled up; received "
            f"{space.image_size}"
        )
    for i, choices in enumerate(space.layers, start=1):
        least = 0 if i == stages and space.strides[-1] == 1 else 1
        if not choices or not all(_whole(value, least) for value in choices):
            return (
                f"stage {i} chooses its layers from whole numbers from {least} (0 is for a last "
                f"stage of stride 1); received {choices!r}"
            )
    for name, known in (("blocks", BLOCKS), ("kernels", (1, 3, 5, 7, 9))):
        if set(getattr(space, name)) - set(known):
            return f"`{name}` are out of {known}; received {getattr(space, name)}"
    for choices in (space.blocks, space.kernels, space.expansions, *space.layers):
        if not choices or len(set(choices)) != len(choices):
            return f"every choice is offered once; received {choices!r}"
    for name in ("baseline", "origin"):
        rows = getattr(space, name)
        if (rows or name == "baseline") and [row.stride for row in rows].count(2) != 4:
            return f"`{name}` is a network, rows of Stage with four strides of 2; received {rows!r}"
    return None


def _whole(value, least=1):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# -------------------------------------------------------------------------------------- presets

_V2 = tuple(  # block, expansion, kernel
    ("fused" if i < 3 else "mbconv", expansion, 3)
    for i, expansion in enumerate((1, 4, 4, 4, 6, 6, 6))
)
_V1 = tuple(("mbconv", e, k) for e, k in zip((1, 6, 6, 6, 6, 6, 6), (3, 3, 5, 3, 5, 5, 3)))
# without the second fused stage and the second at 1/16
_V2_OF_5 = (*_V2[:2], *_V2[3:6])
_V1_OF_5 = (*_V1[:4], _V1[5])


def _rows(kinds, repeats, channels, strides):
    return tuple(
        Stage(block, n, stride, expansion, c, kernel)
        for (block, expansion, kernel), n, c, stride in zip(kinds, repeats, channels, strides)
        if n
    )


def _space(name, channels, strides, stem, top, layers, image_size, baseline, origin):
    """A preset: `baseline` and `origin` are kinds of blocks and layers of every stage."""
    return Space(
        name,
        channels,
        strides,
        stem,
        top,
        layers,
        image_size,
        baseline=_rows(*baseline, channels, strides),
        origin=_rows(*origin, channels, strides),
    )


def _to(first, last):
    return tuple(range(first, last + 1))


# fmt: off
SPACES = {
    space.name: space
    for space in (
        # name, channels, strides, stem, top, layers, image size, EfficientNetV2's kinds and
        # EfficientNet-V1's, from which the paper's search began
        _space("tiny", (16, 24, 40, 64, 96), (1, 2, 2, 2, 2), 16, 256, (_to(1, 2),) * 5, 64,
               (_V2_OF_5, (1, 2, 2, 2, 2)), (_V1_OF_5, (1, 2, 2, 2, 2))),
        _space("small", (8, 16, 24, 48, 56, 96), (1, 2, 2, 2, 1, 2), 16, 256,
               (_to(1, 2),) * 3 + (_to(1, 3),) * 3, 64,
               (_V2, (1, 2, 2, 2, 3, 3)), (_V1, (1, 2, 2, 2, 3, 3))),
        # B0's widths and EfficientNet-V1's seventh stage
        _space("b0", (16, 32, 48, 96, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1), 32, 1280,
               (_to(1, 2), _to(1, 3), _to(1, 3), _to(2, 4), _to(3, 5), (4, 6, 8), _to(0, 1)), 224,
               (_V2, (1, 2, 2, 3, 5, 8, 0)), (_V1, (1, 2, 2, 3, 3, 4, 1))),
        # widths by `scale("EfficientNetV2B0", 4)`, layers around EfficientNet-V1-B4's
        _space("b4", (24, 48, 64, 136, 160, 272, 448), (1, 2, 2, 2, 1, 2, 1), 24, 1280,
               (_to(1, 4), _to(2, 6), _to(2, 6), _to(4, 8), _to(4, 8), _to(6, 10), _to(0, 4)), 384,
               (_V2, (2, 4, 4, 6, 6, 8, 0)), (_V1, (2, 4, 4, 6, 6, 8, 2))),
    )
}
# fmt: on
