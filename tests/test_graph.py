"""Models seen from outside: what their last activation is, their logits, their calls."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from packaging import version

import keras_effv2 as kev
from keras_effv2 import graph


def ends(body):
    """A model of four numbers that ends as `body` says."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, body(inputs))


def dense(activation=None, units=3):
    return keras.layers.Dense(units, activation)


def inner(activation):
    return ends(dense(activation))


HEADS = {
    "softmax": [
        dense("softmax"),
        dense(tf.nn.softmax),
        dense(lambda x: keras.ops.softmax(x)),
        lambda x: keras.layers.Activation("softmax", dtype="float32")(dense()(x)),
        lambda x: keras.layers.Softmax()(dense()(x)),
        lambda x: keras.ops.softmax(dense()(x)),
        lambda x: keras.ops.cast(dense("softmax")(x), "float32"),
        lambda x: keras.layers.Dropout(0.1)(keras.layers.Reshape((3,))(dense("softmax")(x))),
        lambda x: keras.layers.EinsumDense("ab,bc->ac", 3, activation="softmax")(x),
        lambda x: inner("softmax")(x),
        lambda x: keras.layers.Average()([inner("softmax")(x), dense("softmax")(x)]),
        lambda x: keras.layers.Activation("softmax")(keras.layers.ReLU()(dense()(x))),
        lambda x: keras.layers.Flatten()(
            keras.layers.Conv1D(3, 1, activation="softmax")(x[:, None])
        ),
    ],
    "sigmoid": [
        dense("sigmoid", 1),
        dense("sigmoid"),
        dense(tf.sigmoid),
        lambda x: keras.ops.sigmoid(dense()(x)),
        lambda x: keras.layers.Activation("sigmoid")(dense()(x)),
        lambda x: keras.Sequential([dense("relu"), dense("sigmoid", 1)])(x),
    ],
    None: [
        dense(),
        dense("log_softmax"),
        lambda x: keras.layers.Activation("linear", dtype="float32")(dense()(x)),
        lambda x: dense()(x) / 2.0,
        lambda x: keras.layers.Add()([dense()(x), inner(None)(x)]),
        lambda x: keras.layers.BatchNormalization()(dense()(x)),
    ],
}


@pytest.mark.parametrize("activation", HEADS)
def test_the_last_activation_is_found_wherever_it_stands(activation):
    for number, body in enumerate(HEADS[activation]):
        assert graph.activation_of(ends(body)) == activation, number


class Own(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        return keras.ops.softmax(x @ self.kernel)


def test_what_cannot_be_known_is_refused():
    unknown = {
        "activation tanh": dense("tanh"),
        "activation relu": dense("relu"),
        "Own": Own(),
        "Lambda": lambda x: keras.layers.Lambda(lambda y: y)(dense()(x)),
        "ReLU": lambda x: keras.layers.ReLU()(dense()(x)),
        "Exp": lambda x: keras.ops.exp(dense()(x)),
        "Subtract": lambda x: 1.0 - dense("sigmoid", 1)(x),
        "Average": lambda x: keras.layers.Average()([dense("softmax")(x), dense()(x)]),
        "Concatenate": lambda x: keras.layers.Concatenate()([dense("softmax")(x)] * 2),
        "its own input": lambda x: x,
    }
    if version.parse(keras.__version__) < version.parse("3.15"):  # refuses such a model itself
        del unknown["its own input"]
    for end, body in unknown.items():
        for look in (graph.activation_of, graph.logits_of):
            with pytest.raises(ValueError, match=f"{end}.*is unknown. Let it end in a Dense layer"):
                look(ends(body))


@pytest.mark.parametrize("mode", ["int8", "int4", "float8", "lora"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_logits_of_quantised_heads(mode):
    model = ends(lambda x: dense("softmax")(dense("relu", 8)(x)))
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 2, w.shape) for w in model.get_weights()])
    if mode == "lora":
        model.layers[-1].enable_lora(2)
        model.layers[-1].lora_kernel_b.assign(random.normal(size=(2, 3)))
    else:
        model.quantize(mode)
    x = random.normal(size=(7, 4)).astype("float32")
    logits = graph.logits_of(model)
    np.testing.assert_allclose(keras.ops.softmax(logits(x)), model.predict(x, verbose=0), atol=1e-6)
    assert np.ptp(np.asarray(logits(x)).sum(1)) > 0.1  # no probabilities
    assert model.layers[-1].activation is keras.activations.softmax


def test_models_of_others_are_named_as_what_they_are():
    tf_keras = pytest.importorskip("tf_keras")
    old = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(3)])
    with pytest.raises(TypeError, match="Sequential of tf_keras, which is Keras 2.*set_weights"):
        graph.activation_of(old)

    class Subclass(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="computes in a `call` of its own.*keras.Input"):
        graph.activation_of(Subclass())
    with pytest.raises(TypeError, match="Received: function of"):
        graph.logits_of(ends)


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
    plain = keras.layers.Dense(3)(inputs)
    head = keras.layers.Dense(3, activation="softmax")(inputs)
    x = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    understood = {
        "op": keras.ops.softmax(plain),
        "layer": keras.layers.Activation("softmax", dtype="float32")(plain),
        "cast": keras.ops.cast(head, "float32"),
        "linear": keras.layers.Activation("linear", dtype="float32")(head),
    }
    for name, outputs in understood.items():
        model = keras.Model(inputs, outputs)
        logits = graph.logits_of(model)(x)
        np.testing.assert_allclose(keras.ops.softmax(logits), model(x), atol=1e-6, err_msg=name)
    for outputs in (keras.ops.reshape(plain, (-1, 3)), plain * 2.0):
        model = keras.Model(inputs, outputs)
        assert graph.logits_of(model) is model
    nested = keras.Model(inputs, head)
    for outputs in (
        keras.layers.Reshape((3,))(head),
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
