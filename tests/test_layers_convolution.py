"""Convolutions beside Keras'."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effv2 import layers

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
