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


def check_choices(variant, choices):
    """Refuses a row with an unknown word in one of its columns of words.

    Raises:
        ValueError: If a column of `choices`, name -> words, has another word.
    """
    for column, words in choices.items():
        if getattr(variant, column) not in words:
            raise ValueError(
                f"`{column}` of a variant is one of {', '.join(words)}. Received: "
                f"{getattr(variant, column)!r}."
            )
