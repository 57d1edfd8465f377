"""Probabilities of any head are those of `model.predict`, whatever else the model carries."""

import keras
import numpy as np
import pytest
from conftest import build_convnet, dense

from keras_effv2 import evaluation, layers
from keras_effv2.evaluation.outputs import warn_of_small_pixels

IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("float32")


def with_head(base, head, **contract):
    for key, value in contract.items():
        setattr(layers.find_pixels(base), key, value)
    model = keras.Model(base.input, head(base.output))
    random = np.random.default_rng(0)
    for weight in model.weights[len(base.weights) :]:
        weight.assign(random.normal(0, 3, weight.shape))
    return model


HEADS = {
    "one sigmoid": lambda: keras.layers.Dense(1, "sigmoid"),
    "sigmoids": lambda: keras.layers.Dense(5, "sigmoid", name="diseases"),
    "softmax": lambda: keras.layers.Dense(5, "softmax", name="predictions"),
    "a layer of its own": lambda: (
        lambda x: keras.layers.Activation("sigmoid")(keras.layers.Dense(5)(x))
    ),
    "a nested model": lambda: keras.Sequential(
        [keras.layers.Dense(8, "relu"), keras.layers.Dense(5, "sigmoid")]
    ),
    "a mean": lambda: (
        lambda x: keras.layers.Average()(
            [keras.layers.Dense(5, "softmax")(x), keras.layers.Dense(5, "softmax")(x)]
        )
    ),
}


@pytest.mark.parametrize("contract", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", HEADS)
def test_own_heads_win_over_the_contract(kind, contract, tiny_effnet):
    base = tiny_effnet(include_top=False, pooling="avg")
    model = with_head(base, HEADS[kind](), activation=contract)
    meant = model.predict(IMAGES, verbose=0)
    assert np.ptp(meant, axis=0).max() > 0.01
    np.testing.assert_allclose(evaluation.probabilities(model)(IMAGES), meant, atol=1e-5)


def test_logits_are_read_as_the_contract_says_where_it_knows_them(tiny_effnet):
    model = tiny_effnet(classes=5, classifier_activation=None)
    logits = model.predict(IMAGES, verbose=0).astype("float64")
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sigmoid = 1 / (1 + np.exp(-logits))
    pixels = layers.find_pixels(model)
    cases = [("softmax", None, softmax), ("sigmoid", "abcde", sigmoid), ("sigmoid", "abc", softmax)]
    for pixels.activation, names, meant in cases:
        pixels.class_names = names and tuple(names)
        np.testing.assert_allclose(evaluation.probabilities(model)(IMAGES), meant, atol=1e-5)


def test_one_logit_is_a_sigmoids(tiny_effnet):
    model = with_head(tiny_effnet(include_top=False, pooling="avg"), keras.layers.Dense(1))
    meant = 1 / (1 + np.exp(-model.predict(IMAGES, verbose=0).astype("float64")))
    np.testing.assert_allclose(evaluation.probabilities(model)(IMAGES), meant, atol=1e-5)
    with pytest.warns(UserWarning, match="softmax over axis"):
        model = with_head(model, keras.layers.Softmax())
        model.predict(IMAGES, verbose=0)
    with pytest.raises(ValueError, match="a softmax over one output, which is 1 whatever"):
        evaluation.probabilities(model)


def test_what_gives_no_vector_is_refused(tiny_effnet):
    maps = tiny_effnet(include_top=False)
    with pytest.raises(
        ValueError, match=r"what is wanted is one image .* and one output \(batch, n\)"
    ):
        evaluation.probabilities(maps)
    with pytest.raises(ValueError, match="is unknown. Let it end in a Dense layer"):
        evaluation.probabilities(tiny_effnet(include_top=False, pooling="avg"))


@pytest.mark.parametrize("mode", ["int8", "int4", "float8", "lora"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantised_models_say_what_model_predict_says(mode, tiny_effnet):
    model = tiny_effnet(classes=5)
    head = model.get_layer("predictions")
    random = np.random.default_rng(0)
    head.set_weights([random.normal(0, 3, (16, 5)), random.normal(size=5)])
    if mode == "lora":
        head.enable_lora(2)
        head.lora_kernel_b.assign(random.normal(size=(2, 5)))
    else:
        model.quantize(mode)
    meant = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(evaluation.probabilities(model)(IMAGES), meant, atol=1e-5)


def test_weights_that_are_no_numbers_are_named():
    model = build_convnet()
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([kernel, bias * np.nan])
    with pytest.raises(ValueError, match="its weight predictions/bias holds NaN.*take an earlier"):
        evaluation.probabilities(model)(IMAGES)
    with pytest.raises(ValueError, match="the pictures are not, or float16"):
        evaluation.probabilities(dense(4))(IMAGES * np.inf)


def test_one_graph_serves_every_number_of_pictures():
    """A graph is made once, whatever is left over for the last batch; without one nothing differs."""
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, images):
            calls.append(images.shape)
            return keras.ops.mean(images, (1, 2))

    model = keras.Sequential([keras.Input((None, None, 3)), Counting(), keras.layers.Softmax()])
    calls.clear()
    predict = evaluation.probabilities(model)
    scores = [predict(IMAGES), predict(IMAGES[:3])]
    assert calls == [(None, 64, 64, 3)]
    eager = evaluation.probabilities(model, traced=False)
    for images, said in zip((IMAGES, IMAGES[:3]), scores, strict=True):
        np.testing.assert_allclose(eager(images), said, atol=1e-6)
    assert calls[1:] == [(4, 64, 64, 3), (3, 64, 64, 3)]


def test_pixels_from_0_to_1_are_noticed(caplog):
    warn_of_small_pixels(np.full((1, 8, 8, 3), 0.9))
    assert "models here take 0..255, not 0..1" in caplog.text


def test_classes_match_however_an_accent_is_written():
    """macOS writes the names of folders with the accent as a letter of its own."""
    model = build_convnet()
    layers.find_pixels(model).class_names = ("caf\u00e9", "th\u00e9", "eau", "lait")
    places, _ = evaluation.match_classes(model, ["the\u0301", "cafe\u0301"])
    assert places.tolist() == [1, 0]


def test_classes_of_imagenet_are_found_by_name_and_by_wordnet_id():
    """A part of ImageNet, in any order; what none of its classes is called counts by its place."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(1000)(keras.layers.Flatten()(inputs)))
    for own in (["tench", "giant_panda"], ["n01440764", "n02510455"]):
        places, names = evaluation.match_classes(model, own[::-1])
        assert places.tolist() == [388, 0] and len(names) == 1000 and names[388] == own[1]
    with pytest.raises(ValueError, match="'crane' is the name of several .*n02012849, n03126707"):
        evaluation.match_classes(model, ["tench", "crane"])
    with pytest.raises(ValueError, match="has 1000 outputs and no class names, the data has 2"):
        evaluation.match_classes(model, ["tench", "my cat"])
    places, _ = evaluation.match_classes(model, [f"class {i}" for i in range(1000)])
    assert places.tolist() == list(range(1000))
