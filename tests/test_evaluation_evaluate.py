"""Evaluation, against scikit-learn, a published interval and pictures with known answers."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_convnet, tiny_data
from scipy.stats import binomtest
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from keras_effv2 import evaluation, files, layers
from keras_effv2.data import Data, Split


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    return build_convnet()


def test_numbers_are_scikit_learns(model):
    result = evaluation.evaluate(model, tiny_data(), image_size=32)
    split = tiny_data().validation
    scores = model.predict(split.pictures.astype("float32"), verbose=0)
    np.testing.assert_allclose(result.probabilities, scores, atol=1e-5)
    assert result.split == "validation" and result.images == len(split) == 10
    best = scores.argmax(1)
    assert result.top1 == pytest.approx((best == split.labels).mean())
    assert result.top5 == 1.0  # there are four classes
    np.testing.assert_array_equal(
        result.confusion, confusion_matrix(split.labels, best, labels=range(4))
    )
    scores = scores.astype("float64") / scores.sum(1, keepdims=True, dtype="float64")
    assert result.loss == pytest.approx(log_loss(split.labels, scores, labels=range(4)), rel=1e-4)
    balanced = balanced_accuracy_score(split.labels, best)
    assert result.balanced_accuracy == pytest.approx(balanced)
    assert np.mean([recall for _, recall, _ in result.lowest_recalls]) == pytest.approx(balanced)


def test_top_five_of_many_classes():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(20), size=200).astype("float32")
    labels = rng.integers(0, 20, 200)
    result = evaluation.judge(scores, labels, [str(i) for i in range(20)])
    expected = top_k_accuracy_score(labels, scores, k=5, labels=range(20))
    assert result.top5 == pytest.approx(expected)
    assert result.top1_interval[0] < result.top1 < result.top1_interval[1]


def test_wilson_interval():
    """Agresti and Coull 1998 give 0.0 .. 0.2775 for none of ten."""
    assert evaluation.wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert evaluation.wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)


def test_calibration_error_in_closed_form():
    confidence = np.float32([0.9] * 10 + [0.6] * 10)
    correct = np.array([True] * 7 + [False] * 3 + [True] * 6 + [False] * 4)
    assert evaluation.calibration_error(confidence, correct) == pytest.approx(0.1, abs=1e-6)


def test_classes_meet_by_name(model):
    data = tiny_data()
    names = ("grey", "blue", "green", "red")
    layers.find_pixels(model).class_names = names
    result = evaluation.evaluate(model, data, image_size=32)
    scores = model.predict(data.validation.pictures.astype("float32"), verbose=0)
    np.testing.assert_allclose(result.probabilities, scores, atol=1e-5)
    order = np.array([names.index(name) for name in data.class_names])
    assert result.class_names == names
    np.testing.assert_array_equal(result.labels, order[data.validation.labels])
    layers.find_pixels(model).class_names = ("a", "b", "c", "d")
    with pytest.raises(ValueError, match="does not know the class 'red'. Its classes: a, b"):
        evaluation.evaluate(model, data, image_size=32)
    with pytest.raises(ValueError, match="no split 'test'. Splits: validation, train"):
        evaluation.evaluate(model, data, split="test")


def saying(name):
    """A model that always says one of four colours."""
    model = build_convnet()
    layers.find_pixels(model).class_names = names = tiny_data().class_names
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([kernel * 0, 9.0 * (np.array(names) == name)])
    return model


def test_classes_without_pictures_can_be_said_all_the_same(tmp_path):
    """Two of the model's four classes have pictures: a model that says a third is always wrong."""
    whole = tiny_data().validation
    keep = np.isin(whole.labels, (0, 1))
    some = Data(
        "two", ("red", "green"), Split(("red", "green"), whole.labels[keep], whole.pictures[keep])
    )
    result = evaluation.evaluate(saying("grey"), some, tmp_path, image_size=32)
    assert result.split == "train" and result.top1 == 0 and result.images == keep.sum()
    assert result.confusion[:, 3].sum() == keep.sum()
    assert evaluation.evaluate(saying("red"), some, image_size=32).top1 == pytest.approx(
        (whole.labels[keep] == 0).mean()
    )
    page = (tmp_path / "report.html").read_text()
    assert "<td>red</td>" in page and "<td>grey</td>" not in page


class TwoLabels(Split):
    """Every picture has its own label and `blue`; the last has none."""

    def eval_batches(self, **settings):
        def more(images, targets, mask):
            return images, tf.maximum(targets, tf.one_hot(2, 4)), mask

        batches = super().eval_batches(**{**settings, "batch_size": len(self)})
        last = tf.one_hot(len(self) - 1, len(self))[:, None]
        return batches.map(more).map(lambda x, y, mask: (x, y * (1 - last), mask))


def test_any_of_several_labels_is_a_hit(caplog, tmp_path):
    split = tiny_data().validation
    data = Data(
        "two", split.class_names, TwoLabels(split.class_names, split.labels, split.pictures)
    )
    result = evaluation.evaluate(saying("blue"), data, image_size=32)
    assert result.top1 == 1.0 and result.images == len(split) - 1
    assert "1 pictures without a label are not counted" in caplog.text
    result = evaluation.evaluate(saying("red"), data, image_size=32)
    assert result.top1 == pytest.approx((split.labels[:-1] == 0).mean())


def test_sizes_and_channels_are_the_models():
    fixed = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    assert evaluation.evaluate(fixed, tiny_data()).images == 10
    with pytest.raises(ValueError, match="takes pictures of 32 pixels alone.*image_size=64"):
        evaluation.evaluate(fixed, tiny_data(), image_size=64)
    grey = keras.Sequential(
        [keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    with pytest.raises(ValueError, match=r"inputs of shape \(None, 32, 32, 1\).*three channels"):
        evaluation.evaluate(grey, tiny_data())


def test_relative_attention_takes_multiples_of_32(tiny_coatnet):
    with pytest.raises(ValueError, match="multiples of 32 pixels. Received: 100"):
        evaluation.evaluate(tiny_coatnet(classes=4), tiny_data(), image_size=100)


def test_few_of_a_class_are_seen_beside_many(tmp_path):
    """228 and 12 pictures, 3 of the few found: 96 % are right, and yet the few are missed."""
    labels = np.repeat([0, 1], [228, 12])
    scores = np.tile(np.float32([0.8, 0.2]), (240, 1))
    scores[228:231] = 0.1, 0.9
    result = evaluation.judge(scores, labels, ["many", "few"], "validation")
    assert result.top1 == pytest.approx(231 / 240)
    assert result.balanced_accuracy == pytest.approx((1 + 0.25) / 2)
    assert result.lowest_recalls == (("few", 0.25, 12), ("many", 1.0, 228))
    assert "balanced accuracy 62.50%, macro F1 0.690, lowest recalls: few 25.0% of 12" in str(
        result
    )
    expected = f1_score(labels, scores.argmax(1), average="macro")
    assert result.macro_f1 == pytest.approx(expected)
    (name, recall, count, low, high), _ = sorted(result.class_recalls)
    assert (name, recall, count) == ("few", 0.25, 12)
    interval = binomtest(3, 12).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx(tuple(interval))
    summary = json.loads(json.dumps(result.summary()))
    assert summary["lowest_recalls"][0] == {"class": "few", "recall": 0.25, "images": 12}
    assert summary["balanced_accuracy"] == pytest.approx(0.625)
    assert summary["class_recalls"][1]["interval"] == pytest.approx([low, high])


def two_classes(head):
    """A model of two classes by one output, and data of which it knows a half."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, head(x))
    next(x for x in model.layers if x.weights).set_weights(
        [np.float32([[0.0], [0.0], [0.1]]), np.float32([-12.0])]
    )
    pictures = np.zeros((8, 32, 32, 3), "uint8")
    pictures[2:6, ..., 2] = 200
    labels = np.repeat([0, 1], 4)
    names = ("cat", "dog")
    return model, Data("pets", names, Split(names, labels, pictures))


@pytest.mark.parametrize(
    "head",
    [
        keras.layers.Dense(1, "sigmoid"),
        keras.layers.Dense(1),
        lambda x: keras.layers.Activation("sigmoid")(keras.layers.Dense(1)(x)),
    ],
)
def test_one_output_is_evaluated_as_two_classes(head, tmp_path):
    model, data = two_classes(head)
    result = evaluation.evaluate(model, data, tmp_path)
    z = np.where(data.train.pictures[:, 0, 0, 2] > 0, 8.0, -12.0)
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(result.probabilities, np.stack([1 - p, p], 1), atol=1e-5)
    np.testing.assert_array_equal(result.confusion, [[2, 2], [2, 2]])
    assert result.top1 == 0.5 and result.class_names == ("cat", "dog")
    assert "<td>dog</td>" in (tmp_path / "report.html").read_text()
    three = Data(
        "three", ("a", "b", "c"), Split(("a", "b", "c"), [0, 1, 2], data.train.pictures[:3])
    )
    with pytest.raises(ValueError, match="has 1 outputs.*Evaluate it on data with 2 classes"):
        evaluation.evaluate(model, three)


def test_a_report_in_a_store(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="The folder of the report is .*Received: s3://x/report"):
        evaluation.evaluate(model, tiny_data(), "s3://x/report")
    found = evaluation.evaluate(model, tiny_data(), "ram://x/report")
    store = files.place("ram://x/report", "The report")
    assert {path.name for path in store.iterdir()} == {
        "report.html",
        "evaluation.json",
        "doubtful.csv",
    }
    assert json.loads((store / "evaluation.json").read_text())["top1"] == found.top1
    assert list(tmp_path.iterdir()) == []
