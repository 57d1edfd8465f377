"""The compiled steps: losses, gradients, weights, moving averages; no file and no epoch."""

import functools
import typing

import numpy as np
import tensorflow as tf

from keras_effv2 import optimizers

LARGEST_SCALE = 2.0**15
_SCALE_STEPS = 2000  # without overflow, after which the scale doubles

# AutoGraph, which Keras' own `fit` goes without too, would convert for seconds before the first step
_compiled = functools.partial(tf.function, autograph=False)


def cross_entropy(labels, logits, recipe, class_weights=None):
    """Loss of every picture.

    Args:
        labels: float32 `(batch, classes)`: one-hot, mixed, or several of 1.
        logits: float32 `(batch, classes)`.
        recipe: A `Recipe`: its loss and its label smoothing.
        class_weights: How much a picture of each class counts, `(classes,)`; None: all alike. Their
            logarithms are taken off the logits, and what smoothing gives is divided by them: a
            class that is rare among the labels is rare there too.

    Returns:
        float32 `(batch,)`.
    """
    classes = tf.cast(tf.shape(labels)[-1], tf.float32)
    if recipe.loss == "sigmoid":
        smooth = labels * (1 - recipe.label_smoothing) + 0.5 * recipe.label_smoothing
        losses = tf.nn.sigmoid_cross_entropy_with_logits(smooth, logits)
        return tf.reduce_sum(losses, -1)
    # several labels of one picture share its weight (arXiv 2104.00298, section 5.2)
    labels = labels / tf.maximum(tf.reduce_sum(labels, -1, keepdims=True), 1e-6)
    smoothing = recipe.label_smoothing / classes
    if class_weights is not None:
        logits -= tf.math.log(tf.constant(class_weights, tf.float32))
        smoothing = tf.constant(
            recipe.label_smoothing / class_weights / np.sum(1 / class_weights), tf.float32
        )
    smooth = labels * (1 - recipe.label_smoothing) + smoothing
    return tf.nn.softmax_cross_entropy_with_logits(smooth, logits)


def _hits(labels, logits):
    """Whether the best class is the label, or the heaviest of mixed ones, or one of several."""
    said = tf.gather(labels, tf.argmax(logits, 1), batch_dims=1)
    return (said > 0) & (said >= tf.reduce_max(labels, 1))


def _added(compute, variables, pictures, parts, alone):
    """Gradients and sums of a batch, computed part by part and added up.

    Args:
        compute: Function of images and labels that gives gradients, or None, and the first three `Sums`.
        variables: What the gradients are of.
        pictures: Images and labels of the batch.
        parts: How many parts it has.
        alone: Whether there is one replica. Several meet in layers such as batch normalisation, which
            they cannot within a loop.
    """
    size, reached = tf.shape(pictures[0])[0] // parts, []

    def add(i, sums, *gradients):
        own = slice(i * size, (i + 1) * size)
        found, more = compute(*(tensor[own] for tensor in pictures))
        reached[:] = [gradient is not None for gradient in found]
        added = (g if f is None else g + f for g, f in zip(gradients, found, strict=True))
        return i + 1, sums + more, *added

    done = (0, tf.zeros(3), *(tf.zeros(v.shape, v.value.dtype) for v in variables))
    if alone:
        done = tf.while_loop(lambda i, *_: i < parts, add, done, parallel_iterations=1)
    else:
        for _ in range(parts):
            with tf.control_dependencies(done[1:]):
                done = add(*done)
    _, sums, *gradients = done
    return [g if known else None for g, known in zip(gradients, reached, strict=True)], sums


class Sums(typing.NamedTuple):
    """What a call of `TrainStep` gives: sums over its steps and all replicas."""

    loss: float
    hits: float
    pictures: float
    not_finite: float
    asked: float  # workers that were asked to stop


def _update_scaling(scale, calm, sums):
    """Halves the loss scale after an overflow and doubles it after many steps without.

    Micikevicius et al. 2018, arXiv 1710.03740. An overflow is a failure only at scale 1. Keras'
    LossScaleOptimizer unscales within `apply`, after which a global gradient cannot be clipped.
    """
    overflown = sums[3] > 0
    calm.assign(tf.where(overflown, 0.0, calm + 1))
    grown = tf.where(calm % _SCALE_STEPS == 0, scale * 2, scale)
    failed = overflown & (scale <= 1)
    scale.assign(tf.clip_by_value(tf.where(overflown, scale / 2, grown), 1, LARGEST_SCALE))
    return tf.concat([sums[:3], [tf.cast(failed, tf.float32)], sums[4:]], 0)


def _update_averages(averages, model, decay, strategy):
    """Averages all weights, batch statistics too, with a warm-up; Keras' `use_ema` does neither."""

    def update(average, value):
        if not average.dtype.is_floating:
            return average.assign(value)
        return average.assign_sub((1.0 - tf.cast(decay, average.dtype)) * (average - value))

    for average, weight in zip(averages, model.weights, strict=True):
        strategy.extended.update(average, update, args=(weight.value,))


class TrainStep:
    """Optimizer steps on the next batches, compiled once for all phases (on TPU once a size).

    Args:
        forward: Function of images that gives logits, as in training.
        model: The model, for its variables and penalties.
        optimizer: Its optimizer, built.
        average: Variables of the moving average of `model.weights`, or none.
        scaling: Variables of a float16 model's loss scale and of the steps since it changed, or none.
        recipe: A `Recipe`.
        strategy: A `tf.distribute.Strategy`.
        steps_per_call: Steps a call, at most.
        jit_compile: Whether XLA compiles the step; on one device only.
        class_weights: As `cross_entropy`'s.

    Call arguments:
        iterator: Of batches `(images, labels)`, distributed.
        count: Steps to make.
        asked: Whether this process was asked to stop.
    """

    def __init__(
        self,
        forward,
        model,
        optimizer,
        average,
        scaling,
        recipe,
        strategy,
        steps_per_call=1,
        jit_compile=False,
        class_weights=None,
    ):
        self.replicas = strategy.num_replicas_in_sync
        if jit_compile and self.replicas > 1:
            raise ValueError(
                f"`jit_compile` works on one device; this strategy has {self.replicas} replicas."
            )
        self.forward, self.model, self.optimizer = forward, model, optimizer
        self.average, self.scaling, self.class_weights = average, scaling, class_weights
        self.recipe, self.strategy, self.steps_per_call = recipe, strategy, steps_per_call
        self.l2 = recipe.weight_decay if recipe.optimizer == "rmsprop" else 0.0
        self.decayed = [v for v in model.trainable_variables if optimizers.is_decayed(v)]
        self.traces = 0
        run = self._of_replica
        self._run = _compiled(run, jit_compile=True) if jit_compile else run
        # an iterator of batches of unknown image size: one trace serves all phases but on TPU
        self._steps = _compiled(self._some)

    def __call__(self, iterator, count, asked):
        sums = self._steps(iterator, tf.constant(count), tf.constant(float(asked)))
        return Sums(*sums.numpy())

    def _some(self, iterator, count, asked):
        def step(i, sums):
            return i + 1, sums + self._one(*next(iterator), asked)

        if self.steps_per_call == 1:
            return step(0, 0.0)[1]
        return tf.while_loop(lambda i, _: i < count, step, (0, tf.zeros(5)))[1]

    def _one(self, images, labels, asked):
        self.traces += 1  # runs while tracing only
        before = tf.convert_to_tensor(self.optimizer.iterations.value)
        sums = self.strategy.run(self._run, args=(images, labels, asked))
        if self.average:
            decay = optimizers.ema_decay(self.recipe.ema, before)
            _update_averages(self.average, self.model, decay, self.strategy)
        sums = self.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)
        return _update_scaling(*self.scaling, sums) if self.scaling else sums

    def _of_replica(self, images, labels, asked):
        parts, variables = self.recipe.accumulate, self.model.trainable_variables
        if parts == 1:
            gradients, sums = self._of_part(images, labels)
        else:
            pictures = images, labels
            gradients, sums = _added(self._of_part, variables, pictures, parts, self.replicas == 1)
        # variables that the loss does not reach have none; the optimizer names them
        reached = [i for i, gradient in enumerate(gradients) if gradient is not None]
        adjusted = [gradients[i] for i in reached]
        if self.scaling:
            adjusted = [gradient / self.scaling[0] for gradient in adjusted]
        adjusted = self._clipped(adjusted)
        finite = tf.math.is_finite(tf.linalg.global_norm(adjusted))
        for i, gradient in zip(reached, adjusted, strict=True):
            gradients[i] = gradient
        self._apply(gradients, finite)
        return tf.concat([sums, [1.0 - tf.cast(finite, tf.float32), asked]], 0)

    def _of_part(self, images, labels):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = tf.cast(self.forward(images), tf.float32)
            losses = cross_entropy(labels, logits, self.recipe, self.class_weights)
            # over the global batch: gradients of the replicas add up to the whole's
            share = self.replicas * self.recipe.accumulate
            loss = tf.reduce_mean(losses) / share
            extra = tf.add_n(self.model.losses) if self.model.losses else 0.0
            if self.l2:
                extra += self.l2 * tf.add_n([tf.nn.l2_loss(v.value) for v in self.decayed])
            total = loss + extra / share
            if self.scaling:
                total *= self.scaling[0]
        gradients = tape.gradient(total, [v.value for v in variables])
        hits = tf.reduce_sum(tf.cast(_hits(labels, logits), tf.float32))
        sums = tf.stack([tf.reduce_sum(losses), hits, tf.cast(tf.size(losses), tf.float32)])
        return [None if g is None else tf.convert_to_tensor(g) for g in gradients], sums

    def _clipped(self, gradients):
        """Clips the global gradient; Keras would clip each replica's share.

        The optimizer adds the gradients of all replicas up. Where clipping needs the sum first, it
        is made here and every replica hands on its N-th part.
        """
        if not self.recipe.clip:
            return gradients
        if self.replicas > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, self.recipe.clip)
        return [gradient / self.replicas for gradient in gradients]

    def _apply(self, gradients, finite):
        """Updates the weights; not by gradients that left float16's range on any replica."""
        variables = self.model.trainable_variables
        if not self.scaling:
            self.optimizer.apply(gradients, variables)
            return

        def update(strategy, gradients, overflown):
            def skip():
                self.optimizer.iterations.assign_add(1)

            def apply():
                strategy.extended.call_for_each_replica(
                    self.optimizer.apply, args=(gradients, variables)
                )

            overflown = strategy.reduce(tf.distribute.ReduceOp.SUM, overflown, axis=None)
            tf.cond(overflown > 0, skip, apply)

        # the condition is where the replicas meet: they cannot meet within one of their own
        overflown = 1.0 - tf.cast(finite, tf.float32)
        tf.distribute.get_replica_context().merge_call(update, args=(gradients, overflown))


class EvalStep:
    """Loss and top-1 of batches in which some pictures are filling.

    Args:
        logits: The model without its last activation.
        recipe: A `Recipe`: its loss and its label smoothing.
        strategy: A `tf.distribute.Strategy`.
        class_weights: As `cross_entropy`'s.

    Call arguments:
        batches: Distributed data set of `(images, labels, mask)`.
    """

    def __init__(self, logits, recipe, strategy, class_weights=None):
        self.logits, self.recipe, self.strategy = logits, recipe, strategy
        self.class_weights = class_weights
        self._step = _compiled(self._one)

    def __call__(self, batches):
        loss, hits, pictures = sum((self._step(*batch).numpy() for batch in batches), np.zeros(3))
        return float(loss / pictures), float(hits / pictures)

    def _one(self, *batch):
        sums = self.strategy.run(self._of_replica, args=batch)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _of_replica(self, images, labels, mask):
        logits = tf.cast(self.logits(images, training=False), tf.float32)
        losses = cross_entropy(labels, logits, self.recipe, self.class_weights) * mask
        hits = tf.cast(_hits(labels, logits), tf.float32) * mask
        return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(hits), tf.reduce_sum(mask)])
