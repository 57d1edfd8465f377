"""A model seen by an exporter: what it can be exported as, and the parts that are exported."""

import contextlib

import keras

from keras_effv2 import graph, layers


def check_outputs(model):
    """Refuses a model of several inputs or outputs, or of maps, before anything is written."""
    outputs = model.outputs
    if len(model.inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            f"Model {model.name!r} has {len(model.inputs)} inputs and outputs of shapes "
            f"{', '.join(str(tuple(x.shape)) for x in outputs)}; exports are of models with one "
            "image and one output (batch, n). Build it without `features`, or with pooling='avg'."
        )


def check_head(model):
    """Refuses a model whose outputs are features, no classes."""
    pooled = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    if isinstance(model.layers[-1], pooled):
        raise ValueError(
            f"Model {model.name!r} ends in its pooled features, so it has no classes: export it "
            "with kind='feature_vector'."
        )


def pooled(net):
    """The model up to its pooled features `(batch, channels)`."""
    if len(net.output_shape) == 2 and not isinstance(graph.head_of(net), keras.layers.Dense):
        return net
    for layer, _, (made, *_) in reversed(graph.calls(net)):
        if isinstance(layer, keras.layers.GlobalAveragePooling2D) and len(made.shape) == 2:
            return keras.Model(net.inputs, made)
    raise ValueError(
        f"Model {net.name!r} has no layer GlobalAveragePooling2D of its own, so there is no feature "
        "vector. Build it with include_top=True or pooling='avg'."
    )


def pyramid_of(net):
    """The feature maps by name, where the builder of the model said which they are."""
    pixels = layers.find_pixels(net)
    outputs = {layer.name: layer.output for layer in net.layers}
    names = pixels.features if pixels is not None else {}
    return {key: outputs[name] for key, name in sorted(names.items()) if name in outputs}


def saved_models_in(net):
    """The SavedModels inside a model; they have variables that are no weights, such as seeds."""
    return [layer.module for layer in layers.walk(net) if hasattr(layer, "module")]


def takes_hub_images(net):
    """Whether the model is built on a layer that takes [0, 1], as TF Hub's models do."""
    on_hub = any(getattr(layer, "takes_hub_images", False) for layer in layers.walk(net))
    return on_hub and layers.find_pixels(net) is None


@contextlib.contextmanager
def constant_rates(model):
    """Bakes the rates of dropping into what is traced within; afterwards they may vary again."""
    with contextlib.ExitStack() as stack:
        for layer in layers.walk(model):
            if hasattr(layer, "fixed_rate"):
                stack.enter_context(layer.fixed_rate())
        yield
