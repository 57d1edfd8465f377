"""Several labels a picture: numbers against scikit-learn, thresholds against counting, the page."""

import json

import keras
import numpy as np
import pytest
from conftest import build_convnet, tiny_data
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, log_loss

from keras_effv2 import evaluation, layers
from keras_effv2.data import Data, Split
from keras_effv2.evaluation import calibration, several

NAMES = ("sun", "sea", "snow", "never")


def drawn(count=3000, factor=1.0, seed=0):
    """Probabilities of logits that are `factor` times those by which labels were drawn; one is never."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (count, 4))
    labels = rng.random((count, 4)) < expit(logits)
    labels[:, 3] = False
    return expit(factor * logits), labels


def test_numbers_are_those_of_scikit_learn():
    scores, labels = drawn(400)
    thresholds = [0.3, 0.5, 0.6, 0.5]
    result = evaluation.judge_several(scores, labels, NAMES, thresholds, "test")
    said = scores >= thresholds
    expected = average_precision_score(labels[:, :3], scores[:, :3], average="macro")
    assert result.mean_average_precision == pytest.approx(expected)
    assert result.micro_f1 == pytest.approx(f1_score(labels, said, average="micro"))
    macro = f1_score(labels[:, :3], said[:, :3], average="macro")
    assert result.macro_f1 == pytest.approx(macro)
    assert result.exact == pytest.approx((said == labels).all(1).mean())
    losses = [log_loss(labels[:, i], scores[:, i], labels=[False, True]) for i in range(4)]
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-4)
    table = {row[0]: row for row in result.labels_table}
    assert table["never"][1:3] == (0, None) and table["sun"][-1] == 0.3
    text = json.loads(json.dumps(result.summary()))
    assert text["labels_table"][1]["label"] == "sea" and "never" not in str(result)
    with pytest.raises(ValueError, match="No picture has a label"):
        evaluation.judge_several(scores, labels & False, NAMES)


def test_a_threshold_is_where_f1_is_largest():
    scores, labels = drawn(500)
    for column in range(3):
        own, truth = scores[:, column], labels[:, column]
        found = several._threshold(own, truth)
        best = max(f1_score(truth, own >= t) for t in own)
        assert f1_score(truth, own >= found) == pytest.approx(best)
    assert several._threshold(scores[:, 3], labels[:, 3]) == 0.5
    assert several._threshold(scores[:, 0], np.arange(500) < 2) == 0.5  # too few to tell


@pytest.mark.parametrize("factor", [0.5, 2.5])
def test_one_temperature_for_all_labels(factor):
    """Of the three that are drawn by their logits; it is found again."""
    scores, labels = drawn(6000, factor)
    found = calibration.sharpening(scores[:, :3], labels[:, :3], independent=True)
    assert found == pytest.approx(1 / factor, rel=0.06)


@pytest.fixture
def collages():
    """Noise whose red, green or blue is raised, each by itself."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 120, (40, 32, 32, 3), dtype="uint8")
    labels = rng.random((40, 3)) < 0.5
    pictures += (120 * labels[:, None, None]).astype("uint8")
    names = ("red", "green", "blue")
    split = Split(names, labels, pictures, several=True)
    return Data("collages", names, split, split, split)


def build_sigmoids():
    body = build_convnet()
    head = keras.layers.Dense(3, "sigmoid", name="labels")
    return keras.Model(body.input, head(body.layers[-2].output))


def test_evaluated_with_a_page(collages, tmp_path):
    """By its own thresholds, which the file keeps; a picture without a label counts too."""
    model = build_sigmoids()
    found = evaluation.calibrate_several(model, collages.validation, image_size=32)
    pixels = layers.find_pixels(model)
    assert pixels.thresholds == found["thresholds"] and len(pixels.thresholds) == 3
    scores = model.predict(collages.test.pictures.astype("float32"), verbose=0)
    pixels.class_names = collages.class_names
    result = evaluation.evaluate(model, collages, tmp_path, image_size=32)
    assert result.images == 40 and not result.labels.any(1).all()
    np.testing.assert_allclose(result.probabilities, scores, atol=1e-5)
    np.testing.assert_array_equal(result.labels, collages.test.labels)
    said = scores >= np.array(found["thresholds"])
    assert result.micro_f1 == pytest.approx(f1_score(collages.test.labels, said, average="micro"))
    for columns, row in zip(evaluation.said(model, scores), said, strict=True):
        assert sorted(columns) == np.flatnonzero(row).tolist()
    page = (tmp_path / "report.html").read_text()
    assert (
        "<th>threshold</th>" in page and "Precision and recall" in page and page.count("<img") >= 2
    )
    assert (
        json.loads((tmp_path / "evaluation.json").read_text())["labels_table"][0]["label"] == "red"
    )
    single = evaluation.evaluate(build_convnet(), tiny_data(), image_size=32)
    assert isinstance(single, evaluation.Evaluation)
