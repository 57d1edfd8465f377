"""What a model gets right and wrong: accuracy with intervals, calibration, confusions."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import graph, layers
from keras_effv2.evaluation.report import report


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
        loss: Mean cross-entropy in nats.
        calibration_error: Expected calibration error over 15 bins.
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
    loss: float
    calibration_error: float
    class_names: tuple
    confusion: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray

    def summary(self):
        """The numbers that JSON can hold."""
        return {
            "split": self.split,
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "top1_interval": list(self.top1_interval),
            "top5_interval": list(self.top5_interval),
            "loss": self.loss,
            "calibration_error": self.calibration_error,
        }


def evaluate(model, data, report_dir=None, *, split=None, batch_size=32, image_size=None):
    """Evaluates a model on a split, every picture once.

    Args:
        model: A `keras.Model` whose outputs are classes.
        data: A `Data` of `keras_effv2.data.load`.
        report_dir: Folder for `report.html` and its numbers, or None.
        split: `"train"`, `"validation"` or `"test"`; None takes test, else validation, else train.
        batch_size: Images at a time.
        image_size: Side in pixels; None takes the model's.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If the split does not exist or the model does not know its classes.
    """
    have = [name for name in ("test", "validation", "train") if getattr(data, name) is not None]
    if split not in (None, *have):
        raise ValueError(f"{data.name} has no split {split!r}. Splits: {', '.join(have)}.")
    split = split or have[0]
    pictures = getattr(data, split)
    predict = probabilities(model)
    image_size = graph.side_of(model, image_size)
    outputs, names = match_classes(model, pictures.class_names)
    if report_dir is not None:  # before the work
        report_dir = pathlib.Path(report_dir)
        if report_dir.exists() and not report_dir.is_dir():
            raise NotADirectoryError(f"The report needs a folder; {report_dir} is a file.")
        report_dir.mkdir(parents=True, exist_ok=True)
    pixels = layers.find_pixels(model)
    geometry = {"crop": pixels.crop, "resize": pixels.resize} if pixels else {}
    batches = pictures.eval_batches(image_size=image_size, batch_size=batch_size, **geometry)
    scores, labels = [], []
    for number, (images, targets, mask) in enumerate(batches):
        if number == 0:
            warn_of_small_pixels(images)
        keep = mask.numpy() > 0
        scores.append(predict(images).numpy()[keep])
        labels.append(_labels(targets.numpy()[keep], scores[-1][:, outputs], outputs))
    scores, labels = np.concatenate(scores), np.concatenate(labels)
    if (labels < 0).any():
        logging.warning("%d pictures without a label are not counted.", (labels < 0).sum())
    counted = np.flatnonzero(labels >= 0)
    if not len(counted):
        raise ValueError(f"No picture of {data.name}, {split}, has a label.")
    result = judge(scores[counted], labels[counted], names, split)
    if report_dir is not None:
        shown = pictures.select(counted)
        report(result, model, shown, report_dir, data.name, image_size=image_size, **geometry)
    return result


def _labels(targets, scores, outputs):
    """The model's output for each picture's label, of several the likeliest; -1 for none."""
    best = np.where(targets > 0, scores, -1.0).argmax(1)
    return np.where((targets > 0).any(1), outputs[best], -1)


def probabilities(model):
    """A function from images to probabilities, whatever the last activation of the model is."""
    layers.require_tensorflow("Evaluation")
    logits = graph.logits_of(model)
    pixels = layers.find_pixels(model)
    sigmoid = pixels is not None and pixels.activation == "sigmoid"

    @tf.function(reduce_retracing=True)
    def predict(images):
        outputs = tf.cast(logits(images, training=False), tf.float32)
        return tf.sigmoid(outputs) if sigmoid else tf.nn.softmax(outputs)

    return predict


def warn_of_small_pixels(images):
    """Warns of a batch that looks like 0..1 where 0..255 is wanted."""
    if float(np.max(images)) <= 1.0:
        logging.warning(
            "The largest pixel of the first batch is %.3g: models here take 0..255, not 0..1.",
            float(np.max(images)),
        )


def match_classes(model, class_names):
    """Finds the classes of data among those of a model, by name where the model knows names.

    Returns:
        The model's output for every class, int array, and the names of all outputs.

    Raises:
        ValueError: If a class is unknown to the model.
    """
    pixels = layers.find_pixels(model)
    outputs = model.output_shape[-1]
    own = pixels.class_names if pixels is not None else None
    if not own:
        if outputs != len(class_names):
            raise ValueError(
                f"The model has {outputs} outputs and no class names, the data has "
                f"{len(class_names)} classes. Evaluate it on data with {outputs} classes."
            )
        return np.arange(outputs), tuple(class_names)
    unknown = [name for name in class_names if name not in own]
    if unknown:
        raise ValueError(
            f"The model does not know the class {unknown[0]!r}. Its classes: "
            f"{', '.join(own[:10])}{' ...' if len(own) > 10 else ''}. Rename the class folder."
        )
    return np.array([own.index(name) for name in class_names]), tuple(own)


def judge(scores, labels, class_names, split="test"):
    """Computes all numbers from probabilities `(n, classes)` and labels `(n,)`."""
    from sklearn.metrics import confusion_matrix, log_loss

    count, classes = scores.shape
    best = np.argsort(-scores, axis=1, kind="stable")[:, : min(5, classes)]
    hits = best == labels[:, None]
    first, five = int(hits[:, 0].sum()), int(hits.any(1).sum())
    normal = scores / np.maximum(scores.sum(1, keepdims=True), 1e-12)
    return Evaluation(
        split,
        count,
        first / count,
        five / count,
        wilson(first, count),
        wilson(five, count),
        float(log_loss(labels, normal.clip(1e-7, 1), labels=np.arange(classes))),
        calibration_error(scores.max(1), hits[:, 0]),
        tuple(class_names),
        confusion_matrix(labels, best[:, 0], labels=np.arange(classes)),
        scores,
        labels,
    )


def wilson(hits, count):
    """95 % Wilson interval of a proportion. Source: Wilson 1927, JASA 22.

    >>> [round(x, 4) for x in wilson(95, 100)]
    [0.8882, 0.9785]
    """
    from scipy.stats import binomtest

    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return float(low), float(high)


def calibration_error(confidence, correct, bins=15):
    """Mean gap between confidence and accuracy. Source: Guo et al. 2017, arXiv 1706.04599."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = (abs((confidence - correct)[index == b].sum()) for b in range(bins))
    return float(sum(gaps) / len(confidence))
