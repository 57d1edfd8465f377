"""Less memory for more computing: activations are recomputed in the backward pass.

A network is cut into its blocks; only what flows from block to block is kept until the gradients
are computed, and each block is run again for its own. Random masks are the same both times and
moving averages move once, so that the gradients are those of the whole network (Chen et al. 2016,
arXiv 1604.06174; elsewhere "gradient checkpointing").
"""

import keras
import tensorflow as tf

from keras_effv2 import layers


def blocks(model):
    """Cuts a functional model into a chain of models that share its layers.

    Args:
        model: A `keras.Model` of one input and one output. It is cut where a single tensor leads
            from one block to the next; a block is what shares the first word of its layers' names
            (`block2b_add`: `block2b`).

    Returns:
        A list of models; called one after the other they are the model.

    Example:

    >>> from keras_effv2 import EfficientNetV2B0
    >>> len(blocks(EfficientNetV2B0(weights=None)))
    27
    """
    (start,), (end,) = model.inputs, model.outputs
    order = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    readers = {}
    for layer in order:
        for tensor in _tensors(layer.input):
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    waiting = {id(start): readers[id(start)]}
    cuts = [start]
    for layer, following in zip(order, order[1:], strict=False):
        for tensor in _tensors(layer.input):
            waiting[id(tensor)] -= 1
            if not waiting[id(tensor)]:
                del waiting[id(tensor)]
        for tensor in _tensors(layer.output):
            waiting[id(tensor)] = readers.get(id(tensor), 0)
        alone = set(waiting) == {id(layer.output)}
        if alone and layer.name.split("_")[0] != following.name.split("_")[0]:
            cuts.append(layer.output)
    return [keras.Model(*pair) for pair in zip(cuts, [*cuts[1:], end], strict=True)]


def _tensors(nested):
    return keras.tree.flatten(nested)


def rematerialized(model):
    """The training forward pass of a model, as a function that keeps block boundaries only.

    Args:
        model: A functional `keras.Model` on the TensorFlow backend.

    Returns:
        A function: images -> what `model(images, training=True)` gives, with the same gradients.
    """
    pieces = blocks(model)

    def forward(images):
        x = images
        for piece in pieces:
            x = _recomputed(piece)(x)
        return x

    return forward


def _recomputed(piece):
    passes = layers.Passes()

    def run(x):
        with passes.next():
            return piece(x, training=True)

    return tf.recompute_grad(run)
