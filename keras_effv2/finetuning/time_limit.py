"""A fine-tuning that fits into a time: as large pictures and as many epochs as this machine does in it."""

import re
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import graph, models, recipes, timing, variants
from keras_effv2.arguments import check_kind
from keras_effv2.finetuning.head import ENOUGH as ENOUGH_TO_SOLVE
from keras_effv2.finetuning.planning import STEP
from keras_effv2.training.strategy import policy
from keras_effv2.variants import efficientnet_v2

SIZES = (96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
ENOUGH = 4  # epochs; with fewer, smaller pictures do better
AROUND = 30  # seconds for tracing and the report
AFTER = 20  # of them after the training
ITERATIONS = 900  # of the logistic regressions: nine solutions of about a hundred
LATE = 1.1  # of the limit, past which no epoch is begun that would end there
LIKELY = 1.5  # times the limit, by multiply-adds: networks beyond are not even timed


def seconds_of(text: str) -> float:
    """Seconds of `"90s"`, `"20m"`, `"1.5h"`; of a number alone minutes.

    >>> seconds_of("90s"), seconds_of("20m"), seconds_of("1.5h"), seconds_of("3")
    (90.0, 1200.0, 5400.0, 180.0)
    """
    wanted = "a time such as '90s', '20m' or '1.5h'"
    check_kind("time_limit", text, str, wanted)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise ValueError(f"`time_limit` is {wanted}. Received: {text!r}.")
    return float(match[1]) * {"s": 1, "m": 60, "": 60, "h": 3600}[match[2]]


def _spoken(seconds):
    """A time in the unit that suits it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def measured(variant, size, batch, count, classes, precision):
    """What this machine needs: seconds of a forward pass a picture, and of solving the head.

    Batches are timed, in float32 if the precision is yet to be chosen, and one iteration of a
    logistic regression: two products of its features.
    """
    pixels = variants.find(variant).pixels
    with policy("float32" if precision == "auto" else precision):
        net = models.builder(variant)(weights=None, classes=classes, pixels=pixels)
    images = tf.zeros((batch, size, size, 3))
    forward = tf.function(lambda x: net(x, training=False), autograph=False)
    features = np.ones((min(count, 2000), graph.head_of(net).input.shape[-1]))
    kernel = np.ones((features.shape[1], classes))
    # one after the other: threads of NumPy's go on for a while, and slow TensorFlow's
    once = _usual(lambda: forward(images).numpy())
    iteration = _usual(lambda: features.T @ (features @ kernel))
    part = min(count, ENOUGH_TO_SOLVE) / len(features)
    return once / batch, ITERATIONS * iteration * part


def _usual(work):
    """Seconds of some work, the median of several times; the first is not counted."""
    (seconds,) = timing.alternate(work, rounds=6, warmup=1)
    return statistics.median(seconds)


def cost(recipe, speed, size, counts):
    """Seconds that a fine-tuning takes, all in all.

    Args:
        recipe: A `Recipe` whose phases say their sizes.
        speed: Seconds of a forward pass a picture, and of solving the head, as `measured` gives them.
        size: Side in pixels of the pictures that were timed.
        counts: Pictures of the training, the validation and the test split.
    """
    (train, validation, test), (forward, head) = counts, speed
    last = recipe.phases[-1].image_size
    pixels = sum((p.stop_epoch - p.start_epoch) * p.image_size**2 for p in recipe.phases)
    looked_at = (train + (recipe.epochs + 2) * validation + test) * last**2
    return AROUND + head + forward * (STEP * train * pixels + looked_at) / size**2


def largest(planned, limit, measure, counts):
    """The largest EfficientNetV2 whose whole plan fits into a time, or the smallest, and a sentence.

    The smallest is timed; of the others, from the largest on, those that may fit by their
    multiply-adds.

    Args:
        planned: Function of a model's name that gives a `Recipe` as without a limit.
        limit: Seconds.
        measure: Function of a name, pixels and pictures a batch that gives what `measured` does.
        counts: As `cost`'s.
    """
    names = list(efficientnet_v2.VARIANTS)

    def facts(name):
        recipe = planned(name)
        side = recipe.phases[-1].image_size
        return recipe, side, variants.model_info(name, side)["macs"]

    recipe, side, least = facts(names[0])
    forward, head = measure(names[0], side, recipe.batch_size)
    larger = ""
    for name in names[:0:-1]:
        recipe, side, macs = facts(name)
        needed = cost(recipe, (forward * macs / least, head), side, counts)
        if needed <= LIKELY * limit:
            needed = cost(recipe, measure(name, side, recipe.batch_size), side, counts)
            if needed <= limit:
                return name, f"{name} is the largest that is done in {_spoken(limit)}{larger}."
        larger = f"; {name} would take about {_spoken(needed)}"
    return names[0], f"{names[0]} is the smallest, and the one for {_spoken(limit)}{larger}."


def within(planned, limit, speed, size, counts):
    """The plan for a time, and a sentence on it and on what more time would buy.

    The largest pictures that are seen four times come first, then more epochs: measured on flowers,
    224 pixels for 4 epochs gain more than 160 for 11 (docs/measured.md).

    Args:
        planned: Function of a side (None: as without a limit) and of epochs (None: likewise) that
            gives a `Recipe`.
        limit: Seconds.
        speed: As `cost`'s.
        size: As `cost`'s.
        counts: As `cost`'s.

    Returns:
        A `Recipe` and a sentence.

    Raises:
        ValueError: If not even one epoch of the smallest pictures fits.
    """
    whole = planned(None, None)
    side, epochs = whole.phases[-1].image_size, whole.epochs
    free = planned(SIZES[0], None).phases[-1].image_size != side  # else the user has said it
    sides = [s for s in SIZES if s < side] + [side] if free else [side]
    fixed = planned(None, 1).epochs == epochs

    def fitting(side):
        counted = [epochs] if fixed else range(1, epochs + 1)
        plans = (planned(side, n) for n in counted)
        return [p for p in plans if cost(p, speed, size, counts) <= limit]

    found = [fitting(side) for side in sides]
    enough = [plans[-1] for plans in found if plans and plans[-1].epochs >= min(ENOUGH, epochs)]
    some = [plans[-1] for plans in found if plans]
    if not some:
        least = cost(planned(sides[0], epochs if fixed else 1), speed, size, counts)
        raise ValueError(
            f"In {_spoken(limit)} not even one epoch of {sides[0]} pixels can be done here, which "
            f"takes about {_spoken(least)}. Give it more time, fewer pictures or a smaller model."
        )
    best = enough[-1] if enough else some[0]
    return best, _told(best, whole, limit, lambda plan: cost(plan, speed, size, counts))


def _told(best, whole, limit, cost_of):
    def plan(recipe):
        return f"{recipe.epochs} epochs at {recipe.phases[-1].image_size} pixels"

    text = f"In {_spoken(limit)}: {plan(best)}, about {_spoken(cost_of(best))} in all"
    if (best.epochs, best.phases[-1].image_size) == (whole.epochs, whole.phases[-1].image_size):
        return f"{text}; more time would not change the plan."
    return f"{text}; {_spoken(cost_of(whole))} would buy {plan(whole)}."


class TimeLimit(keras.callbacks.Callback):
    """Ends a training before the epoch that would end past the limit.

    Args:
        limit: Seconds from now on, for the training and what comes after it.
        recipe: A `Recipe` whose phases say their sizes.
    """

    def __init__(self, limit, recipe):
        super().__init__()
        self.start, self.limit, self.recipe = time.perf_counter(), limit, recipe

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now, phases = time.perf_counter(), recipes.resolved(self.recipe, 0).phases
        sides = {e: p.image_size for p in phases for e in range(p.start_epoch, p.stop_epoch)}
        if epoch + 1 not in sides:
            return
        following = (now - self.begun) * (sides[epoch + 1] / sides[epoch]) ** 2
        if now - self.start + following + AFTER > LATE * self.limit:
            logging.warning(
                "The time limit ends the training after epoch %d of %d: this machine is slower than it "
                "was when it was timed.",
                epoch + 1,
                self.recipe.epochs,
            )
            self.model.stop_training = True
