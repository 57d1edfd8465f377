"""Confidences that mean something: a temperature, and a confidence below which nothing is named."""

import numbers

import keras
import numpy as np

from keras_effv2 import graph, layers
from keras_effv2.arguments import check_array
from keras_effv2.evaluation.outputs import are_independent, check_split, likeliest, predicted


def calibrate(model, split, *, class_weights=None, strangers=None, share=None, image_size=None):
    """Makes a classifier's confidences honest, by pictures that it was not trained on.

    The logits are divided by a temperature, which goes into kernel and bias of the last layer: no
    layer is added, and the order of the classes stays. With `share` a confidence is found below
    which a picture is said to be unknown. The model's `Pixels` layer keeps both.

    Args:
        model: A classifier whose last layer is a dense one, of a softmax or of sigmoids; changed in
            place.
        split: Labelled pictures to calibrate by, such as a validation `Split`.
        class_weights: What classes counted in training, `(classes,)`; None: all alike. Confidences
            are then those among classes that are as frequent as the weights made them.
        strangers: `Split` of pictures of none of the classes, or None.
        share: Part of strange pictures that may be named, in (0, 1), or None for no threshold.
            Without `strangers` each picture of `split` stands for one, its own class left out.
        image_size: Side in pixels; None takes the model's.

    Returns:
        A dictionary: `temperature`, `pictures`, `calibration_error_before` and
        `calibration_error` of these pictures, `unknown_below` or None.

    Raises:
        TypeError: If `split` or `strangers` is none.
        ValueError: If the last layer is no dense layer with a bias, `share` is no such part,
            `class_weights` are none, or there are two classes and no `strangers`. The model is
            unchanged then.

    Source: Guo et al. 2017, arXiv 1706.04599; its targets as Platt 1999 has them.
    """
    check_share(share)
    check_split("split", split)
    if strangers is not None:
        check_split("strangers", strangers)
    check_strangers(share, len(split.class_names), strangers)
    head = dense_head(model)
    if class_weights is not None:
        class_weights = _checked_weights(class_weights, max(2, model.outputs[0].shape[-1]))
    scores, targets, _ = predicted(model, split, image_size=image_size)
    scores, targets, apart = scores[targets.any(1)], targets[targets.any(1)], are_independent(model)
    labels = likeliest(scores, targets)
    factor = sharpening(scores, np.eye(scores.shape[1])[labels], class_weights, apart)
    temperature, honest = scale(model, head, factor), tempered(scores, factor, apart)
    least = None
    if share is not None:
        if strangers is not None:
            strange = predicted(model, strangers, image_size=image_size)[0].max(1)
        else:
            strange = _without_their_class(honest, labels, apart)
        least = float(np.quantile(strange, 1 - share, method="higher"))
        least = float(np.nextafter(np.float32(least), np.float32(1)))  # that one is not named
    pixels = layers.find_pixels(model)
    if pixels is not None:
        pixels.unknown_below = least
    errors = [calibration_error(p.max(1), p.argmax(1) == labels) for p in (scores, honest)]
    return {
        "temperature": temperature,
        "pictures": len(labels),
        "calibration_error_before": errors[0],
        "calibration_error": errors[1],
        "unknown_below": least,
    }


def dense_head(model):
    """The last layer, into which a temperature can go."""
    head = graph.head_of(model)
    if not isinstance(head, keras.layers.Dense) or graph.is_quantised(head) or head.bias is None:
        raise ValueError(
            f"Model {model.name!r} ends in {head.name!r}: a temperature goes into a Dense layer with "
            "a bias. Calibrate before quantising it."
        )
    return head


def scale(model, head, factor):
    """Multiplies the logits; the model's temperature in all, which its `Pixels` layer keeps."""
    kernel, bias = head.get_weights()[:2]
    head.set_weights([kernel * np.float32(factor), bias * np.float32(factor)])
    pixels = layers.find_pixels(model)
    if pixels is None:
        return float(1 / factor)
    pixels.temperature = float((pixels.temperature or 1.0) / factor)
    return pixels.temperature


def _checked_weights(weights, classes):
    """What classes counted, as an array; no class can have counted nothing."""
    wanted = f"an array ({classes},) of numbers above 0, one a class"
    weights = check_array("class_weights", weights, wanted, lambda shape: shape == (classes,))
    if weights.min() <= 0:
        raise ValueError(f"`class_weights` is {wanted}. Received: {weights.tolist()}.")
    return weights


def check_share(share, name="share"):
    """Refuses what is no part of strange pictures; `name` is that of the argument."""
    if share is not None and not (isinstance(share, numbers.Real) and 0 < share < 1):
        raise ValueError(
            f"`{name}` is the part of strange pictures that may be named, in (0, 1). Received: "
            f"{share!r}."
        )


def sharpening(probabilities, labels, class_weights=None, independent=False):
    """The factor of the logits that makes labelled pictures likeliest: 1 over the temperature.

    Args:
        probabilities: `(n, classes)`.
        labels: 1 where a picture has the label, else 0, `(n, classes)`.
        class_weights: As `calibrate`'s.
        independent: Whether each probability is a sigmoid's; else a row is a softmax's.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, (count, classes) = _logits(probabilities, independent), labels.shape
    prior = 0.0 if class_weights is None else np.log(class_weights)
    doubt = 1 / (count + 2)  # pictures that are all right do not prove that the model cannot err
    targets = (1 - doubt) * labels + doubt * ((1 - labels) if independent else 1 / classes)

    def loss(log_factor):
        z = np.exp(log_factor) * logits - prior
        if independent:
            return np.mean(np.logaddexp(0, z) - targets * z)
        return -np.vdot(targets, log_softmax(z, 1)) / count

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def tempered(probabilities, factor, independent=False):
    """Probabilities of the logits times a factor: 1 over a temperature applies it, it undoes it."""
    from scipy.special import expit, softmax

    logits = factor * _logits(probabilities, independent)
    return expit(logits) if independent else softmax(logits, 1)


def _logits(probabilities, independent):
    p = np.asarray(probabilities, "float64")
    if independent:
        p = np.clip(p, 1e-12, 1 - 1e-7)  # float32 knows none between that and 1
        return np.log(p) - np.log1p(-p)
    return np.log(np.maximum(p, 1e-30))


def check_strangers(share, classes, strangers, name="share"):
    """Refuses a threshold for two classes without other pictures: one left out, one is certain."""
    if share is not None and classes == 2 and strangers is None:
        raise ValueError(
            "Of two classes it cannot be told from their own pictures what is unknown: add a folder "
            f"`unknown` of other pictures, or leave `{name}` out. Received: {name}={share}."
        )


def _without_their_class(probabilities, labels, independent):
    """How sure a model is of pictures whose own class it does not have."""
    rest = probabilities.copy()
    rest[np.arange(len(labels)), labels] = 0
    if not independent:
        rest /= np.maximum(rest.sum(1, keepdims=True), 1e-30)
    return rest.max(1)


def calibration_error(confidence, correct, bins=15):
    """Mean gap between confidence and accuracy. Source: Guo et al. 2017, arXiv 1706.04599."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = (abs((confidence - correct)[index == b].sum()) for b in range(bins))
    return float(sum(gaps) / len(confidence))


def coverage_and_risk(confidence, correct):
    """Part of the pictures that are named and part of those that are wrong, the surest first.

    Source: El-Yaniv and Wiener 2010, JMLR 11.

    >>> coverage, risk = coverage_and_risk(np.array([0.9, 0.6, 0.8]), np.array([1, 0, 1]))
    >>> coverage.round(2).tolist(), risk.round(2).tolist()
    ([0.33, 0.67, 1.0], [0.0, 0.0, 0.33])
    """
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    return counts / len(order), np.cumsum(1 - np.asarray(correct, "float64")[order]) / counts


def rejection(confidence, correct, least=None, strange=None):
    """`Evaluation.rejection`, of confidences of known pictures and of strange ones."""
    from sklearn.metrics import roc_auc_score

    found = {}
    if least is not None:
        named = confidence >= least
        found = {
            "unknown_below": least,
            "rejected": float(1 - named.mean()),
            "top1_named": float(correct[named].mean()) if named.any() else None,
        }
    if strange is not None:
        known = np.r_[np.ones(len(confidence)), np.zeros(len(strange))]
        found["strangers"] = len(strange)
        found["auroc"] = float(roc_auc_score(known, np.r_[confidence, strange]))
        if least is not None:
            found["accepted"] = float((strange >= least).mean())
    return found


def told(result):
    """The end of a line on an `Evaluation`: what the threshold does."""
    found = result.rejection or {}
    parts = []
    if "rejected" in found:
        parts.append(
            f"{found['rejected']:.1%} are unknown (below {found['unknown_below']:.0%})"
            + (
                ""
                if found["top1_named"] is None
                else f", of the rest {found['top1_named']:.1%} right"
            )
        )
    if "accepted" in found:
        parts.append(f"of {found['strangers']} strange pictures {found['accepted']:.1%} are named")
    if "auroc" in found:
        parts.append(f"AUROC {found['auroc']:.3f}")
    return "; " + "; ".join(parts) if parts else ""
