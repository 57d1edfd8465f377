"""Optimizers, learning-rate schedules and the moving average that the recipes name."""

import contextlib
import math

import keras
from keras import ops

from keras_effv2.layers import PACKAGE

SHAPES = ("cosine", "linear", "staircase", "constant")


@keras.saving.register_keras_serializable(PACKAGE)
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate as a function of the step: linear warm-up, then one of four shapes.

    Written out, so that runs keep their bits: of Keras' schedules PolynomialDecay differs in the last
    bit in 37 % of the steps (by up to 4e-7), and CosineDecay alone has a warm-up.

    Args:
        peak: Learning rate at the end of the warm-up.
        shape: `"cosine"`, `"linear"`, `"staircase"` or `"constant"`.
        warmup_steps: Steps of the warm-up from 0.
        total_steps: Steps of the training.
        minimum: Where cosine and linear end.
        decay_rate: Factor of each stair; stairs count from step 0, as google/automl's.
        decay_steps: Length of a stair in steps.
    """

    def __init__(
        self, peak, shape, warmup_steps, total_steps, minimum=0.0, decay_rate=0.97, decay_steps=1
    ):
        super().__init__()
        if shape not in SHAPES:
            raise ValueError(
                f"`shape` of a schedule is one of {', '.join(SHAPES)}. Received: {shape!r}."
            )
        self.settings = {
            "peak": peak,
            "shape": shape,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
            "minimum": minimum,
            "decay_rate": decay_rate,
            "decay_steps": decay_steps,
        }

    def __call__(self, step):
        s = self.settings
        step = ops.cast(step, "float32")
        warmup, peak, low = float(s["warmup_steps"]), s["peak"], s["minimum"]
        part = ops.clip((step - warmup) / max(1.0, s["total_steps"] - warmup), 0.0, 1.0)
        after = {
            "cosine": lambda: low + (peak - low) * 0.5 * (1 + ops.cos(math.pi * part)),
            "linear": lambda: peak + (low - peak) * part,
            "staircase": lambda: peak * s["decay_rate"] ** ops.floor(step / s["decay_steps"]),
            "constant": lambda: peak * ops.ones_like(step),
        }[s["shape"]]()
        return ops.where(step < warmup, peak * step / max(1.0, warmup), after)

    def get_config(self):
        return dict(self.settings)


class _Fused:
    """What the optimizers share: slots made outside of the trace, one kernel for each variable.

    Keras makes an optimizer's slots while it traces the first step, which is then traced a second
    time, and its updates are up to fifteen operations a variable; both cost seconds for networks of
    hundreds of variables (B0's first step takes 4.7 s, with Keras' 8.6: docs/measured.md). On other
    backends, and for sparse gradients, Keras' own update is made.
    """

    def build(self, variables):
        if self.built:  # Keras asks twice; the state stays
            return
        with _outside_of_the_trace():
            super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        if not self._is_plain() or not _has_kernel(gradient, variable):
            return super().update_step(gradient, variable, learning_rate)
        self._apply_kernel(gradient, variable, learning_rate)

    def _is_plain(self):
        """Whether the settings are those that the kernel knows."""
        raise NotImplementedError

    def _apply_kernel(self, gradient, variable, learning_rate):
        raise NotImplementedError


def _outside_of_the_trace():
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    # within a strategy Keras' way stays: slots have to be made where the replicas meet
    return contextlib.nullcontext() if tf.distribute.has_strategy() else tf.init_scope()


def _has_kernel(gradient, variable):
    return (
        keras.backend.backend() == "tensorflow"
        and hasattr(variable, "handle")
        and not hasattr(gradient, "indices")
        and variable.dtype == gradient.dtype == "float32"
    )


def slot(optimizer, variable, kind):
    """What an optimizer keeps of a variable, its `"momentums"` or `"velocities"`.

    Keras has no public way from a variable to its slots: `optimizer.variables` is one flat list.
    """
    slots = getattr(optimizer, kind if hasattr(optimizer, kind) else f"_{kind}")
    return slots[optimizer._get_variable_index(variable)]


def _handle(optimizer, variable, kind):
    return slot(optimizer, variable, kind).value.handle


@keras.saving.register_keras_serializable(PACKAGE)
class RMSprop(_Fused, keras.optimizers.RMSprop):
    """RMSProp as TensorFlow 1 had it: the mean square starts at 1, not at 0.

    Source: tensorflow/python/training/rmsprop.py; the papers were trained with it.
    """

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        with _outside_of_the_trace():
            for variable in variables:
                velocity = slot(self, variable, "velocities")
                velocity.assign(ops.ones_like(velocity))

    def _is_plain(self):
        return self.momentum > 0 and not self.centered

    def _apply_kernel(self, gradient, variable, learning_rate):
        import tensorflow as tf

        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=_handle(self, variable, "velocities"),
            mom=_handle(self, variable, "momentums"),
            lr=tf.cast(learning_rate, "float32"),
            rho=self.rho,
            momentum=self.momentum,
            epsilon=self.epsilon,
            grad=gradient,
        )


@keras.saving.register_keras_serializable(PACKAGE)
class AdamW(_Fused, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, the same values in less time on TensorFlow."""

    def _is_plain(self):
        return not self.amsgrad

    def _apply_kernel(self, gradient, variable, learning_rate):
        import tensorflow as tf

        step = tf.cast(self.iterations.value + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=_handle(self, variable, "momentums"),
            v=_handle(self, variable, "velocities"),
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, "float32"),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


@keras.saving.register_keras_serializable(PACKAGE)
class SGD(_Fused, keras.optimizers.SGD):
    """`keras.optimizers.SGD`, the same values in less time on TensorFlow."""

    def _is_plain(self):
        return self.momentum > 0

    def _apply_kernel(self, gradient, variable, learning_rate):
        import tensorflow as tf

        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=_handle(self, variable, "momentums"),
            lr=tf.cast(learning_rate, "float32"),
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )


@keras.saving.register_keras_serializable(PACKAGE)
class Stretched(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for a batch size that changes: by epochs, and proportional to the batch.

    Goyal et al. 2017, arXiv 1706.02677: a batch twice as large takes twice the rate.

    Args:
        schedule: A `LearningRateSchedule` of the steps that the usual batch size would make.
        periods: Rows `(first step, its step in the schedule, schedule's steps a step, factor)`.
    """

    def __init__(self, schedule, periods):
        super().__init__()
        self.schedule, self.periods = schedule, periods

    def __call__(self, step):
        step = ops.cast(step, "float32")
        usual, factor = step, 1.0
        for first, start, ratio, own in self.periods:
            usual = ops.where(step < first, usual, start + (step - first) * ratio)
            factor = ops.where(step < first, factor, own)
        return self.schedule(usual) * factor

    def get_config(self):
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "periods": self.periods,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["periods"])


def make_schedule(recipe, steps_of):
    """The learning rate of a recipe as a function of the step.

    Args:
        recipe: A `Recipe` whose phases say their batch sizes (`recipes.resolved`).
        steps_of: Function from a batch size to the steps of an epoch.
    """
    usual = steps_of(recipe.batch_size)
    schedule = Schedule(
        recipe.learning_rate,
        recipe.schedule,
        round(recipe.warmup_epochs * usual),
        recipe.epochs * usual,
        recipe.min_learning_rate,
        recipe.decay_rate,
        max(1, round(recipe.decay_epochs * usual)),
    )
    if all(phase.batch_size == recipe.batch_size for phase in recipe.phases):
        return schedule
    periods, first = [], 0
    for phase in recipe.phases:
        own, factor = steps_of(phase.batch_size), phase.batch_size / recipe.batch_size
        periods.append((first, phase.start_epoch * usual, usual / own, factor))
        first += (phase.stop_epoch - phase.start_epoch) * own
    return Stretched(schedule, periods)


def make_optimizer(recipe, steps_of):
    """The optimizer of a recipe. Clipping is the trainer's: it has to see the global gradient."""
    rate = make_schedule(recipe, steps_of)
    decay = recipe.weight_decay or None
    if recipe.optimizer == "rmsprop":
        return RMSprop(rate, rho=0.9, momentum=0.9, epsilon=1e-3)
    if recipe.optimizer == "sgd":
        return SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    return AdamW(rate, weight_decay=recipe.weight_decay)


def is_decayed(variable):
    """Whether weight decay applies: kernels and matrices, no norms, biases or bias tables."""
    return len(variable.shape) > 1 and not variable.path.endswith("bias")


def ema_decay(decay, step):
    """Decay of the moving average at a step: `min(decay, (1 + step) / (10 + step))`."""
    step = ops.cast(step, "float32")
    return ops.minimum(decay, (1.0 + step) / (10.0 + step))
