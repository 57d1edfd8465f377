"""A model seen from outside: its calls, its logits and head, the sizes it takes."""

import contextlib

import keras
from keras import ops

from keras_effv2.arguments import check_number
from keras_effv2.layers.pixels import SIDE, check_preprocessing, find_pixels, takes_hub_images, walk


def side_of(model, image_size=None):
    """The side in pixels of the square pictures that a model is given.

    Args:
        model: A `keras.Model` of pictures `(side, side, 3)`.
        image_size: The side that is wished; None takes the model's: that of its input, else that of
            its contract, else `layers.SIDE`.

    Raises:
        ValueError: If the model does not take such pictures.
    """
    if image_size is not None:
        check_number("`image_size`", image_size, 1, whole=True)
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
    if takes_hub_images(model):
        raise ValueError(
            f"Model {model.name!r} takes pixels 0..1, as its HubLayer does; here models take 0..255. "
            "Put keras.layers.Rescaling(1 / 255) before the HubLayer."
        )
    pixels = find_pixels(model)
    side = image_size or shape[1] or (pixels and pixels.image_size) or SIDE
    if side % side_multiple(model):
        raise ValueError(
            f"Model {model.name!r} takes sides that are multiples of {side_multiple(model)} pixels. "
            f"Received: {side}."
        )
    return side


def side_multiple(model):
    """What the side of a model's pictures has to be a multiple of: the most that a layer asks for."""
    return max((getattr(layer, "side_multiple", 1) for layer in walk(model)), default=1)


def check_outputs(model):
    """Refuses a model that does not give one vector for one picture."""
    given, outputs = (
        [tuple(x.shape) for x in end] for end in (_built(model).inputs, model.outputs)
    )
    if [len(shape) for shape in given + outputs] != [4, 2]:
        raise ValueError(
            f"Model {model.name!r} takes {', '.join(map(str, given))} and gives "
            f"{', '.join(map(str, outputs))}; what is wanted is one image (batch, height, width, n) and "
            "one output (batch, n). Build it without `features`, or with pooling='avg'."
        )


def check_weights(model):
    """Refuses a model with a weight that is no number."""
    for weight in model.weights:
        is_real = "float" in str(weight.dtype)
        if is_real and not ops.all(ops.isfinite(ops.cast(weight, "float32"))):
            raise ValueError(
                f"Model {model.name!r} gives no numbers (NaN): its weight {weight.path} holds NaN or "
                "infinity. The training has diverged, or the file is damaged: take an earlier one."
            )


def said_of_head(model, key):
    """What the model's `Pixels` layer says, where it speaks of a head with as many outputs.

    Args:
        model: A `keras.Model` from images to one vector. One output stands for two classes.
        key: `"activation"`, `"class_names"`, `"unknown_below"`, `"thresholds"` or `"temperature"`.

    Returns:
        What it says, or None: there is no such layer, or its names are those of another head.
    """
    pixels = find_pixels(model)
    if pixels is None or (pixels.class_names and not are_its_classes(model, pixels.class_names)):
        return None
    return getattr(pixels, key)


def are_its_classes(model, names):
    """Whether there are as many names as the model has classes; one output stands for two, or one."""
    count = model.outputs[0].shape[-1]
    return len(names) in (count, max(2, count))


def is_dynamic(model):
    """Whether a model takes images of any size."""
    return tuple(_built(model).inputs[0].shape[1:3]) == (None, None)


def dynamic_clone(model):
    """The same layers and weights on an input `(None, None, channels)`."""
    channels = model.inputs[0].shape[-1]
    clone = keras.models.clone_model(model, keras.Input((None, None, channels)))
    clone.set_weights(model.get_weights())
    return clone


def of_any_size(model):
    """A clone that computes pictures of any size, or None where a layer such as `Flatten` cannot."""
    _, height, width, channels = model.inputs[0].shape
    try:
        clone = dynamic_clone(model)
        other = (1, (height or 64) + 32, (width or 64) + 64, channels)
        clone.compute_output_spec(keras.KerasTensor(other))
    except (ValueError, TypeError):
        return None
    return clone


def is_quantised(layer):
    """Whether a layer computes with integers or eight bits: its kernel is not what it multiplies by."""
    return getattr(layer, "quantization_mode", None) is not None


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


def activation_of(model):
    """What a model's outputs are: `"softmax"`, `"sigmoid"`, or None where they are logits.

    The last activation of the model itself says it, wherever it stands: in a layer, alone, in a
    nested model, before a cast or a mean. An activation is recognised by what it computes.

    Raises:
        ValueError: If the outputs may be anything else.

    Example:

    >>> images = keras.Input((32, 32, 3))
    >>> activation_of(keras.Sequential([images, keras.layers.Flatten(), keras.layers.Dense(5)]))
    >>> x = keras.layers.GlobalAveragePooling2D()(images)
    >>> activation_of(keras.Model(images, keras.layers.Dense(1, "sigmoid")(x)))
    'sigmoid'
    """
    makers = {id(x): (call, given) for call, given, made in calls(model) for x in made}

    def behind(tensor):
        if id(tensor) not in makers:
            raise _unknown(model, "its own input")
        operation, given = makers[id(tensor)]
        kind, own = type(operation).__name__, _own_activation(operation)
        if _is_graph(operation):
            return activation_of(operation)
        if own in PROBABILITIES:
            return own
        if getattr(operation, "weights", ()) and own in (None, "linear") and _is_known(operation):
            return None
        if own == "linear" or kind in _PASSES:
            return behind(given[0])
        if kind in _MEANS or kind in _SUMS:
            found = {behind(x) for x in given}
            if len(found) == 1 and (kind in _MEANS or None in found):
                return found.pop()
        raise _unknown(model, operation.name, kind if own is None else f"activation {own}")

    return behind(_functional(model).outputs[0])


PROBABILITIES = ("softmax", "sigmoid")
# classes of layers and of keras.ops that leave numbers, average them, or combine logits to logits
_PASSES = ("Cast", "Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "ActivityRegularization")
_MEANS = ("Average", "Mean", "Stack", "GlobalAveragePooling2D")
_SUMS = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Sum", "Concatenate", "Rescaling")


def _unknown(model, *end):
    return ValueError(
        f"Model {model.name!r} ends in {' with '.join(map(str, end))}, so whether its outputs are "
        "probabilities or logits is unknown. Let it end in a Dense layer, for logits, or in a "
        "softmax or sigmoid."
    )


def _is_known(layer):
    """Whether a layer is of Keras or ours; one of somebody else's may compute anything."""
    owner = type(layer).__module__.partition(".")[0]
    return owner in ("keras", "keras_effv2") and not isinstance(layer, keras.layers.TFSMLayer)


def _own_activation(operation):
    """`"softmax"`, `"sigmoid"`, `"linear"`, another activation's name, or None for none."""
    kind = type(operation).__name__
    if kind in ("Softmax", "Sigmoid"):  # the layer, or of keras.ops
        last = getattr(operation, "axis", -1) == -1
        return kind.lower() if last else f"{kind} over axis {operation.axis}"
    function = getattr(operation, "activation", None)
    if not callable(function):
        return None
    x = ops.convert_to_tensor([[0.3, -1.2, 2.5]], dtype="float32")
    y = function(x)
    if tuple(y.shape) != (1, 3):
        return str(function)

    def same(a, b):
        return bool(ops.all(ops.abs(a - b) < 1e-5))

    if same(ops.softmax(y), ops.softmax(x)):
        return "linear"  # or log_softmax, whose softmax is the softmax
    known = (name for name in PROBABILITIES if same(y, getattr(ops, name)(x)))
    return next(known, getattr(function, "__name__", str(function)))


def logits_of(model):
    """The model without its last activation, sharing its layers and weights.

    Raises:
        ValueError: If the model gives probabilities by something else than its last activation, or
            something that is neither probabilities nor logits.
    """
    if activation_of(model) is None:
        return model
    inputs = _functional(model).input
    head, given, _ = calls(model)[-1]
    if _is_graph(head):
        return _with_head(model, head, logits_of(head))  # a head that is a model of its own
    if isinstance(head, keras.layers.Dense):
        return keras.Model(inputs, _Logits(head)(given[0]))
    if _is_activation(head):
        before = keras.Model(inputs, given[0])
        return before if _own_activation(head) in PROBABILITIES else logits_of(before)
    raise ValueError(
        f"Model {model.name!r} ends in {head.name!r}, which gives or takes probabilities, so its "
        "logits are unknown. Let it end in a Dense layer, or in the softmax or sigmoid itself."
    )


def head_of(model):
    """The last operation of a model that is no activation; of a model nested there, its last."""
    head = [operation for operation, _, _ in calls(model) if not _is_activation(operation)][-1]
    return head_of(head) if _is_graph(head) else head


def _is_activation(operation):
    """Whether an operation is an activation by itself, or a cast, as it may follow a head."""
    kinds = (keras.layers.Activation, keras.layers.Softmax)
    return isinstance(operation, kinds) or type(operation).__name__ in (
        "Sigmoid",
        "Softmax",
        "Cast",
    )


def _is_graph(operation):
    """Whether an operation is a model whose own calls are known."""
    return isinstance(operation, keras.Model) and bool(getattr(operation, "inputs", None))


def _functional(model):
    """A `Sequential`, or any model with a graph, as a functional model of the same tensors."""
    ends = (_built(model).inputs, model.outputs)
    return keras.Model(*(tensors[0] if len(tensors) == 1 else tensors for tensors in ends))


def _built(model):
    """The model; a `Sequential` that has never seen a picture gets its input."""
    if not isinstance(model, keras.Model):
        kind = type(model)
        old = kind.__module__.partition(".")[0] in ("tf_keras", "tensorflow")
        raise TypeError(
            f"Models here are models of Keras 3, `keras.Model`. Received: {kind.__name__}"
            + (
                " of tf_keras, which is Keras 2. Build the same network with `keras` and call "
                "set_weights(old.get_weights())."
                if old
                else f" of {kind.__module__}."
            )
        )
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, None, None, 3))
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"Model {model.name!r} computes in a `call` of its own, so its layers cannot be "
            "followed. Make it of keras.Input and keras.Model(inputs, outputs)."
        )
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

    def call(self, inputs, training=None):
        (dense,) = self._dense
        if type(dense) is not keras.layers.Dense or is_quantised(dense):
            with _linear(dense):  # what else than a product it computes is its own business
                return dense(inputs, training=training)
        logits = ops.matmul(inputs, dense.kernel)  # in float32 under every policy
        return logits if dense.bias is None else logits + dense.bias


@contextlib.contextmanager
def _linear(dense):
    """Within the block a layer has no activation."""
    activation, dense.activation = dense.activation, keras.activations.linear
    try:
        yield
    finally:
        dense.activation = activation
