"""A model seen from outside: its calls, its logits and head, the sizes it takes."""

import contextlib

import keras
from keras import ops

from keras_effv2.layers.pixels import SIDE, check_preprocessing, find_pixels, walk


def side_of(model, image_size=None):
    """The side in pixels of the square pictures that a model is given.

    Args:
        model: A `keras.Model` of pictures `(side, side, 3)`.
        image_size: The side that is wished; None takes the model's: that of its input, else that of
            its contract, else `layers.SIDE`.

    Raises:
        ValueError: If the model does not take such pictures.
    """
    shape = tuple(_built(model).inputs[0].shape)
    if len(shape) != 4 or shape[-1] != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"Model {model.name!r} takes inputs of shape {shape}; pictures here are squares of three "
            "channels, (None, side, side, 3)."
        )
    if shape[1] is not None and image_size not in (None, shape[1]):
        raise ValueError(
            f"Model {model.name!r} takes pictures of {shape[1]} pixels alone. Received "
            f"image_size={image_size}: leave it out, or build the model without `input_shape`."
        )
    check_preprocessing(model)
    pixels = find_pixels(model)
    side = image_size or shape[1] or (pixels and pixels.image_size) or SIDE
    if side % side_multiple(model):
        raise ValueError(
            f"Model {model.name!r} takes sides that are multiples of {side_multiple(model)} pixels. "
            f"Received: {side}."
        )
    return side


def side_multiple(model):
    """What the side of a model's pictures has to be a multiple of: 32 with relative attention."""
    attends = any(type(layer).__name__ == "RelativeAttention" for layer in walk(model))
    return 32 if attends else 1


def is_dynamic(model):
    """Whether a model takes images of any size."""
    return tuple(model.inputs[0].shape[1:3]) == (None, None)


def dynamic_clone(model):
    """The same layers and weights on an input `(None, None, channels)`."""
    channels = model.inputs[0].shape[-1]
    clone = keras.models.clone_model(model, keras.Input((None, None, channels)))
    clone.set_weights(model.get_weights())
    return clone


def calls(model):
    """The calls that a functional model is made of, in order.

    `layer.input` and `layer.output` are those of a layer's first call, whichever model made it, and
    `model.get_config()` names calls without their tensors: the nodes that Keras keeps for itself,
    read here and nowhere else, are the one way to the tensors of a later call.

    Returns:
        A list of `(operation, tensors in, tensors out)`; the operation is a layer or of `keras.ops`.
    """
    depths = _functional(model)._nodes_by_depth
    nodes = [node for depth in sorted(depths, reverse=True) for node in depths[depth]]
    return [(x.operation, x.input_tensors, x.output_tensors) for x in nodes if not x.is_input]


def flattened(model):
    """The model with the layers of the models nested in it as its own, sharing them."""
    flat = _functional(model)

    def call(operation, *args, **options):
        return (operation.call if _is_graph(operation) else operation)(*args, **options)

    while any(_is_graph(operation) for operation, _, _ in calls(flat)):
        flat = keras.models.clone_model(
            flat,
            input_tensors=flat.input,
            clone_function=lambda operation: operation,
            call_function=call,
        )
    return flat


def logits_of(model):
    """The model without its last activation, sharing its layers and weights.

    Raises:
        ValueError: If the model gives probabilities by something else than its last activation.
    """
    inputs = _functional(model).input
    made = calls(model)
    head, given, _ = made[-1]
    if isinstance(head, keras.layers.Dense):
        if head.activation is keras.activations.linear:
            return model
        return keras.Model(inputs, _Logits(head)(given[0]))
    if _is_activation(head):
        before = keras.Model(inputs, given[0])
        changes_nothing = getattr(head, "activation", None) is keras.activations.linear
        return logits_of(before) if changes_nothing or type(head).__name__ == "Cast" else before
    if _is_graph(head):
        return _with_head(model, head, logits_of(head))  # a head that is a model of its own
    makers = {id(x): operation for operation, _, outputs in made for x in outputs}
    after = all(_gives_probabilities(makers.get(id(x))) for x in given)
    if _gives_probabilities(head) or (after and not getattr(head, "weights", ())):
        raise ValueError(
            f"Model {model.name!r} ends in {head.name!r}, which gives or takes probabilities, so its "
            "logits are unknown. Let it end in a Dense layer, or in the softmax or sigmoid itself."
        )
    return model


def head_of(model):
    """The last operation of a model that is no activation; of a model nested there, its last."""
    head = [operation for operation, _, _ in calls(model) if not _is_activation(operation)][-1]
    return head_of(head) if _is_graph(head) else head


def _is_activation(operation):
    """Whether an operation is an activation by itself, or a cast, as it may follow a head."""
    kinds = (keras.layers.Activation, keras.layers.Softmax)
    return isinstance(operation, kinds) or type(operation).__name__ in (*_PROBABILITIES, "Cast")


_PROBABILITIES = ("Softmax", "Sigmoid")  # the classes behind keras.ops.softmax and sigmoid


def _gives_probabilities(operation):
    if _is_graph(operation):
        return _gives_probabilities(calls(operation)[-1][0])
    activations = (keras.activations.softmax, keras.activations.sigmoid)
    named = type(operation).__name__ in _PROBABILITIES
    return named or getattr(operation, "activation", None) in activations


def _is_graph(operation):
    """Whether an operation is a model whose own calls are known."""
    return isinstance(operation, keras.Model) and bool(getattr(operation, "inputs", None))


def _functional(model):
    """A `Sequential`, or any model with a graph, as a functional model of the same tensors."""
    ends = (_built(model).inputs, model.outputs)
    return keras.Model(*(tensors[0] if len(tensors) == 1 else tensors for tensors in ends))


def _built(model):
    """The model; a `Sequential` that has never seen a picture gets its input."""
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, None, None, 3))
    return model


def _with_head(model, head, other):
    """The model with another last layer."""
    if other is head:
        return model
    if isinstance(model, keras.Sequential):
        x = model.inputs[0]
        for layer in model.layers[:-1]:
            x = layer(x)
        return keras.Model(model.inputs[0], other(x))
    uncompiled = keras.Model(model.input, model.output)
    return keras.models.clone_model(
        uncompiled,
        input_tensors=model.input,
        clone_function=lambda layer: layer,
        call_function=lambda layer, *args, **options: (other if layer is head else layer)(
            *args, **options
        ),
    )


class _Logits(keras.layers.Layer):
    """A dense layer without its activation; the weights stay the dense layer's."""

    def __init__(self, dense):
        super().__init__(dtype="float32", name="logits")
        self._dense = (dense,)  # a tuple in a tuple is not tracked twice: the head stays the owner

    def call(self, inputs):
        (dense,) = self._dense
        if dense.quantization_mode is not None:  # its kernel is not what it multiplies by
            with _linear(dense):
                return ops.cast(dense(inputs), "float32")
        logits = ops.matmul(inputs, dense.kernel)
        return logits if dense.bias is None else logits + dense.bias


@contextlib.contextmanager
def _linear(dense):
    """A dense layer without its activation, within the block."""
    activation, dense.activation = dense.activation, keras.activations.linear
    try:
        yield
    finally:
        dense.activation = activation
