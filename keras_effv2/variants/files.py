"""Models by name, by row and by file: one function finds them all.

A row that is not in a table, such as a network that `keras_effv2.search` found, lives in a JSON file
that holds its columns and nothing else: no code, no weights.
"""

import dataclasses
import difflib
import json
import os
import re
import types
import typing

from keras_effv2 import files
from keras_effv2.variants import coatnet, coatnet_rw, efficientnet_v2, vit_rel
from keras_effv2.variants.application import Variant

FAMILIES = {
    "efficientnet_v2": efficientnet_v2,
    "coatnet": coatnet,
    "coatnet_rw": coatnet_rw,
    "vit_rel": vit_rel,
}
VARIANTS = {name: row for family in FAMILIES.values() for name, row in family.VARIANTS.items()}
FORMAT = 1
_FAMILY_NAMES = {family.Variant: name for name, family in FAMILIES.items()}


def find(model):
    """Finds the row of a model.

    Args:
        model: A name that `list_models()` lists, in any case and without what all names share, such
            as `"b0"`, `"EfficientNetV2-S"` or `"coatnet_0"`; the path of a file that `save_variant` wrote
            (`*.json`), or a `Variant`, which is returned as it is.

    Returns:
        A `Variant` of its family.

    Raises:
        ValueError: If no model has that name, or the file is no variant's.
        FileNotFoundError: If there is no such file.

    Example:

    >>> find("EfficientNetV2B0").image_size
    224
    >>> find("b0").name, find("efficientnetv2-s").name
    ('EfficientNetV2B0', 'EfficientNetV2S')
    """
    if type(model) in _FAMILY_NAMES:
        return model
    if isinstance(model, str) and model in VARIANTS:
        return VARIANTS[model]
    if isinstance(model, os.PathLike) or (isinstance(model, str) and model.endswith(".json")):
        return load_variant(model)
    if not isinstance(model, str):
        raise ValueError(
            "A model is named, is a Variant, or is a file that save_variant wrote. Received: "
            f"{type(model).__name__}."
        )
    named = _named()
    if (name := named.get(_plain(model))) is not None:
        return VARIANTS[name]
    near = [named[key] for key in difflib.get_close_matches(_plain(model), named, n=1)]
    raise ValueError(
        f"There is no model {model!r}. {f'Did you mean {near[0]}? ' if near else ''}"
        f"Models: {', '.join(VARIANTS)}; or the file NAME.json of a variant."
    )


def _named():
    """Names as people type them, plain -> as they are."""
    plain = {_plain(name): name for name in VARIANTS}
    return {key.removeprefix("efficientnetv2"): name for key, name in plain.items()} | plain


def _plain(name):
    return re.sub("[^a-z0-9]", "", name.lower())


# ---------------------------------------------------------------------------------------- files


def save_variant(variant: Variant, path: str | os.PathLike) -> None:
    """Writes a variant as a JSON file of its columns.

    Args:
        variant: A `Variant`, published, scaled or searched.
        path: File `NAME.json`, here or in a store (`gs://...`); written whole or not at all.

    Raises:
        ValueError: If `variant` is no variant of this package, or the file does not end in `.json`.

    Example:

        save_variant(kev.scale("EfficientNetV2B0", 5), "big.json")
    """
    if type(variant) not in _FAMILY_NAMES:
        raise ValueError(f"save_variant writes a Variant. Received: {type(variant).__name__}.")
    place = files.place(path, "The file of a variant")
    if place.suffix != ".json":
        raise ValueError(f"The file of a variant is called NAME.json. Received: {place}.")
    content = {"format": FORMAT, "family": _FAMILY_NAMES[type(variant)]}
    content.update(dataclasses.asdict(variant))
    files.write_whole(place, json.dumps(content, indent=2) + "\n")


def load_variant(path: str | os.PathLike) -> Variant:
    """Reads a file that `save_variant` wrote; every column is checked.

    Args:
        path: The file, here or in a store (`gs://...`).

    Returns:
        A `Variant`; `model_info`, `scale`, `efficientnet_v2.build` and `--model` take it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, or a column is unknown, missing, or out of range; the message
            names it.

    Example:

        variant = load_variant("runs/search/winner.json")
    """
    place = files.place(path, "The file of a variant")
    if not place.exists():
        raise FileNotFoundError(
            f"There is no file {place}. save_variant writes the file of a variant."
        )
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{place} cannot be read as a variant: {error}.") from error
    if not isinstance(content, dict) or "family" not in content:
        raise ValueError(f"{place} is no variant's file: it names no family.")
    if content.pop("format", None) != FORMAT:
        raise ValueError(
            f"{place} has another format than {FORMAT}, which this version of keras_effv2 reads: "
            "update keras_effv2, or write the file again with save_variant."
        )
    family = content.pop("family")
    if family not in FAMILIES:
        raise ValueError(
            f"{place}: `family` is one of {', '.join(FAMILIES)}. Received: {family!r}."
        )
    variant = _row(FAMILIES[family].Variant, FAMILIES[family], content, place, "")
    _check_strides(variant, FAMILIES[family].HALVINGS, place)
    return variant


def _row(kind, family, content, path, where):
    """A dataclass out of a dictionary, field by field."""
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {where or 'it'} is no table of columns. Received: {content!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise ValueError(
            f"{path}: {where}there is no column {unknown[0]!r}. Columns: {', '.join(fields)}."
        )
    values = {}
    for name, value_type in typing.get_type_hints(kind).items():
        if name not in content:
            if fields[name].default is dataclasses.MISSING:
                raise ValueError(f"{path}: {where}the column {name!r} is missing.")
            continue
        value = content[name]
        if name == "stages":
            if not isinstance(value, list) or not value:
                raise ValueError(f"{path}: `stages` is a list of rows. Received: {value!r}.")
            values[name] = tuple(
                _row(family.Stage, family, row, path, f"stage {i}: ")
                for i, row in enumerate(value, start=1)
            )
        else:
            values[name] = _checked(name, value, value_type, family, path, where)
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {where}{error}") from None


def _checked(name, value, value_type, family, path, where):
    """A column's value, if it has the column's type and range."""
    kinds = typing.get_args(value_type) if isinstance(value_type, types.UnionType) else [value_type]
    if float in kinds and type(value) is int:
        value = float(value)
    choices = {"block": family.BLOCKS, **_CHOICES, **family.CHOICES}
    if type(value) not in [kind for kind in kinds if isinstance(kind, type)]:
        wanted = " or ".join("null" if k is types.NoneType else k.__name__ for k in kinds)
    elif name in choices and value not in choices[name]:
        wanted = f"one of {', '.join(map(repr, choices[name]))}"
    elif type(value) is int and value < 1:
        wanted = "1 or more"
    elif type(value) is float and not 0 <= value < 1:
        wanted = "a probability in [0, 1)"
    elif name == "kernel" and value % 2 == 0:
        wanted = "an odd number"
    else:
        return value
    raise ValueError(f"{path}: {where}`{name}` is {wanted}. Received: {value!r}.")


_CHOICES = {"stride": (1, 2), "pixels": ("imagenet", "128", "127.5")}


def _check_strides(variant, halvings, path):
    """Refuses stages that do not make the levels of features that a family promises."""
    strides = [stage.stride for stage in variant.stages]
    if strides.count(2) != halvings:
        raise ValueError(
            f"{path}: {halvings} stages have stride 2, as the levels of `features` promise. "
            f"Received: strides {strides}."
        )
