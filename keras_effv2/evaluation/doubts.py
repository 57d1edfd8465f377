"""Pictures whose label is doubtful: a model that was not trained on them says something else."""

import csv
import dataclasses
import io

import numpy as np

from keras_effv2.data.tables import check_labels

MOST = 100  # that are listed


@dataclasses.dataclass(frozen=True)
class Doubt:
    """A picture of a split whose label is doubtful.

    Attributes:
        index: Its number in the split.
        label: Name of the class that it is given.
        said: Name of the class that the model says.
        confidence: What the model gives to the label; the lower, the more it doubts.
    """

    index: int
    label: str
    said: str
    confidence: float


def find_doubts(probabilities, labels, class_names):
    """The pictures whose label a model doubts, the most doubtful first, a hundred at most.

    Their order is that of the probability of the given label ("self-confidence", Northcutt et al.
    2021, arXiv 1911.00068), which may only be had from a model that was not trained on the picture.

    Args:
        probabilities: `(n, classes)`.
        labels: Column of each picture's label, `(n,)`.
        class_names: Names of the columns.

    Returns:
        A list of `Doubt`.

    Raises:
        ValueError: If labels are no columns, or probabilities not of so many pictures and classes.

    Example:

    >>> found = find_doubts(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), ["cat", "dog"])
    >>> [(doubt.index, doubt.label, doubt.said) for doubt in found]
    [(1, 'dog', 'cat')]
    """
    labels, probabilities = check_labels(labels, len(class_names)), np.asarray(probabilities)
    if probabilities.shape != (len(labels), len(class_names)):
        raise ValueError(
            f"`probabilities` is an array (n, {len(class_names)}), a row for each of the {len(labels)} "
            f"labels. Received: {probabilities.dtype} {probabilities.shape}."
        )
    own = probabilities[np.arange(len(labels)), labels]
    said = probabilities.argmax(1)
    order = [i for i in np.argsort(own, kind="stable") if said[i] != labels[i]][:MOST]
    return [
        Doubt(int(i), class_names[labels[i]], class_names[said[i]], float(own[i])) for i in order
    ]


def cross_validated(fit, features, labels, classes, seed=0):
    """Probabilities of every picture by a classifier that did not see it.

    Args:
        fit: Function of features and labels that gives kernel and bias of a linear softmax.
        features: `(n, channels)`.
        labels: `(n,)`.
        classes: Number of classes.
        seed: Of the folds: five, or fewer where a class has fewer pictures.

    Returns:
        float64 `(n, classes)`, or None where a class has a single picture.
    """
    from scipy.special import softmax
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels)
    folds = min(5, int(counts[counts > 0].min()))
    if folds < 2:
        return None
    found = np.zeros((len(labels), classes))
    for rest, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(
        features, labels
    ):
        kernel, bias = fit(features[rest], labels[rest])
        found[held] = softmax(features[held] @ kernel + bias, 1)
    return found


def table(parts):
    """Text of `doubtful.csv`: `split,file,label,said,confidence`, the most doubtful of a split first.

    Args:
        parts: For each split its name, the `Split` and its doubts.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["split", "file", "label", "said", "confidence"])
    for name, split, found in parts:
        for doubt in found:
            confidence = f"{doubt.confidence:.4f}"
            rows.writerow([name, name_of(split, doubt), doubt.label, doubt.said, confidence])
    return text.getvalue()


def name_of(split, doubt):
    """The file of a picture, or its number where it is no file."""
    pictures = getattr(split, "pictures", None)
    if pictures is None or isinstance(pictures, np.ndarray):
        return f"picture {doubt.index}"
    return pictures[doubt.index]
