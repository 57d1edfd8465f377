"""The solved head is scikit-learn's logistic regression on the features of the backbone."""

import keras
import numpy as np
import pytest
from conftest import tiny_data
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from keras_effv2 import data, finetuning
from keras_effv2.data import Split


@pytest.mark.parametrize("classes", [2, 4])
def test_solved_head_is_logistic_regression(classes, tiny_effnet):
    """The same decisions as scikit-learn's on the features, for two classes and for more."""
    pictures = tiny_data(count=200).train
    keep = np.flatnonzero(pictures.labels < classes)
    split = data.Split(
        pictures.class_names[:classes], pictures.labels[keep], pictures.pictures[keep]
    )
    model = tiny_effnet(classes=classes, input_shape=(32, 32, 3))
    score = finetuning.fit_head(model, split, 32)
    assert score >= 1.5 / classes
    inputs = split.pictures.astype("float32")
    body = keras.Model(model.input, model.get_layer("predictions").input)
    features = body.predict(inputs, verbose=0)
    features = (features - features.mean(0)) / (features.std(0) + 1e-3)
    ours = model.predict(inputs, verbose=0)
    best = min(
        np.abs(
            LogisticRegression(C=c, max_iter=200)
            .fit(features, split.labels)
            .predict_proba(features)
            - ours
        ).max()
        for c in (0.0003, 0.003, 0.03)
    )
    assert best < 1e-3


@pytest.mark.parametrize("class_weight", ["auto", {"green": 3.0, "grey": 0.5}])
def test_weights_of_classes_move_the_biases_alone(class_weight, tiny_effnet):
    """By scikit-learn's balanced weights, or those given. (Too few to choose a strength by.)"""
    split = tiny_data(count=200).train
    keep = np.sort(np.r_[np.flatnonzero(split.labels < 3), np.flatnonzero(split.labels == 3)[:4]])
    split, heads = split.select(keep), []
    model = tiny_effnet(classes=4, input_shape=(32, 32, 3))
    for setting in ("none", class_weight):
        finetuning.fit_head(model, split, 32, class_weight=setting)
        heads.append(model.get_layer("predictions").get_weights())
    (kernel, bias), (other_kernel, other_bias) = heads
    if class_weight == "auto":
        weights = compute_class_weight("balanced", classes=np.arange(4), y=split.labels)
    else:
        weights = np.array([1, 3, 1, 0.5])
    np.testing.assert_array_equal(kernel, other_kernel)
    np.testing.assert_allclose(other_bias - bias, np.log(weights), atol=1e-5)


def test_a_class_without_pictures_is_never_named(tiny_effnet):
    pictures = tiny_data(count=80).train
    keep = np.flatnonzero(pictures.labels != 1)
    split = pictures.select(keep)
    model = tiny_effnet(classes=4, input_shape=(32, 32, 3))
    finetuning.fit_head(model, split, 32)
    assert (model.predict(split.pictures.astype("float32"), verbose=0)[:, 1] < 1e-2).all()


def test_of_very_many_pictures_some_are_enough(tiny_effnet, monkeypatch):
    seen = []
    monkeypatch.setattr("keras_effv2.finetuning.head.ENOUGH", 20)

    class Counted(Split):
        def eval_batches(self, **settings):
            seen.append(len(self))
            return super().eval_batches(**settings)

        def select(self, indices):
            own = super().select(indices)
            return Counted(own.class_names, own.labels, own.pictures)

    split = tiny_data().train
    model = tiny_effnet(classes=4, input_shape=(32, 32, 3))
    finetuning.fit_head(model, Counted(split.class_names, split.labels, split.pictures), 32)
    assert seen == [20]


def test_each_of_several_labels_is_a_logistic_regression(tiny_effnet):
    """As scikit-learn's on the features; a label that is never there gets its odds."""
    split = tiny_data(count=200).train
    rows = np.stack([split.labels < 2, split.labels % 2 == 0, split.labels < 0], 1)
    model = tiny_effnet(classes=3, input_shape=(32, 32, 3), classifier_activation="sigmoid")
    several = Split([*"abc"], rows, split.pictures, several=True)
    finetuning.fit_head(model, several, 32)
    inputs = split.pictures.astype("float32")
    body = keras.Model(model.input, model.get_layer("predictions").input)
    features = body.predict(inputs, verbose=0)
    features = (features - features.mean(0)) / (features.std(0) + 1e-3)
    ours = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(ours[:, 2], 0.5 / 201, atol=1e-5)
    solved = [
        [
            LogisticRegression(C=c, max_iter=200)
            .fit(features, rows[:, i])
            .predict_proba(features)[:, 1]
            for i in range(2)
        ]
        for c in (0.0003, 0.003, 0.03)
    ]
    assert min(np.abs(np.stack(each, 1) - ours[:, :2]).max() for each in solved) < 2e-3
