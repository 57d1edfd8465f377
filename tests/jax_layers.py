"""How far our layers are from Keras' on JAX, values and gradients.

python tests/jax_layers.py: prints a JSON object of relative distances by case.
"""

import json
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

from keras_effv2 import layers

DEPTHWISE = {
    "stride 1": ({}, (8, 8, 4)),
    "stride 2, even": ({"strides": 2}, (8, 10, 4)),
    "stride 2, odd": ({"strides": 2}, (7, 9, 4)),
    "5 x 5, stride 2": ({"kernel_size": 5, "strides": 2}, (8, 9, 4)),
    "2 x 4": ({"kernel_size": (2, 4)}, (6, 7, 4)),
    "valid": ({"padding": "valid", "strides": 2}, (9, 8, 4)),
    "smaller than the kernel": ({"kernel_size": 5}, (2, 3, 4)),
    "activation": ({"activation": "relu"}, (5, 5, 4)),
    "bias": ({"use_bias": True}, (5, 5, 4)),
    "dilated": ({"dilation_rate": 2}, (7, 7, 4)),
    "multiplied": ({"depth_multiplier": 2}, (5, 5, 4)),
    "bfloat16": ({"dtype": "mixed_bfloat16"}, (8, 8, 4)),
}
NORMS = {
    "channels last": ({}, (6, 6, 5)),
    "channels first": ({"axis": 1}, (5, 6, 6)),
    "without scale": ({"scale": False}, (4, 4, 3)),
    "without center": ({"center": False}, (4, 4, 3)),
    "vectors": ({}, (5,)),
    "bfloat16 maps": ({"dtype": "mixed_bfloat16"}, (6, 6, 5)),
}


def results(layer, shape):
    """Output of training and inference, gradients and moved averages, as arrays."""
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.normal(1, 2, (8, *shape)), layer.compute_dtype)
    inputs = keras.Input(shape, dtype=layer.compute_dtype)
    model = keras.Model(inputs, layer(inputs))
    for weight in model.trainable_variables:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    others = [v.value for v in model.non_trainable_variables]

    def loss(x, weights):
        y, moved = model.stateless_call(weights, others, x, training=True)
        weighing = np.random.default_rng(1).normal(size=y.shape)
        return (y.astype("float32") * weighing).sum(), (y, moved)

    weights = [v.value for v in model.trainable_variables]
    trained = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, weights)
    inferred = jax.jit(lambda x: model.stateless_call(weights, others, x))(x)
    return [np.asarray(a, "float32") for a in jax.tree.leaves([trained, inferred])]


def distances(cases, ours, theirs):
    """By case the largest distance of any result, relative to its largest number."""
    found = {}
    for name, (settings, shape) in cases.items():
        pairs = zip(results(ours(**settings), shape), results(theirs(**settings), shape))
        found[name] = max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1)) for a, b in pairs)
    return found


def depthwise(kind):
    """A maker of layers with the settings that most cases have."""

    def make(**settings):
        return kind(**{"kernel_size": 3, "padding": "same", "use_bias": False, **settings})

    return make


def convolutions():
    """How many convolutions JAX is asked for by a depthwise layer."""
    layer = depthwise(layers.DepthwiseConv2D)()
    layer.build((None, 8, 8, 4))
    return str(jax.make_jaxpr(layer)(np.ones((2, 8, 8, 4), "float32"))).count("conv_general")


if __name__ == "__main__":
    ours, theirs = layers.DepthwiseConv2D, keras.layers.DepthwiseConv2D
    print(
        json.dumps(
            {
                "depthwise": distances(DEPTHWISE, depthwise(ours), depthwise(theirs)),
                "norm": distances(
                    NORMS, layers.BatchNormalization, keras.layers.BatchNormalization
                ),
                "convolutions": convolutions(),
            }
        )
    )
