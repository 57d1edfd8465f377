"""Settings of a training: `--recipe.FIELD=VALUE` and `--ramp.ARGUMENT=FIRST,LAST`."""

import dataclasses
import inspect
import re
import typing

from absl import flags

from keras_effv2 import phases, recipes
from keras_effv2.cli.flags import UsageError, hint, strings

# what --recipe.FIELD=VALUE and --ramp.ARGUMENT=VALUE become
DOTTED = {"recipe": "recipe_field", "ramp": "ramp_argument"}
_FIXED = ("name", "source", "phases")  # recipe fields that no flag sets


def define(values):
    for name, flag in DOTTED.items():
        strings(values, flag, f"What --{name}.NAME=VALUE stands for.")


def undotted(text):
    """`--recipe.FIELD=VALUE` as a flag that absl knows."""
    return re.sub(r"^--?(recipe|ramp)\.", lambda dotted: f"--{DOTTED[dotted[1]]}=", text)


def chosen(values):
    """The recipe that --recipe names, with what --recipe.FIELD and --ramp.ARGUMENT set."""
    return ramped(recipe(values.recipe, values.recipe_field, values.model), values.ramp_argument)


def recipe(name, settings, model):
    """The recipe of that name with `FIELD=VALUE` settings applied."""
    try:
        row = recipes.get(name, model)
        return recipes.rescale(row, dict(map(_field, settings)))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _field(setting):
    key, _, value = setting.partition("=")
    kinds = {k: v for k, v in typing.get_type_hints(recipes.Recipe).items() if k not in _FIXED}
    if key not in kinds:
        raise UsageError(
            f"a recipe has no field {key!r}; fields: {', '.join(sorted(kinds))}{hint(key, kinds)}"
        )
    if key == "class_weight":
        return key, class_weight(value)
    kind = typing.get_origin(kinds[key]) or kinds[key]
    try:
        return key, _PARSERS.get(kind, kind)(value)
    except (ValueError, TypeError):
        raise UsageError(f"--recipe.{key} is a {kind.__name__}; received {value!r}") from None


def class_weight(text):
    """`auto`, `none`, or a dictionary out of `NAME=WEIGHT,NAME=WEIGHT`."""
    if text in ("auto", "none"):
        return text
    try:
        weights = {
            name: float(weight) for name, _, weight in (x.rpartition("=") for x in text.split(","))
        }
        recipes.check_class_weight(weights)
    except ValueError:
        weights = {}
    if not weights or "" in weights:
        raise UsageError(
            "class_weight is auto, none, or NAME=WEIGHT,NAME=WEIGHT with weights above 0; received "
            f"{text!r}"
        )
    return weights


def _pair(first, last):
    return first, last


_PARSERS = {
    bool: flags.BooleanParser().parse,
    tuple: lambda text: _pair(*map(float, text.split(","))),
}


def _ramp_arguments():
    """Names of what `ramp` is told; the epochs are the recipe's."""
    return [name for name in inspect.signature(phases.ramp).parameters if name != "epochs"]


def ramped(recipe, settings):
    """The recipe with phases made anew by `ramp`; what no setting names stays as it was."""
    if not settings:
        return recipe
    known = _ramp_arguments()
    fields = {field.name for field in dataclasses.fields(phases.Phase)}
    scheduled = [name for name in known if name in fields]
    count = len(recipe.phases)
    arguments = {"phases": count if count > 1 else min(4, recipe.epochs)}
    if recipe.phases:
        first, last = recipe.phases[0], recipe.phases[-1]
        pairs = {name: (getattr(first, name), getattr(last, name)) for name in scheduled}
        arguments |= {name: pair for name, pair in pairs.items() if None not in pair}
    for key, _, value in (setting.partition("=") for setting in settings):
        if key not in known:
            raise UsageError(
                f"ramp has no argument {key!r}; arguments: {', '.join(known)}{hint(key, known)}"
            )
        arguments[key] = _ramp_value(key, value, key in scheduled)
    try:
        return dataclasses.replace(recipe, phases=phases.ramp(recipe.epochs, **arguments))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _ramp_value(key, value, scheduled):
    try:
        numbers = tuple(map(float, value.split(","))) if scheduled else int(value)
    except ValueError:
        wanted = "one number or FIRST,LAST" if scheduled else "a whole number"
        raise UsageError(f"--ramp.{key} is {wanted}; received {value!r}") from None
    return numbers * 2 if scheduled and len(numbers) == 1 else numbers


def describe():
    """Lines of help: the recipes, their fields and the arguments of `ramp`."""
    fields = [key for key in typing.get_type_hints(recipes.Recipe) if key not in _FIXED]
    return [
        "",
        f"recipes: {', '.join(recipes.RECIPES)}",
        "recipe fields, --recipe.FIELD=VALUE:",
        *_meanings(recipes.Recipe, fields),
        "phases of progressive learning, --ramp.ARGUMENT=FIRST,LAST (what is left out stays the "
        "recipe's):",
        *_meanings(phases.ramp, _ramp_arguments()),
    ]


def _meanings(documented, names):
    """Lines of help out of a docstring's list of arguments or attributes."""
    text = inspect.getdoc(documented)
    rows = re.findall(r"^    (\w+): ((?:.|\n        +)+)", text, re.MULTILINE)
    meanings = {key: " ".join(text.replace("`", "").split()) for key, text in rows}
    return [f"  {name}: {meanings[name]}" for name in names]
