"""The shared layers against Keras' own and closed forms."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_effv2 as kev
from keras_effv2 import graph, layers


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("mixed_bfloat16", 3e-2)])
def test_batch_norm_equals_keras(dtype, tolerance):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(2, 3, (8, 6, 6, 5)), tf.float32)
    ours = layers.BatchNormalization(momentum=0.9, dtype=dtype)
    theirs = keras.layers.BatchNormalization(momentum=0.9, dtype=dtype)
    upstream = tf.constant(rng.normal(size=x.shape), tf.float32)
    results = []
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.gamma.assign(np.arange(1, 6))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
        sources = [x, layer.gamma.value, layer.beta.value]
        results.append([y, *tape.gradient(loss, sources), *layer.weights, layer(x, training=False)])
    for a, b in zip(*results, strict=True):
        a, b = (np.asarray(tf.cast(tf.convert_to_tensor(v), tf.float32)) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()))
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]


def test_frozen_batch_norm_does_not_move():
    layer = layers.BatchNormalization(trainable=False)
    x = tf.random.normal((4, 3, 3, 2)) + 5
    y = layer(x, training=True)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [0, 0])


def test_dropping_keeps_the_expectation():
    x = tf.ones((20_000, 4))
    for layer, rate in (
        (layers.Dropout(0.3, seed=1), 0.3),
        (layers.DropPath(0.6, depth=0.5, seed=1), 0.3),
    ):
        y = layer(x, training=True).numpy()
        assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
        assert y.mean() == pytest.approx(1, abs=0.02)
        np.testing.assert_allclose(y[y > 0], 1 / 0.7, rtol=1e-5)
        np.testing.assert_array_equal(layer(x, training=False), x)
    rows = y.reshape(20_000, 4)
    assert (rows.max(1) == rows.min(1)).all()  # whole samples


def test_compiled_step_obeys_a_varied_rate():
    layer = layers.Dropout(0.0, seed=1)
    layer.vary_rate()
    traces = []

    @tf.function
    def step(x):
        traces.append(1)
        return layer(x, training=True)

    x = tf.ones((200, 200))
    for rate in (0.0, 0.5, 0.2):
        layer.rate = rate
        assert float(tf.reduce_mean(tf.cast(step(x) == 0, tf.float32))) == pytest.approx(
            rate, abs=0.02
        )
    assert len(traces) == 1
    assert layer.weights == [] and layer.get_config()["rate"] == pytest.approx(0.2)


def test_contract_of_a_file_is_checked(tiny_effnet, tmp_path):
    tiny_effnet(pixels="128").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="made for pixels='128'.*pixels='127.5'"):
        tiny_effnet(pixels="127.5").load_weights(tmp_path / "a.weights.h5")


_BACKEND = """
import os, sys
os.environ["KERAS_BACKEND"] = sys.argv[1]
import builtins, importlib
real = builtins.__import__
def guarded(name, *args, **kwargs):
    if name.split(".")[0] == "tensorflow" and sys.argv[1] != "tensorflow":
        raise ImportError("tensorflow is not installed")
    return real(name, *args, **kwargs)
builtins.__import__ = guarded
sys.path.insert(0, sys.argv[2])
import numpy as np
import keras
from keras_effv2.models import coatnet, efficientnet_v2
import rows
images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
outputs = []
for family, row in ((efficientnet_v2, rows.efficientnet), (coatnet, rows.coatnet)):
    model = family.build(row, weights=None, classes=10, classifier_activation=None)
    random = np.random.default_rng(1)
    for weight in model.weights:
        value = random.normal(0, 0.1, weight.shape)
        weight.assign(np.abs(value) + 0.9 if weight.name in ("gamma", "moving_variance") else value)
    outputs.append(keras.ops.convert_to_numpy(model(images)))
np.save(sys.argv[3], np.stack(outputs))
"""

_ROWS = """
import dataclasses
from keras_effv2.models import coatnet as c, efficientnet_v2 as e
row = e.VARIANTS["EfficientNetV2B0"]
stages = tuple(dataclasses.replace(s, repeats=2, channels=8) for s in row.stages)
efficientnet = dataclasses.replace(row, stages=stages, stem=8, top=16, pixels="128")
row = c.VARIANTS["CoAtNet0"]
stages = tuple(dataclasses.replace(s, repeats=2, channels=8) for s in row.stages)
coatnet = dataclasses.replace(row, stages=stages, stem=8, head_size=4, hidden=16)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same(backend, tmp_path):
    pytest.importorskip(backend)
    (tmp_path / "rows.py").write_text(_ROWS)
    outputs = []
    for name in ("tensorflow", backend):
        path = tmp_path / f"{name}.npy"
        subprocess.run(
            [sys.executable, "-c", _BACKEND, name, str(tmp_path), str(path)],
            check=True,
            capture_output=True,
        )
        outputs.append(np.load(path))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-4 * np.abs(outputs[0]).max())


_CONVOLUTIONS = {
    "1x1": (layers.Conv2D, keras.layers.Conv2D, (6, 1), {}, (4, 5)),
    "1x1 with bias and activation": (
        layers.Conv2D,
        keras.layers.Conv2D,
        (6, 1),
        {"activation": "relu"},
        (4, 5),
    ),
    "one pixel": (layers.Conv2D, keras.layers.Conv2D, (6, 1), {"activation": "silu"}, (1, 1)),
    "1x1 with stride": (layers.Conv2D, keras.layers.Conv2D, (6, 1), {"strides": 2}, (4, 5)),
    "grouped": (layers.Conv2D, keras.layers.Conv2D, (6, 1), {"groups": 2}, (4, 5)),
    "3x3": (layers.Conv2D, keras.layers.Conv2D, (6, 3), {"padding": "same"}, (4, 5)),
    "depthwise": (
        layers.DepthwiseConv2D,
        keras.layers.DepthwiseConv2D,
        (3,),
        {"padding": "same", "use_bias": False},
        (4, 5),
    ),
}


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 2e-2)])
@pytest.mark.parametrize("case", _CONVOLUTIONS)
def test_convolutions_equal_keras(case, dtype, tolerance):
    ours, theirs, args, settings, sides = _CONVOLUTIONS[case]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *sides, 4)).astype("float32")
    results = []
    for kind in (ours, theirs):
        layer = kind(*args, **settings, dtype=dtype)
        inputs = keras.Input((None, None, 4) if sides != (1, 1) else (1, 1, 4))
        model = keras.Model(inputs, layer(inputs))
        random = np.random.default_rng(1)
        model.set_weights([random.normal(size=w.shape) for w in model.weights])

        @tf.function
        def step(x, model=model):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x, training=True)
                loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
            sources = [x, *[w.value for w in model.weights]]
            return [y, model(x, training=False), *tape.gradient(loss, sources)]

        results.append(step(tf.constant(images)))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(tf.cast(v, tf.float32)) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_products_are_trained_and_convolutions_exported():
    """Gradients come from products; inference keeps the operation that converters know."""
    layer = layers.Conv2D(6, 1)
    layer.build((None, None, None, 4))

    def kinds(training):
        traced = tf.function(lambda x: layer(x, training=training))
        spec = tf.TensorSpec((None, None, None, 4))
        return {op.type for op in traced.get_concrete_function(spec).graph.get_operations()}

    assert "MatMul" in kinds(True) and "Conv2D" not in kinds(True)
    assert "Conv2D" in kinds(False) and "MatMul" not in kinds(False)
    with layers.portable():
        assert "Conv2D" in kinds(True) and "MatMul" not in kinds(True)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_silu_and_its_derivatives(dtype, tolerance):
    x = np.concatenate([np.linspace(-30, 30, 601), [0.0, 1e-8, -80.0, 80.0]])
    x = tf.cast(tf.constant(x), dtype)
    exact = np.asarray(tf.cast(x, tf.float64))
    with tf.GradientTape() as second, tf.GradientTape() as first:
        first.watch(x)
        second.watch(x)
        y = layers.silu(x)
        slope = first.gradient(y, x)
    s = 1 / (1 + np.exp(-exact))
    wanted = (
        exact * s,
        s * (1 + exact * (1 - s)),
        s * (1 - s) * (2 + exact * (1 - 2 * s)),
    )
    for ours, right in zip((y, slope, second.gradient(slope, x)), wanted, strict=True):
        ours = np.asarray(tf.cast(ours, tf.float64))
        np.testing.assert_allclose(ours, right, atol=tolerance * max(1, np.abs(right).max()))


@pytest.mark.parametrize("outer", ["functional", "sequential"])
def test_logits_of_a_head_that_is_a_model(outer):
    head = keras.Sequential([keras.layers.Dense(6), keras.layers.Dense(3, activation="softmax")])
    body = keras.layers.Dense(5)
    if outer == "functional":
        inputs = keras.Input((4,))
        model = keras.Model(inputs, head(body(inputs)))
    else:
        model = keras.Sequential([keras.Input((4,)), body, head])
    x = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    logits = graph.logits_of(model)
    np.testing.assert_allclose(keras.ops.softmax(logits(x)), model(x), atol=1e-6)
    assert abs(np.asarray(logits(x)).sum(1) - 1).min() > 1e-3
    assert {id(v) for v in logits.trainable_variables} == {id(v) for v in model.trainable_variables}
    if outer == "functional":  # the logits hang on the model's own inputs, as the exporters need
        both = keras.Model(model.input, [body.output, logits.outputs[0]])
        np.testing.assert_allclose(both(x)[1], logits(x), atol=1e-6)


def test_logits_of_heads_that_no_dense_layer_ends():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(3)(inputs)
    head = keras.layers.Dense(3, activation="softmax")(inputs)
    x = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    understood = {
        "op": keras.ops.softmax(dense),
        "layer": keras.layers.Activation("softmax", dtype="float32")(dense),
        "cast": keras.ops.cast(head, "float32"),
        "linear": keras.layers.Activation("linear", dtype="float32")(head),
    }
    for name, outputs in understood.items():
        model = keras.Model(inputs, outputs)
        logits = graph.logits_of(model)(x)
        np.testing.assert_allclose(keras.ops.softmax(logits), model(x), atol=1e-6, err_msg=name)
    for outputs in (keras.ops.reshape(dense, (-1, 3)), dense * 2.0, keras.layers.ReLU()(dense)):
        model = keras.Model(inputs, outputs)
        assert graph.logits_of(model) is model
    nested = keras.Model(inputs, head)
    for outputs in (
        keras.layers.Reshape((3,))(head),
        keras.ops.sigmoid(dense) * 2.0,
        keras.layers.EinsumDense("ab,bc->ac", 3, activation="softmax")(inputs),
        keras.layers.Average()([nested(inputs), head]),
    ):
        with pytest.raises(ValueError, match="gives or takes probabilities.*Let it end in"):
            graph.logits_of(keras.Model(inputs, outputs))


def test_calls_are_those_of_the_model():
    dense = keras.layers.Dense(4, name="twice")
    inner = keras.Sequential([keras.Input((4,)), dense], name="inner")  # not the model's own call
    inputs = keras.Input((4,))
    first = dense(inputs)
    outputs = dense(keras.layers.Add(name="sum")([inner(first), first]))
    found = graph.calls(keras.Model(inputs, outputs))
    assert [x.name for x, _, _ in found] == ["twice", "inner", "sum", "twice"]
    assert found[0][1] == [inputs] and found[-1][2] == [outputs]
    flat = graph.flattened(keras.Model(inputs, outputs))
    names = [x.name for x, _, _ in graph.calls(flat)]
    assert names.count("twice") == 3 and "inner" not in names
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(flat(x), keras.Model(inputs, outputs)(x))


def test_other_backends_get_a_sentence(monkeypatch, tmp_path):
    """What is written in TensorFlow says so before TensorFlow's own words do."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    calls = {
        "Training": lambda: kev.train(model, None, None, tmp_path / "run"),
        "Evaluation": lambda: kev.evaluate(model, kev.data.load("digits")),
        "Export": lambda: kev.export(model, tmp_path / "x"),
        "HubLayer": lambda: kev.HubLayer(tmp_path),
    }
    for what, call in calls.items():
        with pytest.raises(RuntimeError, match=f"{what} runs on TensorFlow alone.*jax here"):
            call()
    assert list(tmp_path.iterdir()) == []
