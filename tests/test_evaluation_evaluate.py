"""Evaluation, against scikit-learn, a published interval and pictures with known answers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_convnet, tiny_data
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from keras_effv2 import evaluation, graph, layers
from keras_effv2.data import Data, Split
from keras_effv2.evaluation.evaluate import warn_of_small_pixels


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    return build_convnet()


def test_numbers_are_scikit_learns(model):
    judged = evaluation.evaluate(model, tiny_data(), image_size=32)
    split = tiny_data().validation
    scores = model.predict(split.pictures.astype("float32"), verbose=0)
    np.testing.assert_allclose(judged.probabilities, scores, atol=1e-5)
    assert judged.split == "validation" and judged.images == len(split) == 10
    best = scores.argmax(1)
    assert judged.top1 == pytest.approx((best == split.labels).mean())
    assert judged.top5 == 1.0  # there are four classes
    np.testing.assert_array_equal(
        judged.confusion, confusion_matrix(split.labels, best, labels=range(4))
    )
    scores = scores.astype("float64") / scores.sum(1, keepdims=True, dtype="float64")
    assert judged.loss == pytest.approx(log_loss(split.labels, scores, labels=range(4)), rel=1e-4)


def test_top_five_of_many_classes():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(20), size=200).astype("float32")
    labels = rng.integers(0, 20, 200)
    judged = evaluation.judge(scores, labels, [str(i) for i in range(20)])
    expected = top_k_accuracy_score(labels, scores, k=5, labels=range(20))
    assert judged.top5 == pytest.approx(expected)
    assert judged.top1_interval[0] < judged.top1 < judged.top1_interval[1]


def test_wilson_interval():
    """Agresti and Coull 1998 give 0.0 .. 0.2775 for none of ten."""
    assert evaluation.wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert evaluation.wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)


def test_calibration_error_in_closed_form():
    confidence = np.float32([0.9] * 10 + [0.6] * 10)
    correct = np.array([True] * 7 + [False] * 3 + [True] * 6 + [False] * 4)
    assert evaluation.calibration_error(confidence, correct) == pytest.approx(0.1, abs=1e-6)


def test_sigmoid_heads_give_sigmoid_probabilities(model):
    layers.find_pixels(model).activation = "sigmoid"
    pictures = tiny_data().validation.pictures.astype("float32")
    logits = graph.logits_of(model)(pictures, training=False).numpy()
    np.testing.assert_allclose(
        evaluation.probabilities(model)(pictures), 1 / (1 + np.exp(-logits)), atol=1e-6
    )


def test_classes_meet_by_name(model):
    data = tiny_data()
    names = ("grey", "blue", "green", "red")
    layers.find_pixels(model).class_names = names
    judged = evaluation.evaluate(model, data, image_size=32)
    scores = model.predict(data.validation.pictures.astype("float32"), verbose=0)
    np.testing.assert_allclose(judged.probabilities, scores, atol=1e-5)
    order = np.array([names.index(name) for name in data.class_names])
    assert judged.class_names == names
    np.testing.assert_array_equal(judged.labels, order[data.validation.labels])
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
    judged = evaluation.evaluate(saying("grey"), some, tmp_path, image_size=32)
    assert judged.split == "train" and judged.top1 == 0 and judged.images == keep.sum()
    assert judged.confusion[:, 3].sum() == keep.sum()
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
    judged = evaluation.evaluate(saying("blue"), data, image_size=32)
    assert judged.top1 == 1.0 and judged.images == len(split) - 1
    assert "1 pictures without a label are not counted" in caplog.text
    judged = evaluation.evaluate(saying("red"), data, image_size=32)
    assert judged.top1 == pytest.approx((split.labels[:-1] == 0).mean())


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


def test_pixels_from_0_to_1_are_noticed(caplog):
    warn_of_small_pixels(np.full((1, 8, 8, 3), 0.9))
    assert "models here take 0..255, not 0..1" in caplog.text
