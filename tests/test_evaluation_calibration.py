"""Confidences against closed forms, scikit-learn and SciPy; thresholds by counting."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from conftest import build_convnet, dense, tiny_data
from scipy.special import expit, logit, softmax
from sklearn.metrics import roc_auc_score

from keras_effv2 import data, evaluation, layers
from keras_effv2.evaluation import calibration


def overconfident(factor=3.0, count=4000, classes=4, seed=0):
    """Logits that are `factor` times those by which the labels were drawn, as probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, classes))
    true = softmax(logits, 1)
    labels = (true.cumsum(1) > rng.random((count, 1))).argmax(1)
    return softmax(factor * logits, 1).astype("float32"), labels


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_again(factor):
    scores, labels = overconfident(factor)
    found = calibration.sharpening(scores, np.eye(4)[labels])
    assert found == pytest.approx(1 / factor, rel=0.06)
    honest = calibration.tempered(scores, found)
    np.testing.assert_array_equal(honest.argmax(1), scores.argmax(1))
    np.testing.assert_allclose(calibration.tempered(honest, 1 / found), scores, atol=1e-5)
    error = evaluation.calibration_error(honest.max(1), honest.argmax(1) == labels)
    assert error < 0.03


def test_a_prior_that_training_took_off_is_no_lack_of_confidence():
    """Labels of unequal frequency, logits without it: with the weights the factor is 1."""
    rng = np.random.default_rng(1)
    logits, prior = rng.normal(0, 1.5, (6000, 3)), np.array([0.8, 0.15, 0.05])
    true = softmax(logits + np.log(prior), 1)
    labels = (true.cumsum(1) > rng.random((6000, 1))).argmax(1)
    found = calibration.sharpening(softmax(logits, 1), np.eye(3)[labels], 1 / prior)
    assert found == pytest.approx(1.0, rel=0.06)


def test_all_right_does_not_prove_that_nothing_goes_wrong():
    """Ten pictures, all right: Platt's targets, (n + 1) / (n + 2) and the rest for all alike."""
    scores = np.full((10, 3), 0.1)
    scores[:, 0] = 0.8
    factor = calibration.sharpening(scores, np.eye(3)[np.zeros(10, int)])
    assert calibration.tempered(scores, factor)[0, 0] == pytest.approx(11 / 12 + 1 / 12 / 3)


def test_it_goes_into_the_last_layer(tmp_path):
    """Exactly the model's logits over the temperature, whatever its last activation stands in."""
    split = tiny_data().validation
    for model in (build_convnet(), dense(4)):
        before = model.predict(split.pictures.astype("float32"), verbose=0)
        found = evaluation.calibrate(model, split, image_size=32)
        after = model.predict(split.pictures.astype("float32"), verbose=0)
        wanted = calibration.tempered(before, 1 / found["temperature"])
        np.testing.assert_allclose(after, wanted, rtol=1e-4, atol=1e-6)
        assert found["pictures"] == 10 and found["unknown_below"] is None
    model = build_convnet()
    head = model.get_layer("predictions")  # it has learnt that two colours are twice as frequent
    head.set_weights([0 * head.kernel.numpy(), np.float32([2, 2, 0, 0])])
    first = evaluation.calibrate(model, split, image_size=32)["temperature"]
    again = evaluation.calibrate(model, split, image_size=32)["temperature"]
    assert again == pytest.approx(first, rel=1e-3)  # of the model as it was trained
    model.save(tmp_path / "m.keras")
    kept = layers.find_pixels(keras.models.load_model(tmp_path / "m.keras")).contract()
    assert kept["temperature"] == again and "unknown_below" not in kept
    model.save_weights(tmp_path / "m.weights.h5")
    fresh = build_convnet()
    fresh.load_weights(tmp_path / "m.weights.h5")
    assert layers.find_pixels(fresh).temperature == again


def test_sigmoids_over_data_with_one_label_stay_sigmoids():
    """Each logit over the temperature, by SciPy; what they were before is told of the same ones."""
    whole, model = tiny_data(), build_convnet()
    head = keras.layers.Dense(4, "sigmoid")
    model = keras.Model(model.input, head(model.layers[-2].output))
    head.set_weights([3 * head.kernel.numpy(), head.bias.numpy()])
    pictures = whole.validation.pictures.astype("float32")
    before = model.predict(pictures, verbose=0)
    found = evaluation.calibrate(model, whole.validation, share=0.2, image_size=32)
    after = model.predict(pictures, verbose=0)
    assert abs(found["temperature"] - 1) > 0.05
    np.testing.assert_allclose(after, expit(logit(before) / found["temperature"]), rtol=1e-4)
    right = before.argmax(1) == whole.validation.labels
    error = evaluation.calibration_error(before.max(1), right)
    assert found["calibration_error_before"] == pytest.approx(error)
    others = np.where(np.eye(4)[whole.validation.labels] > 0, 0, after).max(1)
    assert (others > found["unknown_below"]).sum() <= 2
    layers.find_pixels(model).class_names = whole.class_names
    result = evaluation.evaluate(model, whole, split="validation", image_size=32)
    assert result.calibration_error_before == pytest.approx(error)


def test_a_head_that_is_none_is_refused():
    images = keras.Input((None, None, 3))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    model = keras.Model(images, keras.layers.Softmax()(model.output))
    with pytest.raises(ValueError, match="a temperature goes into a Dense layer with a bias"):
        evaluation.calibrate(model, tiny_data().validation)
    with pytest.raises(ValueError, match=r"`share` is the part .* in \(0, 1\). Received: 5"):
        evaluation.calibrate(dense(4), tiny_data().validation, share=5)


def strangers(count=30):
    pictures = np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3), dtype="uint8")
    return data.Split(tiny_data().class_names, np.zeros((count, 4)), pictures, several=True)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_so_many_strange_pictures_are_named(share, tmp_path):
    model, whole = build_convnet(), dataclasses.replace(tiny_data(), unknown=strangers())
    found = evaluation.calibrate(
        model, whole.validation, strangers=whole.unknown, share=share, image_size=32
    )
    scores = model.predict(whole.unknown.pictures.astype("float32"), verbose=0)
    assert (scores.max(1) >= found["unknown_below"]).sum() <= share * 30
    assert (scores.max(1) >= found["unknown_below"] - 1e-5).sum() >= share * 30
    result = evaluation.evaluate(model, whole, tmp_path, image_size=32)
    known = model.predict(whole.validation.pictures.astype("float32"), verbose=0)
    named, told = known.max(1) >= found["unknown_below"], result.rejection
    assert told["rejected"] == pytest.approx(1 - named.mean())
    assert told["strangers"] == 30 and told["accepted"] <= share
    truth = np.r_[np.ones(10), np.zeros(30)]
    assert told["auroc"] == pytest.approx(
        roc_auc_score(truth, np.r_[known.max(1), scores.max(1)]), abs=0.01
    )
    assert "AUROC" in str(result) and "are unknown (below" in str(result)
    page = (tmp_path / "report.html").read_text()
    assert "unknown: less sure than" in page and "Coverage and risk" in page
    assert "without its temperature" in page
    assert json.loads((tmp_path / "evaluation.json").read_text())["rejection"] == told
    assert [len(own) for own in evaluation.said(model, known)] == named.astype(int).tolist()


def test_without_strange_pictures_a_class_is_left_out():
    """The threshold is the confidence of what the other classes say, each class left out once."""
    model, split = build_convnet(), tiny_data().validation
    found = evaluation.calibrate(model, split, share=0.2, image_size=32)
    scores = model.predict(split.pictures.astype("float32"), verbose=0)
    scores[np.arange(10), split.labels] = 0
    sure = np.sort((scores / scores.sum(1, keepdims=True)).max(1))
    assert (sure >= found["unknown_below"] + 1e-6).sum() <= 2
    assert found["unknown_below"] == pytest.approx(sure[8], abs=1e-5)


def test_two_classes_alone_say_nothing_of_others():
    """Of two, with its own left out, the other one is certain: a threshold would name nothing."""
    calibration.check_strangers(None, 2, None)
    calibration.check_strangers(0.1, 3, None)
    with pytest.raises(ValueError, match="leave `share` out. Received: share=0.1"):
        calibration.check_strangers(0.1, 2, None)
