"""Batch normalisation merged into its neighbours."""

import collections

import keras
import numpy as np

from keras_effv2 import graph


def fold(model):
    """Merges batch normalisation into its neighbours: same outputs, fewer layers.

    A normalisation that follows a convolution or dense layer, and is all that follows it, goes into
    that layer. One that only feeds a 1x1 convolution goes into that one. Others stay: across a
    padding the constant would be wrong at the border. So do layers that are called twice.

    Args:
        model: A functional `keras.Model`.

    Returns:
        A new model for inference.
    """
    calls = graph.calls(model)
    times = collections.Counter(id(operation) for operation, _, _ in calls)
    makers = {id(x): operation for operation, _, made in calls for x in made}
    readers = {}
    for operation, given, _ in calls:
        for tensor in given:
            readers.setdefault(id(tensor), []).append(operation)
    outputs = {id(tensor) for tensor in model.outputs}

    def only_reader(tensor):
        found = readers.get(id(tensor), ())
        return found[0] if len(found) == 1 and id(tensor) not in outputs else None

    before, after = {}, {}  # name of the linear layer -> the normalisation
    folded = set()
    for norm, (given, *_), (made, *_) in calls:
        if not isinstance(norm, keras.layers.BatchNormalization) or times[id(norm)] > 1:
            continue
        source, reader = makers.get(id(given)), only_reader(made)
        if _is_linear(source) and times[id(source)] == 1 and only_reader(given) is norm:
            after[source.name] = norm
        elif _is_pointwise(reader) and times[id(reader)] == 1:
            before[reader.name] = norm
        else:
            continue
        folded.add(norm.name)

    def clone(layer):
        config = layer.get_config()
        if layer.name in folded:
            return _Folded(name=layer.name, dtype=config["dtype"])
        if layer.name in before or layer.name in after:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    lean = keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        if layer.name in folded or not layer.weights:
            continue
        if layer.name not in before and layer.name not in after:
            lean.get_layer(layer.name).set_weights(layer.get_weights())
            continue
        kernel, *bias = (w.astype("float64") for w in layer.get_weights())
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        channels = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[-1]
        bias = bias[0] if bias else np.zeros(channels)
        if layer.name in before:
            gain, shift = _affine(before[layer.name])
            bias = bias + shift @ kernel.reshape(-1, channels)
            kernel = kernel * gain[:, None]
        if layer.name in after:
            gain, shift = _affine(after[layer.name])
            kernel = kernel * (gain.reshape(kernel.shape[2:]) if depthwise else gain)
            bias = bias * gain + shift
        lean.get_layer(layer.name).set_weights([kernel, bias])
    return lean


class _Folded(keras.layers.Layer):
    """Stands where a normalisation was."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _is_linear(layer):
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return isinstance(layer, kinds) and layer.activation is keras.activations.linear


def _is_pointwise(layer):
    one = isinstance(layer, keras.layers.Conv2D) and tuple(layer.kernel_size) == (1, 1)
    return one and layer.groups == 1


def _affine(norm):
    """The normalisation as `x * gain + shift`, float64."""
    gain = 1.0 / np.sqrt(norm.moving_variance.numpy().astype("float64") + norm.epsilon)
    gain = gain * norm.gamma.numpy() if norm.scale else gain
    shift = -norm.moving_mean.numpy() * gain
    return gain, shift + norm.beta.numpy() if norm.center else shift
