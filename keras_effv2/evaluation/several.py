"""Several labels a picture: what is right of them, and from which probability on each is said."""

import dataclasses

import keras
import numpy as np

from keras_effv2 import layers
from keras_effv2.evaluation.calibration import (
    calibration_error,
    dense_head,
    scale,
    sharpening,
    tempered,
)
from keras_effv2.evaluation.outputs import check_split, predicted

HALF = 0.5  # the threshold of a label that nothing is known of
FEW = 3  # pictures with a label that do not tell where its threshold is


@dataclasses.dataclass(frozen=True)
class SeveralEvaluation:
    """Result of `evaluate` where a picture may have several labels.

    Attributes:
        split: Which split was evaluated.
        images: Number of images, each counted once, those without a label too.
        mean_average_precision: Mean over the labels that occur; needs no thresholds.
        micro_f1: F1 of all labels together at their thresholds.
        macro_f1: Mean F1 of the labels that occur.
        exact: Part of the images of which all labels are right.
        calibration_error: Expected calibration error of all probabilities over 15 bins.
        loss: Mean binary cross-entropy of a label in nats.
        labels_table: For each label `(name, images, average precision, precision, recall, F1,
            threshold)`; the average precision of one that does not occur is None.
        class_names: Names of the labels.
        probabilities: float32 array `(images, labels)`.
        labels: bool array `(images, labels)`.
    """

    split: str
    images: int
    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact: float
    calibration_error: float
    loss: float
    labels_table: tuple
    class_names: tuple
    probabilities: np.ndarray
    labels: np.ndarray

    def summary(self):
        """The numbers that JSON can hold."""
        keys = ("label", "images", "average_precision", "precision", "recall", "f1", "threshold")
        arrays = ("class_names", "probabilities", "labels")
        fields = (field.name for field in dataclasses.fields(self))
        numbers = {name: getattr(self, name) for name in fields if name not in arrays}
        return numbers | {
            "labels_table": [dict(zip(keys, row, strict=True)) for row in self.labels_table]
        }

    def __str__(self):
        known = [row for row in self.labels_table if row[2] is not None]
        lowest = ", ".join(
            f"{name} {precision:.1%} of {images}"
            for name, images, precision, *_ in sorted(known, key=lambda row: row[2])[:3]
        )
        return (
            f"{self.split}: mean average precision {self.mean_average_precision:.2%}, F1 "
            f"{self.micro_f1:.3f} of all labels, {self.macro_f1:.3f} of the mean label, all labels "
            f"right on {self.exact:.1%} of {self.images} pictures; lowest average precisions: {lowest}"
        )


def judge_several(scores, labels, class_names, thresholds=None, split="test"):
    """Computes all numbers from probabilities and labels, both `(n, labels)`.

    Args:
        scores: Probabilities.
        labels: bool.
        class_names: Names of the labels.
        thresholds: From which probability on each label is said; None: 0.5.
        split: What to call the pictures.

    Raises:
        ValueError: If no picture has a label.
    """
    from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

    occur = np.flatnonzero(labels.any(0))
    if not len(occur):
        raise ValueError("No picture has a label, so nothing can be judged.")
    thresholds = np.full(len(class_names), HALF) if thresholds is None else np.array(thresholds)
    said = scores >= thresholds
    precisions = {i: float(average_precision_score(labels[:, i], scores[:, i])) for i in occur}
    parts = precision_recall_fscore_support(labels, said, average=None, zero_division=0)
    rows = zip(class_names, parts[3], *parts[:3], thresholds, strict=True)
    likely = np.where(labels, scores, 1 - scores).astype("float64")
    return SeveralEvaluation(
        split=split,
        images=len(labels),
        mean_average_precision=float(np.mean([*precisions.values()])),
        micro_f1=float(f1_score(labels, said, average="micro", zero_division=0)),
        macro_f1=float(np.mean(parts[2][occur])),
        exact=float((said == labels).all(1).mean()),
        calibration_error=calibration_error(scores.ravel(), labels.ravel()),
        loss=float(-np.log(likely.clip(1e-7)).mean()),
        labels_table=tuple(
            (name, int(images), precisions.get(i), float(p), float(r), float(f1), float(threshold))
            for i, (name, images, p, r, f1, threshold) in enumerate(rows)
        ),
        class_names=tuple(class_names),
        probabilities=scores,
        labels=labels,
    )


def calibrate_several(model: keras.Model, split, *, image_size: int | None = None) -> dict:
    """Makes a model of several labels a picture honest, and finds a threshold for each label.

    One temperature for all labels goes into the last layer, as `calibrate` has it. A label's
    threshold is that of its largest F1 on these pictures; of a label that fewer than three of them
    have, it is 0.5. The model's `Pixels` layer keeps both.

    Args:
        model: A model that ends in a dense layer with sigmoids; changed in place.
        split: Labelled pictures that it was not trained on.
        image_size: Side in pixels; None takes the model's.

    Returns:
        A dictionary: `temperature`, `pictures`, `calibration_error_before`, `calibration_error` and
        `thresholds`.

    Raises:
        ValueError: If the last layer is no dense layer with a bias.
    """
    check_split("split", split)
    head = dense_head(model)
    scores, labels, _ = predicted(model, split, image_size=image_size)
    factor = sharpening(scores, labels, independent=True)
    honest = tempered(scores, factor, independent=True)
    thresholds = [_threshold(*pair) for pair in zip(honest.T, labels.T, strict=True)]
    temperature = scale(model, head, factor)
    pixels = layers.find_pixels(model)
    if pixels is not None:
        pixels.thresholds = thresholds
    return {
        "temperature": temperature,
        "pictures": len(labels),
        "calibration_error_before": calibration_error(scores.ravel(), labels.ravel()),
        "calibration_error": calibration_error(honest.ravel(), labels.ravel()),
        "thresholds": thresholds,
    }


def _threshold(scores, labels):
    """The probability from which on a label is said with the largest F1, between two of these."""
    from sklearn.metrics import precision_recall_curve

    if labels.sum() < FEW or labels.all():
        return HALF
    precision, recall, at = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    below = at[best - 1] if best else 0.0
    return float((at[best] + below) / 2)
