"""A model seen from outside: calls, logits, head."""

import re

import keras
import numpy as np
import pytest

import keras_effv2 as kev
from keras_effv2 import graph


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


def test_calls_agree_with_the_config_of_the_model(tiny_effnet):
    """Keras' public description of the same graph: the layers in order, each one's inputs."""
    model = tiny_effnet()
    made = {id(x): operation.name for operation, _, outputs in graph.calls(model) for x in outputs}
    made[id(model.inputs[0])] = model.layers[0].name
    found = {
        operation.name: [made[id(x)] for x in inputs] for operation, inputs, _ in graph.calls(model)
    }
    histories = re.compile(r"'keras_history': [\[(]'([^']+)'")
    told = {
        layer["name"]: histories.findall(str(layer["inbound_nodes"]))
        for layer in model.get_config()["layers"]
        if layer["inbound_nodes"]
    }
    assert found == told


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_logits_of_a_quantised_head(mode):
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4, activation="softmax")])
    model.layers[-1].quantize(mode)
    x = np.random.default_rng(0).normal(size=(7, 16)).astype("float32")
    wanted = model.predict(x, verbose=0)
    logits = graph.logits_of(model)(x)
    np.testing.assert_allclose(keras.ops.softmax(logits), wanted, atol=1e-6)
    assert model.layers[-1].activation is keras.activations.softmax
