"""Unequal classes, unknown pictures and doubtful labels, on features that are computed once.

    python benchmarks/labels.py --data folder:flowers --weights b0.weights.h5 --what tails,unknown,doubts

`tails`: training pictures are left out until the classes are as unequal as asked, which class is rare
is drawn; the head is solved unweighted, with balanced weights in its loss, and with the prior taken
off the logits (`class_weight="auto"`). `unknown`: each class in turn is left out of training and is
what must not be named, as must be the pictures of `--strangers`. `doubts`: a hundred labels are changed.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, recall_score, roc_auc_score

import keras_effv2 as kev
from keras_effv2 import graph
from keras_effv2.evaluation import calibration, doubts

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="folder:PATH with a split of its own")
parser.add_argument("--strangers", help="folder:PATH of other pictures, for unknown")
parser.add_argument("--weights", default="imagenet", help="tag or path")
parser.add_argument("--image_size", type=int, default=160)
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--what", default="tails,unknown,doubts")
parser.add_argument("--ratios", default="1,3,10,30,100", help="most pictures to fewest, of tails")
STRENGTHS = (0.0003, 0.003, 0.03)


def features_of(body, split, image_size):
    compute = tf.function(lambda x: body(x, training=False))
    batches = split.eval_batches(image_size=image_size, batch_size=32)
    found = [compute(images).numpy()[mask.numpy() > 0] for images, _, mask in batches]
    return np.concatenate(found)


def solve(features, labels, classes, strength=0.003, class_weight=None):
    """A function of features that gives logits."""
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    solved = LogisticRegression(C=strength, max_iter=200, class_weight=class_weight)
    solved.fit((features - mean) / deviation, labels)
    return lambda x: ((x - mean) / deviation) @ solved.coef_.T + solved.intercept_


def tails(train, test, seeds, ratios):
    (x, y), (held, truth) = train, test
    classes, most = int(y.max()) + 1, np.bincount(y).min()
    for ratio in ratios:
        counts = [max(1, round(most * ratio ** (-i / (classes - 1)))) for i in range(classes)]
        rows = {}
        for seed in seeds:
            rng = np.random.default_rng(seed)
            order = rng.permutation(classes)
            parts = zip(order, counts, strict=True)
            own = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:n] for c, n in parts])
            prior = np.bincount(y[own], minlength=classes) / len(own)
            plain = solve(x[own], y[own], classes)(held)
            arms = {
                "none": plain,
                "balanced weights": solve(x[own], y[own], classes, class_weight="balanced")(held),
                "auto": plain - np.log(prior),
            }
            for name, logits in arms.items():
                said = logits.argmax(1)
                recalls = recall_score(truth, said, average=None)
                few = recalls[order[classes // 2 :]].mean()
                f1 = f1_score(truth, said, average="macro")
                rows.setdefault(name, []).append((recalls.mean(), f1, few, recalls @ prior))
        for name, found in rows.items():
            told = ["{:.1%} ({:.1%} to {:.1%})".format(*spread(own)) for own in zip(*found)]
            text = "{}:1 {}: balanced accuracy {}, macro F1 {}, recall of the rarer half {}, at the prior {}"
            print(text.format(ratio, name, *told), flush=True)


def spread(values):
    return np.median(values), np.min(values), np.max(values)


def unknown(train, test, strangers, seeds, share=0.1):
    (x, y), (held, truth) = train, test
    rows, classes = {}, int(y.max()) + 1
    for seed in seeds:
        for out in range(classes):
            rng = np.random.default_rng((seed, out))
            known = rng.permutation(np.flatnonzero(y != out))
            few, rest = np.split(known, [len(known) // 10])
            name = np.cumsum(np.arange(classes) != out) - 1  # the other classes from 0 on
            logits = solve(x[rest], name[y[rest]], classes - 1)
            factor = calibration.sharpening(softmax(logits(x[few]), 1), name[y[few]])

            def sure(features, logits=logits, factor=factor):
                return softmax(factor * logits(features), 1)

            least = np.quantile(
                calibration._without_their_class(sure(x[few]), name[y[few]]), 1 - share
            )
            own = sure(held[truth != out])
            right = own.argmax(1) == name[truth[truth != out]]
            raw = softmax(logits(held[truth != out]), 1)
            found = {
                "calibration error before": kev.evaluation.calibration_error(raw.max(1), right),
                "calibration error after": kev.evaluation.calibration_error(own.max(1), right),
                "known pictures that are rejected": (own.max(1) < least).mean(),
            }
            others = {"the class left out": held[truth == out], "other pictures": strangers}
            for what, pictures in others.items():
                if pictures is None:
                    continue
                theirs = sure(pictures).max(1)
                both = np.r_[own.max(1), theirs]
                told = np.r_[np.ones(len(own)), np.zeros(len(theirs))]
                found[f"AUROC, {what}"] = roc_auc_score(told, both)
                found[f"named, {what} ({share:.0%} asked)"] = (theirs >= least).mean()
            for key, value in found.items():
                rows.setdefault(key, []).append(value)
    for key, values in rows.items():
        print("{}: {:.3f} ({:.3f} to {:.3f})".format(key, *spread(values)), flush=True)


def doubtful(train, seeds, flipped=100):
    x, y = train
    x, classes = (x - x.mean(0)) / (x.std(0) + 1e-3), int(y.max()) + 1

    def fit(features, labels):
        solved = LogisticRegression(C=0.003, max_iter=200).fit(features, labels)
        return solved.coef_.T, solved.intercept_

    for seed in seeds:
        rng = np.random.default_rng(seed)
        wrong, given = rng.permutation(len(y))[:flipped], y.copy()
        given[wrong] = (given[wrong] + rng.integers(1, classes, flipped)) % classes
        scores = doubts.cross_validated(fit, x, given, classes, seed)
        order = np.argsort(scores[np.arange(len(y)), given])
        found = [len(set(order[:n]) & set(wrong)) for n in (100, 200)]
        print(
            f"seed {seed}: of {flipped} changed labels {found[0]} among the first 100, {found[1]} of 200"
        )


def main():
    args = parser.parse_args()
    seeds, data = (
        [int(seed) for seed in args.seeds.split(",")],
        kev.data.load(args.data, validation=0),
    )
    model = kev.EfficientNetV2B0(weights=args.weights)
    body = keras.Model(model.input, graph.head_of(model).input)

    def of(split):
        return features_of(body, split, args.image_size), split.labels

    train, test, strangers = of(data.train), of(data.test), None
    if args.strangers:
        strangers = of(kev.data.load(args.strangers, validation=0).train)[0]
    if "tails" in args.what:
        tails(train, test, seeds, [int(ratio) for ratio in args.ratios.split(",")])
    if "unknown" in args.what:
        unknown(train, test, strangers, seeds)
    if "doubts" in args.what:
        doubtful(train, seeds)


if __name__ == "__main__":
    main()
