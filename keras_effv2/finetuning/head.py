"""The head, solved on features of the frozen backbone that are computed once."""

import keras
import numpy as np
import tensorflow as tf

from keras_effv2 import graph
from keras_effv2.data.weighting import class_weights
from keras_effv2.evaluation.doubts import cross_validated, find_doubts

FEW_ENOUGH = 10_000  # pictures of which doubtful labels are looked for: five more solutions
STRENGTHS = (0.0003, 0.003, 0.03)  # of the regularisation; the middle one where none can be chosen
ENOUGH = 20_000  # pictures to solve a head on; more take hours and change little


def fit_head(model, split, image_size, batch_size=32, seed=0, class_weight="none"):
    """Solves the head of a model on features of its frozen backbone.

    Args:
        model: A classifier of this package; its last dense layer is set.
        split: Training `Split`; of a larger one, 20,000 pictures at random.
        image_size: Side in pixels.
        batch_size: Pictures at a time.
        seed: Seed of the sample and of the split by which the regularisation is chosen.
        class_weight: As `Recipe.class_weight`: the logarithms of the weights are added to the
            solution's biases, which is what minimises the loss that takes them off.

    Returns:
        Accuracy on pictures held out for choosing the regularisation, which count as the weights
        say; NaN if there are classes of fewer than five, which are too few to choose by. Of several
        labels a picture, which are solved one by one, the mean average precision.

    Raises:
        ValueError: If a picture of data with one label has several labels, or none.
    """
    return solve(model, split, image_size, batch_size, seed, class_weight)[0]


def solve(model, split, image_size, batch_size=32, seed=0, class_weight="none", doubting=False):
    """As `fit_head`; gives its score and, where they are asked for, the labels that it doubts.

    Returns:
        The score, and a list of `evaluation.doubts.Doubt` of the training pictures, each by a head
        that was solved without it; empty of several labels a picture, of very many pictures, and
        where a class has a single one.
    """
    weights = class_weights(class_weight, split)
    weights = np.ones(len(split.class_names)) if weights is None else weights
    sampled = len(split) > ENOUGH
    if sampled:
        order = np.random.default_rng(seed).permutation(len(split))
        split = split.select(np.sort(order[:ENOUGH]))
    head = graph.head_of(model)
    features, labels = _features(model, head, split, image_size, batch_size)
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    features = (features - mean) / deviation
    found = []
    if split.several:
        kernel, bias, score = _of_several(features, labels, seed)
    else:
        labels = labels.argmax(1)
        best, score = _regularisation(features, labels, weights, seed)
        kernel, bias = _solved(features, labels, len(weights), best)
        if doubting and len(labels) <= FEW_ENOUGH:
            found = _doubts(features, labels, split.class_names, best, seed)
        missing = np.bincount(labels, minlength=len(weights)) == 0
        # classes without a picture: not to be named, unless it is the sample that has none
        bias[missing] = bias[~missing].min() if sampled else -10.0
        bias[~missing] += np.log(weights[~missing])
    kernel /= deviation[:, None]
    head.set_weights([kernel, bias - mean @ kernel])
    return score, found


def _doubts(features, labels, class_names, strength, seed):
    def fit(some, own):
        kernel, bias = _solved(some, own, len(class_names), strength)
        bias[np.bincount(own, minlength=len(bias)) == 0] = -np.inf
        return kernel, bias

    probabilities = cross_validated(fit, features, labels, len(class_names), seed)
    return [] if probabilities is None else find_doubts(probabilities, labels, class_names)


def _features(model, head, split, image_size, batch_size):
    """What comes to the head, `(n, channels)`, and the labels as 0 and 1, `(n, classes)`."""
    backbone = keras.Model(model.input, head.input)
    compute = tf.function(
        lambda x: backbone(x, training=False), reduce_retracing=True, autograph=False
    )
    features, labels = [], []
    for images, targets, mask in split.eval_batches(image_size=image_size, batch_size=batch_size):
        keep = mask.numpy() > 0
        labels.append(targets.numpy()[keep] > 0)
        given = labels[-1].sum(1)
        if not split.several and (given != 1).any():
            raise ValueError(
                f"This data has one label a picture; one here has {given[given != 1][0]}. Give it as "
                "a Split with several=True, and a recipe of loss='sigmoid'."
            )
        features.append(compute(images).numpy()[keep])
    return np.concatenate(features), np.concatenate(labels)


def _of_several(features, labels, seed):
    """Kernel and bias of a logistic regression a label; mean average precision on pictures held out."""
    from sklearn.metrics import average_precision_score

    order = np.random.default_rng(seed).permutation(len(labels))
    held, rest = np.split(order, [len(order) // 5])
    scored = np.flatnonzero(labels[held].any(0) & labels[rest].any(0))

    def precision(strength):
        kernel, bias = _each(features[rest], labels[rest], strength)
        said = features[held] @ kernel + bias
        return average_precision_score(labels[held][:, scored], said[:, scored])

    best, score = _best(precision) if len(scored) else (STRENGTHS[1], np.nan)
    return *_each(features, labels, best), float(score)


def _best(score_of):
    """The strength of the highest score, and the score."""
    scores = {strength: score_of(strength) for strength in STRENGTHS}
    return max(scores.items(), key=lambda item: item[1])


def _each(features, labels, strength):
    """Kernel and bias of one logistic regression a label; of one that never differs its log odds."""
    kernel, bias = np.zeros((features.shape[1], labels.shape[1])), np.zeros(labels.shape[1])
    for column, own in enumerate(labels.T):
        if own.all() or not own.any():
            bias[column] = np.log((own.sum() + 0.5) / ((~own).sum() + 0.5))
            continue
        each, offset = _solved(features, own.astype(int), 2, strength)
        kernel[:, column], bias[column] = each[:, 1] - each[:, 0], offset[1] - offset[0]
    return kernel, bias


def _regularisation(features, labels, weights, seed):
    """The strength that does best on pictures held out, which count by class; and how well."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    if min(counts[counts > 0]) < 5:  # too few to choose by
        return STRENGTHS[1], np.nan
    parts = train_test_split(features, labels, test_size=0.2, random_state=seed, stratify=labels)
    train, held, train_labels, held_labels = parts

    def accuracy(strength):
        kernel, bias = _solved(train, train_labels, len(weights), strength)
        said = (held @ kernel + bias + np.log(weights)).argmax(1)
        return np.average(said == held_labels, weights=weights[held_labels])

    return _best(accuracy)


def _solved(features, labels, classes, strength):
    """Kernel and bias of a logistic regression; of classes without a picture zeros."""
    from sklearn.linear_model import LogisticRegression

    solved = LogisticRegression(C=strength, max_iter=200).fit(features, labels)
    coefficients, intercepts = solved.coef_, solved.intercept_
    if len(solved.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel, bias = np.zeros((features.shape[1], classes)), np.zeros(classes)
    kernel[:, solved.classes_] = coefficients.T
    bias[solved.classes_] = intercepts
    return kernel, bias
