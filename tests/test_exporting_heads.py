"""Exports of other people's models: own heads, quantised layers, fixed sizes, odd names."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported import close, lively, pictures, small

import keras_effv2 as kev
from keras_effv2 import graph, layers
from keras_effv2.exporting import fold, reusable


@pytest.fixture
def unchecked(monkeypatch):
    """Exports without the check in a fresh process, which takes seconds."""
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)


def with_head(head):
    inputs = keras.Input((None, None, 3))
    x = layers.Pixels("128", image_size=32)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    return lively(keras.Model(inputs, head(x), name="own"))


HEADS = {
    "one sigmoid": lambda: keras.layers.Dense(1, "sigmoid"),
    "sigmoids": lambda: keras.layers.Dense(4, "sigmoid"),
    "an activation": lambda: lambda x: keras.layers.Activation("sigmoid")(keras.layers.Dense(4)(x)),
    "nested": lambda: keras.Sequential([keras.layers.Dense(6), keras.layers.Dense(4, "sigmoid")]),
}


@pytest.mark.parametrize("kind", HEADS)
def test_hub_logits_are_those_of_own_heads(kind, tmp_path, request):
    if kind != "one sigmoid":  # once is enough to see the check pass
        request.getfixturevalue("unchecked")
    model, images = with_head(HEADS[kind]()), pictures(3, 32, 48)
    kev.export_hub(model, tmp_path / "hub")
    logits = tf.saved_model.load(str(tmp_path / "hub"))(images / 255).numpy()
    close(1 / (1 + np.exp(-logits)), model.predict(images, verbose=0))
    card = json.loads((tmp_path / "hub/assets.extra/keras_effv2.json").read_text())
    assert card["activation"] == "sigmoid"


def test_two_classes_by_one_output_have_two_labels(tmp_path, unchecked):
    model = with_head(keras.layers.Dense(1, "sigmoid"))
    layers.find_pixels(model).class_names = ("cat", "dog")
    kev.export_hub(model, tmp_path / "hub")
    module = tf.saved_model.load(str(tmp_path / "hub"))
    with open(module.labels.asset_path.numpy()) as file:
        assert file.read() == "cat\ndog\n"
    text = (tmp_path / "hub/assets.extra/MODEL_CARD.md").read_text()
    assert "one logit, whose sigmoid is the probability of the second of two classes" in text
    # names of another head are not those of this one
    model = with_head(keras.layers.Dense(4))
    layers.find_pixels(model).class_names = ("cat", "dog", "cow")
    kev.export_hub(model, tmp_path / "other")
    assert not hasattr(tf.saved_model.load(str(tmp_path / "other")), "labels")


def test_features_end_before_heads_of_any_kind(tmp_path, unchecked):
    def mean(x):
        return keras.layers.Average()([keras.layers.Dense(4, "softmax")(x) for _ in range(2)])

    images = pictures(3, 32, 48)
    for number, head in enumerate((mean, keras.layers.EinsumDense("ab,bc->ac", 4))):
        model = with_head(head)
        kev.export_hub(model, tmp_path / str(number), kind="feature_vector")
        found = tf.saved_model.load(str(tmp_path / str(number)))(images / 255)
        wanted = keras.Model(model.input, model.get_layer("pooled").output)(images)
        close(found, wanted)
    inputs = keras.Input((None, None, 3))
    both = [
        pool()(inputs)
        for pool in (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    ]
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Concatenate()(both)))
    with pytest.raises(ValueError, match="through which all goes, so there is no feature vector"):
        kev.export_hub(model, tmp_path / "both", kind="feature_vector")


def test_what_cannot_be_known_is_refused(tmp_path):
    for head in (keras.layers.Dense(4, "tanh"), keras.layers.Lambda(lambda x: x * 2)):
        with pytest.raises(ValueError, match="is unknown. Let it end in a Dense layer"):
            kev.export_hub(with_head(head), tmp_path / "hub")
    tf_keras = pytest.importorskip("tf_keras")
    old = tf_keras.Sequential([tf_keras.Input((32, 32, 3)), tf_keras.layers.Flatten()])
    for export in (kev.export, kev.export_hub):
        with pytest.raises(TypeError, match="of tf_keras, which is Keras 2"):
            export(old, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- quantised


def quantised(mode):
    model = with_head(keras.layers.Dense(5, "softmax", name="head"))
    if mode == "lora":
        model.get_layer("head").enable_lora(2)
        random = np.random.default_rng(0)
        model.get_layer("head").lora_kernel_b.assign(random.normal(size=(2, 5)))
    else:
        model.quantize(mode)
    return model


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("mode", ["int8", "int4", "float8", "lora"])
def test_quantised_models_export_what_they_predict(mode, tmp_path):
    model, images = quantised(mode), pictures(4, 32, 32)
    wanted = model.predict(images, verbose=0)
    assert np.ptp(wanted, axis=0).max() > 0.05
    kev.export_hub(model, tmp_path / "hub")
    module = tf.saved_model.load(str(tmp_path / "hub"))
    close(tf.nn.softmax(module(images / 255)), wanted, 0.02)  # one step of int8 is 0.01
    close(tf.nn.softmax(kev.HubLayer(tmp_path / "hub")(images / 255)), wanted, 0.02)
    report = kev.export(model, tmp_path / "lean", images=images)
    assert report.max_drift < 0.02
    served = tf.saved_model.load(str(tmp_path / "lean")).signatures["serving_default"]
    close(served(tf.constant(images))["outputs"], wanted, 0.02)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantised_layers_are_not_folded():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Dense(8, name="dense")(keras.layers.GlobalAveragePooling2D()(inputs))
    model = lively(keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(x)))
    images = pictures(2, 16, 16)
    for change in (lambda: model.get_layer("dense").enable_lora(2), lambda: model.quantize("int8")):
        change()
        lean = fold(model)
        assert isinstance(lean.get_layer("norm"), keras.layers.BatchNormalization)
        close(lean(images), model(images))


class Doubled(keras.layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs) + 1


def test_layers_of_somebodys_own_kind_are_not_folded():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization()(Doubled(4, 3)(inputs))
    model = lively(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)))
    images = pictures(2, 16, 16) / 255
    close(fold(model)(images), model(images))


def test_the_check_knows_nothing_of_the_export(tmp_path, monkeypatch):
    """Wrong logits are found although they are written as they were computed."""
    model, right = small(), graph.logits_of

    def wrong(net):
        return keras.Model(net.input, right(net).outputs[0] * 1.01)

    monkeypatch.setattr(graph, "logits_of", wrong)
    with pytest.raises(RuntimeError, match="outputs differ by .* from the model's"):
        kev.export_hub(model, tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------- fixed sizes


def fixed(head):
    inputs = keras.Input((32, 48, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(inputs)
    return lively(keras.Model(inputs, head(x), name="fixed"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_models_of_one_size_are_exported_at_it(tmp_path, caplog):
    model = fixed(lambda x: keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(x)))
    images = pictures(2, 32, 48)
    wanted = model.predict(images, verbose=0)
    kev.export_hub(model, tmp_path / "hub")
    assert "fixed computes one size alone: it is exported for 32 x 48 pixels" in caplog.text
    module = tf.saved_model.load(str(tmp_path / "hub"))
    close(tf.nn.softmax(module(images / 255)), wanted)
    text = (tmp_path / "hub/assets.extra/MODEL_CARD.md").read_text()
    assert "any batch, 32 x 48 pixels alone" in text and "billion at 32 x 48" in text
    for format in ("saved_model", "tflite"):
        report = kev.export(model, tmp_path / format, format, images=images)
        assert report.max_drift < 1e-4
        kev.export(model, tmp_path / f"{format} on noise", format)
    with pytest.raises(
        ValueError, match=r"array \(n, 32, 48, 3\).*Received: float32 \(2, 64, 64, 3\)"
    ):
        kev.export(model, tmp_path / "x", images=pictures(2, 64, 64))


def test_models_of_one_size_that_compute_any_are_exported_for_any(tmp_path, unchecked):
    model = fixed(lambda x: keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    kev.export_hub(model, tmp_path / "hub")
    assert tf.saved_model.load(str(tmp_path / "hub"))(pictures(1, 64, 80) / 255).shape == (1, 3)


# ------------------------------------------------------------------------------ names and places


def test_labels_have_one_line_each(tmp_path):
    for name in ("a\nb", "a\u2028b", "a\x85b", "a\r"):
        with pytest.raises(
            ValueError, match="has a line break, and labels.txt has one label a line"
        ):
            kev.export_hub(small(), tmp_path / "hub", labels=[name, *"bcdefghij"])
    assert list(tmp_path.iterdir()) == []


def test_stores_and_home_folders_are_written_to(tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model, images = small(), np.zeros((2, 64, 64, 3), "float32")
    for export in (kev.export, kev.export_hub):
        with pytest.raises(ValueError, match="place of an export is .* Received: s3://x/y.tar.gz"):
            export(model, "s3://x/y.tar.gz")
    store = f"ram:/{tmp_path}"
    assert kev.export_hub(model, f"{store}/hub/") == f"{store}/hub"
    kev.export(model, f"{store}/pets.tflite", format="tflite", images=images)
    with pytest.raises(FileExistsError, match="hub exists. Remove it"):
        kev.export_hub(model, f"{store}/hub")
    loaded = tf.saved_model.load(f"{store}/hub")
    np.testing.assert_allclose(tf.nn.softmax(loaded(images / 255)), model(images), atol=1e-5)
    names = tf.io.gfile.listdir(store)
    assert sorted(names) == ["hub", "pets.tflite", "pets.tflite.json"]
    assert list(tmp_path.iterdir()) == []
    path = kev.export_hub(model, "~/hub")
    assert path == str(tmp_path / "home/hub") and (tmp_path / "home/hub/saved_model.pb").exists()
