"""Batch normalisation merged into its neighbours."""

import collections

import keras
import numpy as np

from keras_effv2 import graph, layers


def fold(model):
    """Merges batch normalisation into its neighbours: same outputs, fewer layers.

    A normalisation that follows a convolution or dense layer, and is all that follows it, goes into
    that layer. One that only feeds a 1x1 convolution goes into that one. Others stay: across a
    padding the constant would be wrong at the border. So do layers that are called twice, quantised
    layers, layers with LoRA and layers of somebody's own kind.

    Args:
        model: A functional `keras.Model`.

    Returns:
        A new model for inference.
    """
    before, after = _neighbours(model)
    folded = {norm.name for norm in (*before.values(), *after.values())}

    def clone(layer):
        if graph.is_quantised(layer):  # made anew, it has its variables in another order
            return layer
        config = layer.get_config()
        if layer.name in folded:
            return _Folded(name=layer.name, dtype=config["dtype"])
        if layer.name in before or layer.name in after:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    lean = keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        if layer.name in folded or graph.is_quantised(layer) or not layer.weights:
            continue
        weights = layer.get_weights()
        if layer.name in before or layer.name in after:
            weights = _merged(layer, weights, before.get(layer.name), after.get(layer.name))
        lean.get_layer(layer.name).set_weights(weights)
    return lean


def _neighbours(model):
    """Name of a layer -> the normalisation that goes into it: those before it, those after it."""
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

    before, after = {}, {}
    for norm, (given, *_), (made, *_) in calls:
        if type(norm) not in _NORMS or times[id(norm)] > 1:
            continue
        source, reader = makers.get(id(given)), only_reader(made)
        if _is_linear(source) and times[id(source)] == 1 and only_reader(given) is norm:
            after[source.name] = norm
        elif _is_pointwise(reader) and times[id(reader)] == 1:
            before[reader.name] = norm
    return before, after


def _merged(layer, weights, before, after):
    """Kernel and bias of a layer with the normalisations before and after it."""
    kernel, *bias = (w.astype("float64") for w in weights)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    channels = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[-1]
    bias = bias[0] if bias else np.zeros(channels)
    if before is not None:
        gain, shift = _affine(before)
        bias = bias + shift @ kernel.reshape(-1, channels)
        kernel = kernel * gain[:, None]
    if after is not None:
        gain, shift = _affine(after)
        kernel = kernel * (gain.reshape(kernel.shape[2:]) if depthwise else gain)
        bias = bias * gain + shift
    return [kernel, bias]


class _Folded(keras.layers.Layer):
    """Stands where a normalisation was."""

    def call(self, inputs, training=None, mask=None):
        return inputs


# by their exact class: what somebody derives from them may compute something else
_NORMS = (keras.layers.BatchNormalization, layers.BatchNormalization)
_CONVOLUTIONS = (keras.layers.Conv2D, layers.Conv2D)
_LINEAR = (
    *_CONVOLUTIONS,
    keras.layers.DepthwiseConv2D,
    layers.DepthwiseConv2D,
    keras.layers.Dense,
)


def _is_linear(layer):
    return (
        type(layer) in _LINEAR
        and layer.activation is keras.activations.linear
        and not graph.is_quantised(layer)
        and not getattr(layer, "lora_enabled", False)
    )


def _is_pointwise(layer):
    return (
        type(layer) in _CONVOLUTIONS
        and tuple(layer.kernel_size) == (1, 1)
        and layer.groups == 1
        and not layer.lora_enabled
    )


def _affine(norm):
    """The normalisation as `x * gain + shift`, float64."""
    gain = 1.0 / np.sqrt(norm.moving_variance.numpy().astype("float64") + norm.epsilon)
    gain = gain * norm.gamma.numpy() if norm.scale else gain
    shift = -norm.moving_mean.numpy() * gain
    return gain, shift + norm.beta.numpy() if norm.center else shift
