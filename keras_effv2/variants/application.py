"""The columns that the rows of all families have."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """What the shell of all builders has to know of a model; each family adds its own columns."""

    name: str
    image_size: int  # side in pixels at which the papers evaluate
    dropout: float = 0.2
    drop_path: float = 0.2
    pixels: str = "128"  # without weights; with weights theirs count
    weights: str | None = None  # the default of `weights=`
    hidden: int | None = None  # units of the hidden layer of the head, if it has one
