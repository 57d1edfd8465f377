"""How much a picture of each class counts, by the numbers of pictures or as somebody says."""

from collections.abc import Mapping

import numpy as np


def class_weights(class_weight, split):
    """The weights that a setting gives the classes of a training split.

    Args:
        class_weight: As `Recipe.class_weight` has it.
        split: A training `Split`.

    Returns:
        float64 `(classes,)`, or None where all pictures count alike. By `"auto"` they are those of
        scikit-learn's `class_weight="balanced"`.

    Raises:
        ValueError: If a mapping names a class that the split does not have.

    Example:

    >>> from keras_effv2.data import Split
    >>> few = Split(["cat", "dog"], [0, 0, 0, 1], np.zeros((4, 8, 8, 3), "uint8"))
    >>> class_weights("auto", few).round(2).tolist()
    [0.67, 2.0]
    >>> class_weights({"dog": 5}, few).tolist()
    [1.0, 5.0]
    """
    if isinstance(class_weight, Mapping):
        unknown = [name for name in class_weight if name not in split.class_names]
        if unknown:
            raise ValueError(
                f"`class_weight` names a class {unknown[0]!r} that the data does not have. Its "
                f"classes: {', '.join(split.class_names[:10])}"
                f"{' ...' if len(split.class_names) > 10 else ''}."
            )
        return np.array([float(class_weight.get(name, 1.0)) for name in split.class_names])
    if class_weight == "none":
        return None
    counts = np.maximum(split.class_counts(), 1)
    return counts.sum() / (len(counts) * counts)


def told(class_weight, split):
    """A sentence on what a setting does to these classes; "" where it does nothing."""
    counts = split.class_counts()
    few, many = int(counts.argmin()), int(counts.argmax())
    names = split.class_names
    unequal = f"{counts[many]:,} pictures of {names[many]}, {counts[few]:,} of {names[few]}"
    if class_weight == "auto" and counts[many] > counts[few]:
        return (
            f"Classes count alike ({unequal}): class_weight=auto favours none for being frequent; "
            "with none the most pictures are right."
        )
    if isinstance(class_weight, Mapping):
        weights = ", ".join(f"{name} {weight:g}" for name, weight in class_weight.items())
        return f"Pictures count by their class: {weights}, others 1."
    return ""
