"""What a model gets right and wrong: accuracy with intervals, calibration, confusions."""

import dataclasses
import os
from collections.abc import Sequence

import keras
import numpy as np
from absl import logging

from keras_effv2 import files, graph, layers, needs
from keras_effv2.arguments import check_kind
from keras_effv2.data import Data
from keras_effv2.data.split import check_data
from keras_effv2.evaluation import calibration
from keras_effv2.evaluation.calibration import calibration_error, rejection, tempered
from keras_effv2.evaluation.doubts import Doubt, find_doubts
from keras_effv2.evaluation.outputs import (
    are_independent,
    check_split,
    geometry,
    likeliest,
    match_classes,
    predicted,
)
from keras_effv2.evaluation.report import report
from keras_effv2.evaluation.several import SeveralEvaluation, judge_several


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        split: Which split was evaluated.
        images: Number of images, each counted once.
        top1: Part of the images whose best class is right.
        top5: Part of the images whose class is among the best five (of all, if fewer).
        top1_interval: 95 % Wilson interval of `top1`.
        top5_interval: The same of `top5`.
        balanced_accuracy: Mean recall of the classes that have images, each class counting the same.
        macro_f1: Mean F1 of the same classes.
        class_recalls: For each of them `(class name, recall, images, low, high)`, with the 95 %
            Wilson interval of the recall.
        lowest_recalls: Up to five triples `(class name, recall, images)`, the lowest recall first.
        loss: Mean cross-entropy in nats.
        calibration_error: Expected calibration error over 15 bins.
        calibration_error_before: The same before the model's temperature; None if it has none.
        rejection: What becomes of the threshold below which pictures are of no class; None without.
            `unknown_below`; `rejected`, the part of these pictures that are said to be unknown;
            `top1_named` of the rest; and of counter-examples, where there are: `strangers`,
            `accepted` and `auroc`, the chance that a picture of a class is surer than one of none.
        class_names: Names of the classes that the model knows.
        confusion: int array `(true, predicted)`.
        probabilities: float32 array `(images, classes)`.
        labels: int array `(images,)`; of several labels the one that the model finds likeliest.
    """

    split: str
    images: int
    top1: float
    top5: float
    top1_interval: tuple
    top5_interval: tuple
    balanced_accuracy: float
    macro_f1: float
    class_recalls: tuple
    lowest_recalls: tuple
    loss: float
    calibration_error: float
    class_names: tuple
    confusion: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    calibration_error_before: float | None = None
    rejection: dict | None = None

    def summary(self):
        """The numbers that JSON can hold."""
        arrays = ("class_names", "confusion", "probabilities", "labels")
        numbers = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in arrays
        }
        keys = ("class", "recall", "images")
        recalls = [dict(zip(keys, row, strict=True)) for row in self.lowest_recalls]
        every = [
            {**dict(zip(keys, row[:3], strict=True)), "interval": list(row[3:])}
            for row in self.class_recalls
        ]
        return numbers | {
            "class_recalls": every,
            "top1_interval": list(self.top1_interval),
            "top5_interval": list(self.top5_interval),
            "lowest_recalls": recalls,
        }

    def __str__(self):
        def part(name, value, interval):
            return f"{name} {value:.2%} ({interval[0]:.1%} to {interval[1]:.1%})"

        recalls = ", ".join(
            f"{name} {recall:.1%} of {images}" for name, recall, images in self.lowest_recalls[:3]
        )
        return (
            f"{self.split}: {part('top 1', self.top1, self.top1_interval)}, "
            f"{part('top 5', self.top5, self.top5_interval)} of {self.images} pictures; balanced "
            f"accuracy {self.balanced_accuracy:.2%}, macro F1 {self.macro_f1:.3f}, lowest recalls: "
            f"{recalls}{calibration.told(self)}"
        )


@needs.naming("An evaluation")
def evaluate(
    model: keras.Model,
    data: Data,
    report_dir: str | os.PathLike | None = None,
    *,
    split: str | None = None,
    batch_size: int = 32,
    image_size: int | None = None,
    doubtful: Sequence[Doubt] = (),
) -> Evaluation | SeveralEvaluation:
    """Evaluates a model on a split, every picture once.

    Args:
        model: A `keras.Model` whose outputs are classes: probabilities or logits, or one output for
            two classes.
        data: A `Data` of `keras_effv2.data.load`.
        report_dir: Folder for `report.html` and its numbers, or None.
        split: `"train"`, `"validation"` or `"test"`; None takes test, else validation, else train.
        batch_size: Images at a time.
        image_size: Side in pixels; None takes the model's.
        doubtful: Training pictures whose label is doubtful, for the report: as `find_doubts` gives
            them of a model that did not see them. Those of the split are found here.

    Returns:
        An `Evaluation`; a `SeveralEvaluation` of data with several labels a picture and a model of
        sigmoids.

    Raises:
        ValueError: If the split does not exist, the model does not know its classes, it is unknown
            what the model's outputs are, or they are not finite.

    Example:

    >>> import keras_effv2
    >>> head = [keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    >>> model = keras.Sequential([keras.Input((32, 32, 3)), *head])
    >>> result = evaluate(model, keras_effv2.data.load("digits"), split="validation")
    >>> result.split, result.confusion.shape, 0 <= result.top1 <= 1
    ('validation', (10, 10), True)
    """
    layers.require_tensorflow("Evaluation")
    check_kind("model", model, keras.Model, "a keras.Model")
    check_data(data)
    have = [name for name in ("test", "validation", "train") if getattr(data, name) is not None]
    if split not in (None, *have):
        raise ValueError(f"{data.name} has no split {split!r}. Splits: {', '.join(have)}.")
    split = split or have[0]
    pictures = getattr(data, split)
    check_split(split, pictures)
    image_size = graph.side_of(model, image_size)
    match_classes(model, pictures.class_names)
    if report_dir is not None:  # before the work
        report_dir = _report_folder(report_dir)
    how = {"image_size": image_size, **geometry(model)}
    scores, targets, names = predicted(model, pictures, batch_size, image_size)
    if pictures.several and are_independent(model):
        thresholds = graph.said_of_head(model, "thresholds")
        result = judge_several(scores, targets, names, thresholds, split)
        if report_dir is not None:
            report(result, model, pictures, report_dir, data.name, **how)
        return result
    labelled = targets.any(1)
    if not labelled.all():
        logging.warning("%d pictures without a label are not counted.", (~labelled).sum())
    if not labelled.any():
        raise ValueError(f"No picture of {data.name}, {split}, has a label.")
    counted = np.flatnonzero(labelled)
    scores = scores[counted]
    result = judge(scores, likeliest(scores, targets[counted]), names, split)
    result = dataclasses.replace(result, **_confidence(model, result, data, batch_size, image_size))
    if report_dir is not None:
        shown = pictures.select(counted)
        found = find_doubts(result.probabilities, result.labels, names)
        parts = [(split, shown, [] if split == "train" else found)]
        parts += [("train", data.train, doubtful)] if doubtful else []
        report(result, model, shown, report_dir, data.name, parts=parts, **how)
    return result


def _confidence(model, result, data, batch_size, image_size):
    """What is known of the model's confidence, as fields of an `Evaluation`."""
    temperature, least = (
        graph.said_of_head(model, key) for key in ("temperature", "unknown_below")
    )
    found, sure, strange = {}, result.probabilities.max(1), None
    right = result.probabilities.argmax(1) == result.labels
    if temperature is not None:  # what they were without it
        raw = tempered(result.probabilities, temperature, are_independent(model))
        found["calibration_error_before"] = calibration_error(raw.max(1), right)
    if data.unknown is not None and (least is not None or temperature is not None):
        strange = predicted(model, data.unknown, batch_size, image_size)[0].max(1)
    if least is not None or strange is not None:
        found["rejection"] = rejection(sure, right, least, strange)
    return found


def _report_folder(path):
    folder = files.place(path, "The folder of the report")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"The report needs a folder; {folder} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def judge(scores, labels, class_names, split="test"):
    """Computes all numbers from probabilities `(n, classes)` and labels `(n,)`."""
    from sklearn.metrics import confusion_matrix, f1_score, log_loss, recall_score

    count, classes = scores.shape
    best = np.argsort(-scores, axis=1, kind="stable")[:, : min(5, classes)]
    hits = best == labels[:, None]
    first, five = int(hits[:, 0].sum()), int(hits.any(1).sum())
    normal = scores / np.maximum(scores.sum(1, keepdims=True), 1e-12)
    present, images = np.unique(labels, return_counts=True)
    recalls = recall_score(labels, best[:, 0], labels=present, average=None, zero_division=0)
    rows = [
        (class_names[i], float(recall), int(n), *wilson(round(recall * n), int(n)))
        for i, recall, n in zip(present, recalls, images, strict=True)
    ]
    return Evaluation(
        split=split,
        images=count,
        top1=first / count,
        top5=five / count,
        top1_interval=wilson(first, count),
        top5_interval=wilson(five, count),
        balanced_accuracy=float(recalls.mean()),
        macro_f1=float(
            f1_score(labels, best[:, 0], labels=present, average="macro", zero_division=0)
        ),
        class_recalls=tuple(rows),
        lowest_recalls=tuple(row[:3] for row in sorted(rows, key=lambda row: row[1])[:5]),
        loss=float(log_loss(labels, normal.clip(1e-7, 1), labels=np.arange(classes))),
        calibration_error=calibration_error(scores.max(1), hits[:, 0]),
        class_names=tuple(class_names),
        confusion=confusion_matrix(labels, best[:, 0], labels=np.arange(classes)),
        probabilities=scores,
        labels=labels,
    )


def wilson(hits, count):
    """95 % Wilson interval of a proportion. Source: Wilson 1927, JASA 22.

    >>> [round(x, 4) for x in wilson(95, 100)]
    [0.8882, 0.9785]
    """
    from scipy.stats import binomtest

    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return float(low), float(high)
