"""Grad-CAM and attention maps, where the answer is known."""

import keras
import numpy as np
import pytest

from keras_effv2 import evaluation


def test_gradcam_finds_what_the_class_is_seen_by(tiny_effnet):
    """A head that reads one channel: the map is that channel's activation, by the definition."""
    model = tiny_effnet(input_shape=(64, 64, 3))
    head = model.get_layer("predictions")
    kernel = np.zeros(head.kernel.shape, "float32")
    kernel[5, 3] = 1.0
    head.set_weights([kernel, np.zeros(10, "float32")])
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    heat = evaluation.gradcam(model, images, class_index=3)[0]
    maps = keras.Model(model.input, model.get_layer("top_activation").output)(images)[0]
    expected = np.maximum(maps[..., 5], 0)
    expected = expected / expected.max()
    resized = keras.ops.image.resize(expected[..., None], (64, 64))[..., 0]
    assert heat.shape == (64, 64)
    assert np.corrcoef(heat.ravel(), np.ravel(resized))[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_gradcam_looks_into_nested_models(kind, tiny_effnet):
    base = tiny_effnet(include_top=False)
    pool, head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")
    inputs = keras.Input((None, None, 3))
    if kind == "functional":
        model = keras.Model(inputs, head(pool(base(inputs, training=False))))
    else:
        model = keras.Sequential([keras.Sequential([base, pool]), head])
        model.build((None, None, None, 3))
    one = keras.Model(base.input, head(pool(base.output)))
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    for layer in (None, "block4a_expand_conv"):
        heat = evaluation.gradcam(model, images, class_index=1, layer=layer)
        wanted = evaluation.gradcam(one, images, class_index=1, layer=layer)
        assert wanted.max() > 0.5
        np.testing.assert_allclose(heat, wanted, atol=1e-4)
    with pytest.raises(ValueError, match="no feature map 'avg'. Last: .*top_activation"):
        evaluation.gradcam(model, images, layer="avg")


@pytest.mark.parametrize("family, heads", [("tiny_coatnet", 4), ("tiny_coatnet_rw", 1)])
def test_attention_maps_are_probabilities(family, heads, request):
    model = request.getfixturevalue(family)(input_shape=(64, 64, 3))
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    maps = evaluation.attention_maps(model, images)
    assert maps.shape == (1, heads, 4, 4)  # a grid of 2 x 2; heads of 4 channels in 16, or one
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    assert (maps >= 0).all()


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_gradcam_of_one_output_is_that_of_two_classes(activation, tiny_effnet):
    """One logit z is the softmax over (-z, z): the maps of a head that is written that way."""
    base = tiny_effnet(include_top=False, pooling="avg")
    one, two = keras.layers.Dense(1, activation), keras.layers.Dense(2, "softmax")
    single, double = (keras.Model(base.input, head(base.output)) for head in (one, two))
    kernel = np.random.default_rng(0).normal(size=(16, 1)).astype("float32")
    one.set_weights([kernel, np.float32([0.1])])
    two.set_weights([np.hstack([-kernel, kernel]), np.float32([-0.1, 0.1])])
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    for index in (None, 0, 1, [1, 0]):
        heat = evaluation.gradcam(single, images, index)
        np.testing.assert_allclose(heat, evaluation.gradcam(double, images, index), atol=1e-4)
    assert heat.max() > 0.5
    for index in (2, -1, [0, 1, 0], [0, 7]):
        with pytest.raises(ValueError, match="one class out of 0 to 1.*each of the 2 images"):
            evaluation.gradcam(single, images, index)


def test_other_backends_get_a_sentence(monkeypatch, tiny_effnet):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    for explain in (evaluation.gradcam, evaluation.attention_maps):
        with pytest.raises(RuntimeError, match="runs on TensorFlow alone, Keras runs on torch"):
            explain(None, np.zeros((1, 8, 8, 3)))
