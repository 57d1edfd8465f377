"""The precision that chooses itself: a step in each, timed on this machine."""

import contextlib
import dataclasses
import statistics

import keras
import tensorflow as tf
from absl import logging

from keras_effv2 import graph, processor, recipes, timing
from keras_effv2.training import strategy

GAIN = 1.1  # half precision costs digits: it has to be faster by a tenth
MOST = 16  # pictures of the batches that are timed
ROUNDS = 3


def settled(recipe, build, begun, devices):
    """The recipe with a precision in place of `"auto"`.

    Args:
        recipe: A `Recipe`.
        build: Function without arguments that builds the model.
        begun: What a run that is resumed is, as `state.begun` gives it; None of a fresh one.
        devices: The `tf.distribute.Strategy` to train with.

    Raises:
        ValueError: If nothing can be timed: the model exists already, or processes train together.
    """
    if recipe.precision != "auto":
        return recipe
    if begun:
        return dataclasses.replace(recipe, precision=begun["precision"])
    if isinstance(build, keras.Model) or strategy.has_workers(devices):
        raise ValueError(
            "precision='auto' builds the model in each precision and times it on one machine. Received "
            "a model that is built already, or several workers: pass a function that builds the model, "
            "or say 'float32' or 'mixed_bfloat16'."
        )
    chosen, why = fastest(build, recipe)
    logging.info("%s", why)
    return dataclasses.replace(recipe, precision=chosen)


def fastest(build, recipe):
    """The precision in which a training step is fastest here, and a sentence that says why.

    Args:
        build: Function without arguments that builds the model.
        recipe: A `Recipe`, for batch size and largest pictures.
    """
    candidates, why = _candidates()
    if len(candidates) < 2:
        return candidates[0], f"Precision {candidates[0]}: {why}."
    steps = {}
    for name in candidates:
        with strategy.policy(name), _silence():  # the model that is trained tells of itself
            model = build()
        phase = recipes.resolved(recipe, graph.side_of(model)).phases[-1]
        size, batch = phase.image_size, min(phase.batch_size, MOST)
        steps[name] = timing.train_step(model, batch, size)
    times = timing.alternate(*steps.values(), rounds=ROUNDS, warmup=1)
    seconds = dict(zip(steps, map(statistics.median, times)))
    best = min(seconds, key=lambda name: seconds[name] * (1 if name == "float32" else GAIN))
    told = ", ".join(f"{1000 * value:.0f} ms in {name}" for name, value in seconds.items())
    return best, (
        f"Precision {best}: a step on {batch} pictures of {size} pixels takes {told}"
        f"{'; half precision has to be faster by a tenth' if best == 'float32' else ''}."
    )


@contextlib.contextmanager
def _silence():
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _candidates():
    """The precisions worth a try on the device that computes, and why there are no others."""
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    if "TPU" in kinds:
        return ["mixed_bfloat16"], "a TPU multiplies in bfloat16"
    if "GPU" in kinds:
        return ["float32", "mixed_bfloat16", "mixed_float16"], ""
    if processor.multiplies_bfloat16():
        return ["float32", "mixed_bfloat16"], ""
    why = "this processor has neither AVX512_BF16 nor AMX, without which halves are slow"
    return ["float32"], why
