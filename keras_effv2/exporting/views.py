"""A model seen by an exporter: what it can be exported as, and the parts that are exported."""

import contextlib

import keras
from absl import logging

from keras_effv2 import files, graph, layers
from keras_effv2.arguments import check_names

_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)


def check_head(model):
    """Refuses a model whose outputs are features, no classes."""
    if isinstance(model.layers[-1], _POOLING):
        raise ValueError(
            f"Model {model.name!r} ends in its pooled features, so it has no classes: export it "
            "with kind='feature_vector'."
        )


def any_size(model):
    """The model on pictures of any size, where it computes them; else the model itself."""
    if graph.is_dynamic(model):
        return model
    clone = graph.of_any_size(model)
    if clone is None:
        text = "%s computes one size alone: it is exported for %s x %s pixels."
        logging.warning(text, model.name, *model.inputs[0].shape[1:3])
    return model if clone is None else clone


def labels_of(model, kind, labels):
    """The names to export: those given, else the model's own if they are those of this head.

    Raises:
        TypeError: If they are no list of texts.
        ValueError: If there are too many or too few, or one does not fit into a line.
    """
    if labels is not None:
        labels = check_names("labels", [labels] if isinstance(labels, str) else labels)
    elif kind == "classification":
        labels = graph.said_of_head(model, "class_names")
    else:
        pixels = layers.find_pixels(model)
        labels = pixels.class_names if pixels is not None else None
    if labels is None:
        return None
    if kind == "classification" and not graph.are_its_classes(model, labels):
        count = model.outputs[0].shape[-1]
        raise ValueError(f"There are {len(labels)} labels for {count} classes. Give one a class.")
    files.check_lines(labels)
    return labels


def pooled(net):
    """The model up to its pooled features `(batch, channels)`."""
    head = graph.head_of(net)
    is_pooled = isinstance(head, (*_POOLING, keras.layers.Dropout, layers.Dropout))
    if len(net.output_shape) == 2 and (is_pooled or hasattr(head, "module")):
        return net
    for layer, _, (made, *_) in reversed(graph.calls(net)):
        if isinstance(layer, _POOLING) and len(made.shape) == 2:
            with contextlib.suppress(ValueError):  # something goes round it
                keras.Model(made, net.outputs[0])
                return keras.Model(net.inputs, made)
            break
    raise ValueError(
        f"Model {net.name!r} has no layer GlobalAveragePooling2D of its own through which all goes, "
        "so there is no feature vector. Build it with include_top=True or pooling='avg'."
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


@contextlib.contextmanager
def constant_rates(model):
    """Bakes the rates of dropping into what is traced within; afterwards they may vary again."""
    with contextlib.ExitStack() as stack:
        for layer in layers.walk(model):
            if hasattr(layer, "fixed_rate"):
                stack.enter_context(layer.fixed_rate())
        yield
