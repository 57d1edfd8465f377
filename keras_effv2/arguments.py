"""What users give to functions, checked: each refusal is one sentence."""

import contextlib
import math
import numbers
import operator
from collections.abc import Iterable


def check_number(name, value, low, high=math.inf, whole=False):
    """Refuses what is no number in [low, high).

    Args:
        name: What to call it, such as `"`epochs` of a recipe"`.
        value: What was given; NumPy's numbers are numbers, booleans are none.
        low: The smallest.
        high: What all are below.
        whole: Whether it has to be a whole number.

    Raises:
        ValueError: Says which, what was wanted and what came.

    Example:

    >>> check_number("`batch_size`", 2.5, 1, whole=True)
    Traceback (most recent call last):
    ValueError: `batch_size` is a whole number from 1. Received: 2.5.
    """
    kind = isinstance(value, numbers.Integral if whole else numbers.Real)
    kind = kind and not isinstance(value, bool)
    if kind and low <= value < high:
        return
    what = "a whole number " if whole else "a number "
    bounded = high < math.inf
    wanted = f"in [{low}, {high})" if bounded else f"from {low}"
    raise ValueError(f"{name} is {'' if kind and bounded else what}{wanted}. Received: {value!r}.")


def check_auto(model, weights, time_limit):
    """Refuses what does not go with the model "auto" of a fine-tuning.

    Raises:
        ValueError: If it has no time limit to be chosen by, or weights that are not its default.
    """
    if model == "auto" and (not time_limit or weights != "default"):
        raise ValueError(
            'The model "auto" is chosen by a time limit and starts from its default weights: give a '
            "time limit and no weights, or name a model."
        )


def check_kind(name, value, kind, wanted):
    """Refuses an object of another class.

    Args:
        name: Of the argument.
        value: What was given.
        kind: A class, or a tuple of classes.
        wanted: What is wanted, as the sentence goes on.

    Raises:
        TypeError: Says which, what was wanted and what came.

    Example:

    >>> check_kind("data", "digits", dict, "what keras_effv2.data.load gives")
    Traceback (most recent call last):
    TypeError: `data` is what keras_effv2.data.load gives. Received: str 'digits'.
    """
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` is {wanted}. Received: {_told(value)}.")


def check_names(name, value):
    """Gives names as a tuple; refuses what is no list of texts.

    Args:
        name: Of the argument.
        value: What was given.

    Raises:
        TypeError: Says which, and what came.
    """
    check_kind(name, value, Iterable, "a list of names")
    names = tuple(value)
    for one in names:
        check_kind(name, one, str, "a list of names, each a text")
    return names


def check_shape(shape):
    """Gives an `input_shape` as a tuple of Python's numbers; refuses what is none of pictures.

    Args:
        shape: What was given, height and width None where they are not known.

    Raises:
        ValueError: Says what was wanted and what came.
    """
    with contextlib.suppress(TypeError):
        sides = tuple(None if side is None else operator.index(side) for side in shape)
        if len(sides) == 3 and sides[-1] is not None and all(s is None or s > 0 for s in sides):
            return sides
    raise ValueError(
        "`input_shape` is (height, width, channels), whole numbers from 1; height and width may be "
        f"None. Received: input_shape={shape!r}."
    )


def check_array(name, value, wanted, fits):
    """Gives what was given as an array; refuses what is none of finite real numbers.

    Args:
        name: Of the argument.
        value: What was given: an array, a tensor, lists of numbers.
        wanted: What is wanted, as the sentence goes on.
        fits: Function of a shape that says whether it is wanted.

    Raises:
        ValueError: Says which, what was wanted and what came.

    Example:

    >>> check_array("scores", [0.2, 0.8], "an array (batch, classes)", lambda shape: len(shape) == 2)
    Traceback (most recent call last):
    ValueError: `scores` is an array (batch, classes). Received: float64 (2,).
    """
    import numpy as np  # not for the commands that only tell something

    try:
        found = np.asarray(value)
    except Exception:  # of any class: what is no array decides what it raises
        found = np.asarray(None)
    real = found.dtype.kind in "iuf" or found.dtype.name == "bfloat16"
    came = f"{found.dtype} {found.shape}" if real or found is value else _told(value)
    if real and fits(found.shape):
        if found.dtype.kind in "iu" or np.isfinite(found).all():
            return found
        came += " with NaN or infinity"
    raise ValueError(f"`{name}` is {wanted}. Received: {came}.")


def _told(value):
    """The class of an object, and itself where it is short."""
    text = repr(value)
    return type(value).__name__ + (f" {text}" if len(text) < 60 and "\n" not in text else "")
