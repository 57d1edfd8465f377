"""The report of any model, whatever its classes are called."""

import json

import keras
import pytest
from conftest import build_convnet, tiny_data

from keras_effv2 import evaluation
from keras_effv2.data import Data, Split


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    return build_convnet()


def test_a_report_of_any_model_and_any_names(tmp_path, recwarn, caplog):
    names = ("$50_$100", "<b>bold</b>", "a & b", "\u82b1")
    whole = tiny_data()
    data = Data(
        "odd", names, *(Split(names, s.labels, s.pictures) for s in (whole.train, whole.validation))
    )
    flat = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()])
    model = keras.Sequential([flat, keras.layers.Dense(4, activation="softmax")])
    result = evaluation.evaluate(model, data, tmp_path / "report", image_size=32)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "$50_$100" in page and "<b>bold" not in page
    assert "no Grad-CAM" in caplog.text and result.images == 10
    # a head that is a model of its own
    head = keras.Sequential([keras.layers.Dense(4, activation="softmax")])
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3)(keras.layers.RandomFlip()(inputs))
    model = keras.Model(inputs, head(keras.layers.GlobalAveragePooling2D()(x)))
    evaluation.evaluate(model, data, tmp_path / "nested", image_size=32)
    assert "Grad-CAM of the pictures" in (tmp_path / "nested" / "report.html").read_text()
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_report_that_cannot_be_written_is_refused_before_the_work(model, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr(Split, "eval_batches", None)
    with pytest.raises(NotADirectoryError, match="needs a folder.*taken is a file"):
        evaluation.evaluate(model, tiny_data(), tmp_path / "taken")


def test_report_stands_alone(model, tmp_path):
    result = evaluation.evaluate(model, tiny_data(), tmp_path, image_size=32)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    for name in tiny_data().class_names:
        assert name in page
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result.summary()
