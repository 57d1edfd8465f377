"""The networks against the papers' counts, keras.applications and written-out arithmetic."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import tiny_coatnet_row, tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2 import layers
from keras_effv2.models import attention, coatnet, efficientnet_v2

# google/automl effnetv2_model_test.py; multiply-adds of spec/efficientnet_v2 at the default size
EFFICIENTNET = {
    "B0": (7_200_312, 0.718),
    "B1": (8_212_124, 1.197),
    "B2": (10_178_374, 1.698),
    "B3": (14_467_622, 3.011),
    "S": (21_612_360, 8.366),
    "M": (54_431_388, 24.582),
    "L": (119_027_848, 56.080),
    "XL": (208_896_832, 93.353),
}
# trainable parameters of convention A; the paper's FLOPs in billions at an image size
COATNET = {
    0: (25_036_948, 224, 4.2),
    1: (42_225_904, 224, 8.4),
    2: (74_685_000, 224, 15.7),
    3: (166_966_648, 224, 34.7),
    4: (275_425_672, 384, 189.5),
    5: (687_053_336, 512, 812),
    6: (1_471_125_616, 512, 1521),
    7: (2_441_973_112, 512, 2586),
}


def rng():
    return np.random.default_rng(0)


def randomize(model, seed=0):
    """Weights under which an error anywhere shows at the output.

    Activations keep their scale: deep networks would else blow up differences of rounding.
    """
    random = np.random.default_rng(seed)
    for weight in model.weights:
        inputs = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 1
        value = random.normal(0, min(0.1, inputs**-0.5), weight.shape)
        if weight.name in ("gamma", "moving_variance"):
            value = np.abs(value) + 0.9
        weight.assign(value)
    return model


@pytest.mark.parametrize("size", EFFICIENTNET)
def test_efficientnet_counts(size):
    parameters, gmacs = EFFICIENTNET[size]
    info = kev.model_info(f"EfficientNetV2{size}")
    assert info["parameters"] == parameters
    assert info["macs"] / 1e9 == pytest.approx(gmacs, abs=6e-4)


@pytest.mark.parametrize("number", COATNET)
def test_coatnet_counts(number):
    parameters, size, paper = COATNET[number]
    assert kev.model_info(f"CoAtNet{number}")["trainable_parameters"] == parameters
    macs = kev.model_info(f"CoAtNet{number}", size)["macs"] / 1e9
    assert macs == pytest.approx(paper, rel=0.04)


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "EfficientNetV2B3", "CoAtNet0"])
def test_built_models_have_the_counts(name):
    model = getattr(kev, name)(weights=None)
    info = kev.model_info(name)
    assert model.count_params() == info["parameters"]
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trainable == info["trainable_parameters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L", "EfficientNetV2XL", "CoAtNet4"],
)
def test_big_models_have_the_counts(name):
    model = getattr(kev, name)(weights=None)  # XL: at the default recursion limit
    assert model.count_params() == kev.model_info(name)["parameters"]


def same_as_keras(size, shape, top):
    ours = randomize(
        getattr(kev, f"EfficientNetV2{size}")(weights=None, include_top=top, input_shape=shape)
    )
    peer = getattr(keras.applications, f"EfficientNetV2{size}")(
        weights=None, include_top=top, input_shape=shape
    )
    theirs = {w.path: w for w in peer.weights}
    for weight in ours.weights:
        theirs[weight.path].assign(weight)
    images = rng().uniform(0, 255, (2, *shape)).astype("float32")
    a, b = ours(images).numpy(), peer(images).numpy()
    np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))
    return ours, peer


@pytest.mark.parametrize("shape, top", [((64, 96, 3), True), ((96, 96, 3), False)])
def test_b0_equals_keras_applications(shape, top):
    ours, peer = same_as_keras("B0", shape, top)
    names = [layer.name for layer in ours.layers if layer.weights]
    assert names == [x.name for x in peer.layers if x.weights and x.name != "normalization"]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["B1", "B2", "B3", "S", "M", "L"])
def test_equals_keras_applications(size):
    same_as_keras(size, (64, 64, 3), True)


def test_drop_path_does_not_overshoot():
    for name in ("EfficientNetV2B0", "EfficientNetV2B3"):
        model = getattr(kev, name)(weights=None, drop_path=0.2, include_top=False)
        rates = [x.rate * x.depth for x in model.layers if isinstance(x, layers.DropPath)]
        blocks = sum(s.repeats for s in efficientnet_v2.VARIANTS[name].stages)
        assert rates == sorted(rates)
        assert max(rates) == pytest.approx(0.2 * (blocks - 1) / blocks)


def test_block_names_are_ascii_letters():
    row = tiny_efficientnet_row()
    stages = (dataclasses.replace(row.stages[0], repeats=30), *row.stages[1:])
    model = efficientnet_v2.build(dataclasses.replace(row, stages=stages), weights=None)
    names = [layer.name for layer in model.layers]
    assert "block1z_project_conv" in names and "block1ad_project_conv" in names
    assert len(set(names)) == len(names) and all(name.isascii() for name in names)


@pytest.mark.parametrize("family", ["tiny_effnet", "tiny_coatnet", "tiny_coatnet_rw"])
def test_sizes_features_and_round_trips(family, request, tmp_path):
    make = request.getfixturevalue(family)
    model = randomize(make(name="any name"))
    assert model.input_shape == (None, None, None, 3)
    images = rng().uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    outputs = model(images).numpy()
    assert outputs.shape == (2, 10)
    json.dumps(model.get_config())
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images), outputs)
    model.save_weights(tmp_path / "m.weights.h5")
    again = make(weights=str(tmp_path / "m.weights.h5"))
    np.testing.assert_array_equal(again(images), outputs)

    pyramid = make(features=["reduction_1", "reduction_3", "reduction_5"])(images)
    sides = {key: value.shape[1:3] for key, value in pyramid.items()}
    assert sides == {"reduction_1": (32, 48), "reduction_3": (8, 12), "reduction_5": (2, 3)}
    assert make(include_top=False, pooling="max")(images).shape == (2, 16)
    for level in "12345":  # each reloads its own file
        part = make(features=[f"reduction_{level}"])
        part.save_weights(tmp_path / "part.weights.h5")
        make(features=[f"reduction_{level}"], weights=str(tmp_path / "part.weights.h5"))

    shared = keras.Input((64, 64, 3))
    two = keras.Model(
        shared,
        [
            make(input_tensor=shared, name="one").output,
            make(input_tensor=shared, name="two").output,
        ],
    )
    assert {"one_pixels", "two_pixels"} <= {layer.name for layer in two.layers}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_ends_are_float32_under_mixed_precision(policy, tiny_coatnet):
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny_coatnet()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("predictions").compute_dtype == "float32"
    assert model.output.dtype == "float32"
    attention = model.get_layer("block3a_attention")
    assert attention.compute_dtype == policy.removeprefix("mixed_")
    x = rng().normal(size=(1, 4, 4, attention.qkv_kernel.shape[0])).astype("float32")
    weights = attention(x, return_attention=True)[1]
    assert weights.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1, atol=1e-6)
    # bfloat16 cannot tell 254 from 255; the difference has to be made in float32
    pixels = model.get_layer("pixels")
    a, b = (
        float(tf.cast(pixels(tf.fill((1, 1, 1, 3), v)), tf.float32)[0, 0, 0, 0]) for v in (1.0, 2.0)
    )
    assert b - a == pytest.approx(1 / 128, rel=0.3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"input_shape": (31, 64, 3)}, ["at least 32x32", "31"]),
        ({"input_shape": (64, 64)}, ["(height, width, channels)"]),
        ({"input_shape": (64, 64, 1)}, ["1 channels", "pixels='128'"]),
        ({"input_shape": (64, 64, 1), "pixels": "imagenet"}, ["3 channels"]),
        ({"pooling": "mean"}, ["'avg' or 'max'", "'mean'"]),
        ({"classes": 0}, ["a whole number from 1", "0"]),
        ({"features": ["reduction_9"]}, ["reduction_5", "reduction_9"]),
        ({"pixels": "raw"}, ["127.5", "raw"]),
        ({"weights": "imagnet"}, ["imagnet"]),
        ({"dropout": 1.5}, ["[0, 1)", "1.5"]),
    ],
)
def test_bad_arguments_say_what_was_wanted(arguments, words, tiny_effnet):
    with pytest.raises(ValueError) as error:
        tiny_effnet(**arguments)
    for word in words:
        assert word in str(error.value)


def test_numbers_of_numpy_are_numbers(tiny_effnet):
    shape = np.array([64, 96, 3])
    model = tiny_effnet(classes=np.int64(5), input_shape=shape, dropout=np.float32(0.1))
    assert model.output_shape == (None, 5) and model.input_shape == (None, 64, 96, 3)


def test_coatnet_wants_multiples_of_32(tiny_coatnet):
    with pytest.raises(ValueError, match="multiples of 32.*nearest to 100 is 96"):
        tiny_coatnet(input_shape=(100, 64, 3))


# literal numbers, per variant's own contract: pixels 0, 128, 255 of channel 0
@pytest.mark.parametrize(
    "pixels, expected",
    [
        ("imagenet", (-2.117904, 0.074064, 2.248908)),
        ("128", (-1.0, 0.0, 0.9921875)),
        ("127.5", (-1.0, 0.003921569, 1.0)),
    ],
)
def test_pixel_contracts(pixels, expected, tiny_effnet):
    model = tiny_effnet(pixels=pixels)
    x = np.array([0.0, 128.0, 255.0], "float32").reshape(1, 1, 3, 1).repeat(3, -1)
    np.testing.assert_allclose(model.get_layer("pixels")(x)[0, 0, :, 0], expected, atol=2e-6)
    off = tiny_effnet(pixels=pixels, include_preprocessing=False)
    np.testing.assert_array_equal(off.get_layer("pixels")(x), x)
    given = kev.imagenet.preprocess_input(x, model=off)
    np.testing.assert_allclose(given[0, 0, :, 0], expected, atol=2e-6)
    np.testing.assert_array_equal(kev.imagenet.preprocess_input(x, model=model), x)


def test_every_variant_and_tag_has_its_contract():
    tags = {"imagenet21k": "128", "imagenet21k-ft1k": "127.5"}
    for name in kev.list_models():
        own = "imagenet" if name.startswith("EfficientNetV2B") or name == "CoAtNet0RWBN" else "128"
        own = "127.5" if "RW" in name and own == "128" else own
        assert kev.model_info(name)["pixels"] == own
        for row in kev.list_weights(name):
            assert row.pixels == tags.get(row.tag, own)
    released = [row for name in kev.list_models() for row in kev.list_weights(name)]
    assert len([row for row in released if row.model.startswith("EfficientNetV2")]) == 7 + 23


# ------------------------------------------------------------------------- CoAtNet, written out


def np_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def np_batch_norm(x, w):
    gamma, beta, mean, variance = w
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def np_layer_norm(x, w):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * w[0] + w[1]


def np_conv(x, kernel, stride, bias=0.0, depthwise=False):
    """'same' convolution, the padding's odd pixel at the end."""
    k = kernel.shape[0]
    b, h, w, _ = x.shape
    oh, ow = -(-h // stride), -(-w // stride)
    ph, pw = (max((n - 1) * stride + k - s, 0) for n, s in ((oh, h), (ow, w)))
    x = np.pad(x, ((0, 0), (ph // 2, ph - ph // 2), (pw // 2, pw - pw // 2), (0, 0)))
    out = 0.0
    for i in range(k):
        for j in range(k):
            part = x[
                :, i : i + (oh - 1) * stride + 1 : stride, j : j + (ow - 1) * stride + 1 : stride
            ]
            out = out + (part * kernel[i, j, :, 0] if depthwise else part @ kernel[i, j])
    return out + bias


def np_max_pool(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def np_attention(x, weights, heads):
    qkv_kernel, qkv_bias, table, out_kernel, out_bias = weights
    b, h, w, c = x.shape
    tokens = x.reshape(b, h * w, c)
    q, k, v = (
        np.einsum("bnc,chd->bhnd", tokens, qkv_kernel[:, i]) + qkv_bias[i][None, :, None]
        for i in range(3)
    )
    logits = np.einsum("bhnd,bhmd->bhnm", q, k) / np.sqrt(q.shape[-1])
    height, width = (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    assert (height, width) == (h, w)
    for n in range(h * w):
        for m in range(h * w):
            i, j = n // w - m // w + h - 1, n % w - m % w + w - 1
            logits[:, :, n, m] += table[:, i, j]
    attention = np.exp(logits - logits.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    out = np.einsum("bhnm,bhmd,hdc->bnc", attention, v, out_kernel) + out_bias
    return out.reshape(b, h, w, -1)


def np_coatnet(images, model, row):
    w = {
        x.name: [v.numpy().astype("float64") for v in x.weights] for x in model.layers if x.weights
    }
    x = (images.astype("float64") - 128) / 128
    x = np_conv(x, w["stem_conv1"][0], 2, w["stem_conv1"][1])
    x = np_gelu(np_batch_norm(x, w["stem_bn"]))
    x = np_conv(x, w["stem_conv2"][0], 1, w["stem_conv2"][1])
    for s, stage in enumerate(row.stages, 1):
        for r in range(stage.repeats):
            n, stride = f"block{s}{'abc'[r]}_", stage.stride if r == 0 else 1
            shortcut = np_max_pool(x) if stride == 2 else x
            if n + "shortcut_conv" in w:
                shortcut = np_conv(
                    shortcut, *w[n + "shortcut_conv"][:1], 1, w[n + "shortcut_conv"][1]
                )
            if stage.block == "mbconv":
                x = np_batch_norm(x, w[n + "pre_bn"])
                x = np_conv(x, w[n + "expand_conv"][0], stride)
                x = np_gelu(np_batch_norm(x, w[n + "expand_bn"]))
                x = np_conv(x, w[n + "dwconv"][0], 1, depthwise=True)
                x = np_gelu(np_batch_norm(x, w[n + "bn"]))
                gate = x.mean((1, 2), keepdims=True)
                gate = gate @ w[n + "se_reduce"][0][0, 0] + w[n + "se_reduce"][1]
                gate = gate / (1 + np.exp(-gate))
                gate = gate @ w[n + "se_expand"][0][0, 0] + w[n + "se_expand"][1]
                x = x / (1 + np.exp(-gate))
                x = shortcut + np_conv(x, w[n + "project_conv"][0], 1, w[n + "project_conv"][1])
            else:
                x = np_layer_norm(x, w[n + "attention_norm"])
                x = np_max_pool(x) if stride == 2 else x
                heads = stage.channels // row.head_size
                x = shortcut + np_attention(x, w[n + "attention"], heads)
                y = np_layer_norm(x, w[n + "ffn_norm"])
                y = np_gelu(y @ w[n + "ffn_expand"][0] + w[n + "ffn_expand"][1])
                x = x + y @ w[n + "ffn_project"][0] + w[n + "ffn_project"][1]
    x = np_layer_norm(x.mean((1, 2)), w["top_norm"])
    x = np.tanh(x @ w["top_hidden"][0] + w["top_hidden"][1])
    return x @ w["predictions"][0] + w["predictions"][1]


def test_coatnet_equals_written_out_arithmetic(tiny_coatnet):
    model = randomize(tiny_coatnet(input_shape=(64, 96, 3), classifier_activation=None))
    images = rng().uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    expected = np_coatnet(images, model, tiny_coatnet_row())
    np.testing.assert_allclose(model(images), expected, atol=2e-5 * np.abs(expected).max())


def test_strided_depthwise_is_an_option():
    row = tiny_coatnet_row(stride_at="depthwise")
    model = coatnet.build(row, weights=None, classes=10)
    assert model.get_layer("block1a_expand_conv").strides == (1, 1)
    assert model.get_layer("block1a_dwconv").strides == (2, 2)
    assert tiny_coatnet_row().stride_at == "expand"


def test_bias_learns_per_head_and_resizes_half_pixel():
    layer = coatnet.RelativeAttention(8, 4, grid=(4, 6))
    x = tf.constant(rng().normal(size=(1, 5, 3, 8)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    gradient = tape.gradient(loss, layer.relative_bias.value).numpy()
    assert gradient.shape == (2, 7, 11)
    assert (np.abs(gradient).max((1, 2)) > 0).all() and not np.allclose(gradient[0], gradient[1])
    table = rng().normal(size=(2, 27, 27)).astype("float32")
    resized = attention.resize_table(table, (14, 14), 24, 10, np)
    expected = tf.image.resize(table.transpose(1, 2, 0), (47, 19)).numpy().transpose(2, 0, 1)
    np.testing.assert_allclose(resized, expected, atol=1e-5)
    big = coatnet.RelativeAttention(8, 4, grid=(14, 14))
    big.build((None, 14, 14, 8))
    assert big.fit_weight("relative_bias", gradient).shape == (2, 27, 27)
