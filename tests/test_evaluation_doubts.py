"""Doubtful labels: scikit-learn's cross-validation, flipped labels, the report."""

import csv

import numpy as np
from conftest import build_convnet, tiny_data
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from keras_effv2 import evaluation
from keras_effv2.evaluation import doubts


def clusters(count=300, classes=3, flipped=15, seed=0):
    """Points around corners, some of them with another's label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = rng.normal(0, 0.6, (count, 8))
    features[np.arange(count), labels] += 3
    wrong = rng.permutation(count)[:flipped]
    given = labels.copy()
    given[wrong] = (given[wrong] + 1) % classes
    return features, given, wrong


def solve(features, labels):
    solved = LogisticRegression(C=1.0).fit(features, labels)
    return solved.coef_.T, solved.intercept_


def test_no_picture_is_judged_by_a_model_that_saw_it():
    features, labels, _ = clusters()
    found = doubts.cross_validated(solve, features, labels, 3, seed=1)
    folds = StratifiedKFold(5, shuffle=True, random_state=1)
    wanted = cross_val_predict(
        LogisticRegression(C=1.0), features, labels, cv=folds, method="predict_proba"
    )
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    few = np.r_[labels[:-1], 3]
    assert doubts.cross_validated(solve, features, few, 4) is None


def test_flipped_labels_come_first():
    features, labels, wrong = clusters()
    found = doubts.find_doubts(
        doubts.cross_validated(solve, features, labels, 3), labels, ["a", "b", "c"]
    )
    assert {doubt.index for doubt in found[: len(wrong)]} == set(wrong)
    (doubt,) = doubts.find_doubts([[0.9, 0.1], [0.8, 0.2]], [0, 1], ["a", "b"])  # lists are arrays
    assert (doubt.index, doubt.said) == (1, "a")
    confidences = [doubt.confidence for doubt in found]
    assert confidences == sorted(confidences) and all(d.label != d.said for d in found)


def test_the_report_lists_them(tmp_path):
    """Those of the test pictures, and those of the training pictures that are given."""
    data, model = tiny_data(), build_convnet()
    given = [evaluation.Doubt(3, "grey", "red", 0.01), evaluation.Doubt(0, "red", "blue", 0.2)]
    result = evaluation.evaluate(model, data, tmp_path, image_size=32, doubtful=given)
    with open(tmp_path / "doubtful.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = (result.probabilities.argmax(1) != result.labels).sum()
    assert [row["split"] for row in rows] == ["validation"] * wrong + ["train"] * 2
    assert rows[-2] == {
        **{"split": "train", "file": "picture 3", "label": "grey", "said": "red"},
        "confidence": "0.0100",
    }
    page = (tmp_path / "report.html").read_text()
    assert "Doubtful labels, train" in page and "Doubtful labels, validation" in page
