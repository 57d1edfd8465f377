"""Random dropping at a rate that a compiled train step obeys."""

import contextlib
import numbers

import keras
from keras import ops

from keras_effv2.layers.backend import PACKAGE, Passes, on_tensorflow, replicas


class ReplicaSeed(keras.random.SeedGenerator):
    """A seed generator that gives every `tf.distribute` replica its own masks.

    Keras mirrors the seed state, so plain seed generators draw the same dropout mask on all
    replicas. Here the replica's index is folded into each seed; the state itself stays mirrored.
    """

    def next(self, ordered=True):
        passes = Passes.current()
        if passes is not None and passes.repeated:
            return passes.seeds.pop(0)
        seed = self._next_of_replica(ordered)
        if passes is not None:
            passes.seeds.append(seed)
        return seed

    def _next_of_replica(self, ordered):
        seed = super().next(ordered=ordered)
        if replicas() == 1:
            return seed
        import tensorflow as tf

        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        golden = tf.cast(replica, seed.dtype) * tf.constant(0x9E3779B1, seed.dtype)
        return tf.stack([seed[0] + golden, seed[1]])


class _RandomDrop(keras.layers.Layer):
    """What `Dropout` and `DropPath` share: a rate that a compiled train step obeys.

    Keras bakes a layer's rate into the compiled step, where a later assignment is silently ignored.
    After `vary_rate()` the rate lives in a scalar `tf.Variable` that the step reads. The variable is
    no weight: `count_params`, `get_weights`, `.weights.h5` and `.keras` do not know it.
    """

    strength: str | None = None  # the `Phase` field this layer takes

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.built_rate = self._checked(rate)  # what phases that say nothing have
        self._hidden = _HiddenRate(self.built_rate)
        self.seed = seed
        self.seed_generator = ReplicaSeed(seed)
        self.supports_masking = True

    @property
    def rate(self):
        """The current strength, a float."""
        return self._hidden.value

    @rate.setter
    def rate(self, value):
        self._hidden.set(self._checked(value))

    def _checked(self, rate):
        if not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
            raise ValueError(
                f"`rate` of layer {self.name!r} is a probability in [0, 1). Received: rate={rate!r}."
            )
        return float(rate)

    def vary_rate(self):
        """Keeps the rate in a variable from now on. Call before tracing, in the strategy's scope."""
        self._hidden.make_variable()

    @contextlib.contextmanager
    def fixed_rate(self):
        """Within the block the rate is a constant, for what is traced there."""
        variable, self._hidden.variable = self._hidden.variable, None
        try:
            yield
        finally:
            self._hidden.variable = variable

    def fix_rate(self):
        """Makes the rate a constant again; later traces bake it in."""
        self._hidden.variable = None

    def _probability(self):
        """Probability of dropping: a float, or a scalar tensor while the rate varies."""
        return self._hidden.read()

    def _noise_shape(self, inputs):
        return ops.shape(inputs)

    def call(self, inputs, training=False):
        rate = self._probability()
        if not training or (isinstance(rate, float) and rate == 0.0):
            return inputs
        noise = keras.random.uniform(
            self._noise_shape(inputs), dtype="float32", seed=self.seed_generator
        )
        keep = ops.cast(noise >= rate, inputs.dtype)
        return inputs * keep * ops.cast(1.0 / (1.0 - rate), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class _HiddenRate:
    """A number, or the variable that holds it; a plain object, so that Keras does not track it."""

    def __init__(self, value):
        self.value = value
        self.variable = None

    def make_variable(self):
        if self.variable is None and on_tensorflow():
            import tensorflow as tf

            with tf.init_scope():
                self.variable = tf.Variable(
                    self.value,
                    trainable=False,
                    dtype="float32",
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )

    def set(self, value):
        self.value = value
        if self.variable is not None:
            self.variable.assign(value)

    def read(self):
        if self.variable is None:
            return self.value
        import tensorflow as tf

        return tf.convert_to_tensor(self.variable)


@keras.saving.register_keras_serializable(PACKAGE)
class Dropout(_RandomDrop):
    """Zeroes single elements at random during training and scales the rest by `1 / (1 - rate)`.

    Unlike `keras.layers.Dropout` it may be built with rate 0 and turned up later, draws different
    masks on different replicas, and obeys a changed rate inside a compiled step.

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.

    Args:
        rate: Probability of dropping an element, a float in `[0, 1)`.
        seed: Optional integer seed.

    Call arguments:
        inputs: Tensor of any shape.
        training: Whether to drop. Set by Keras.

    Raises:
        ValueError: If `rate` is outside `[0, 1)`.

    Example:

    >>> float(keras.ops.sum(Dropout(0.0)(keras.ops.ones((2, 4)), training=True)))
    8.0
    """

    strength = "dropout"


@keras.saving.register_keras_serializable(PACKAGE)
class DropPath(_RandomDrop):
    """Drops a residual branch for whole samples, at random, during training.

    With probability `rate * depth` the branch of a sample becomes zero; kept branches are scaled so
    that the expectation is unchanged. At inference the layer does nothing. Known elsewhere as
    stochastic depth or "drop connect".

    Source: Huang et al. 2016, https://arxiv.org/abs/1603.09382.

    Args:
        rate: The network's strength, a float in `[0, 1)`, the same in all its blocks.
        depth: Position of the block, index / number of blocks, a float in `[0, 1]`: early blocks
            drop less.
        seed: Optional integer seed.

    Call arguments:
        inputs: Tensor `(batch, ...)`.
        training: Whether to drop. Set by Keras.

    Output shape:
        As the input.

    Raises:
        ValueError: If `rate` or `depth` is out of range.

    Example:

    >>> DropPath(0.2, depth=0.5)(keras.ops.ones((2, 4))).shape
    TensorShape([2, 4])
    """

    strength = "drop_path"

    def __init__(self, rate, depth=1.0, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)
        if not 0 <= depth <= 1:
            raise ValueError(f"`depth` of layer {self.name!r} is in [0, 1]. Received: {depth!r}.")
        self.depth = float(depth)

    def _probability(self):
        return super()._probability() * self.depth

    def _noise_shape(self, inputs):
        return (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}
