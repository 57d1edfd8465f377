"""Less memory for more computing: activations are recomputed in the backward pass.

A network is cut into its blocks; only what flows from block to block is kept until the gradients
are computed, and each block is run again for its own. Random masks are the same both times and
moving averages move once, so that the gradients are those of the whole network (Chen et al. 2016,
arXiv 1604.06174; elsewhere "gradient checkpointing"). CoAtNet-0 at 192 pixels takes 2.3 instead of
5.0 GiB and 3.3 instead of 2.7 s a step (docs/measured.md).
"""

import collections
import itertools

import keras

from keras_effv2 import graph, layers, needs

with needs.naming("Rematerialization"):
    import tensorflow as tf


def blocks(model):
    """Cuts a functional model into a chain of models that share its layers.

    Args:
        model: A `keras.Model` of one input and one output. It is cut where a single tensor leads
            from one block to the next; a block is what shares the first word of its layers' names
            (`block2b_add`: `block2b`): names are all that a model tells of its blocks once it was
            saved and loaded.

    Returns:
        A list of models; called one after the other they are the model.

    Example:

    >>> from keras_effv2 import EfficientNetV2B0
    >>> len(blocks(EfficientNetV2B0(weights=None)))
    27
    """
    (start,), (end,) = model.inputs, model.outputs
    calls = graph.calls(model)
    readers = collections.Counter(id(x) for _, given, _ in calls for x in given)
    waiting = {id(start): readers[id(start)]}
    cuts = [start]
    for (layer, given, made), (following, _, _) in itertools.pairwise(calls):
        for tensor in given:
            waiting[id(tensor)] -= 1
            if not waiting[id(tensor)]:
                del waiting[id(tensor)]
        for tensor in made:
            waiting[id(tensor)] = readers[id(tensor)]
        alone = set(waiting) == {id(made[0])}
        if alone and layer.name.split("_")[0] != following.name.split("_")[0]:
            cuts.append(made[0])
    return [keras.Model(*pair) for pair in itertools.pairwise([*cuts, end])]


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
