"""Batch normalisation that trains with the fused kernel where there is one, over the global batch."""

import keras
from keras import ops

from keras_effv2.layers.backend import HALVES, PACKAGE, Passes, on_cpus, on_tensorflow, replicas


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, trained with TensorFlow's fused kernel where there is one.

    The same values, the same weights and the same names as Keras' layer, which on TensorFlow
    computes moments and normalisation in separate passes. With more than one replica the moments
    are taken over the global batch. Outside training it is Keras' scale and shift: oneDNN's fused
    kernel takes 20 times as long on one picture where there is no AVX-512. In 16 bits on CPUs, for
    which Keras goes to float32 and back, it is the fused kernel there too.

    Args:
        fused: Whether training uses the fused kernel on TensorFlow (channels last, rank 4 only).
        **kwargs: As `keras.layers.BatchNormalization`.
    """

    def __init__(self, fused=True, **kwargs):
        super().__init__(**kwargs)
        self.fused = fused

    def get_config(self):
        return {**super().get_config(), "fused": self.fused}

    def _can_fuse(self, inputs, mask):
        return (
            self.fused
            and on_tensorflow()
            and mask is None
            and self.compute_dtype != "float64"  # which the kernel does not take
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
        )

    def call(self, inputs, training=None, mask=None):
        frozen = bool(training) and not self.trainable
        training = bool(training) and self.trainable
        if training and mask is None and (replicas() > 1 or keras.backend.backend() == "jax"):
            return self._one_pass(inputs)
        half = self.compute_dtype in HALVES and not frozen and on_cpus()
        if (training or half) and self._can_fuse(inputs, mask):
            return self._fused(inputs, training)
        return super().call(inputs, training=training, mask=mask)

    def _fused(self, inputs, training):
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)
        # The kernel takes its parameters in float32 whatever the inputs are.
        gamma, beta, mean, variance = (
            tf.cast(tf.convert_to_tensor(variable.value), tf.float32)
            for variable in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        own = () if training else (mean, variance)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, gamma, beta, *own, epsilon=self.epsilon, is_training=training
        )
        if training:
            # The kernel reports the variance with N - 1 below; Keras keeps the one with N.
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
            self._update_moving(mean, variance * (count - 1.0) / count)
        return outputs

    def _one_pass(self, inputs):
        """Both moments by one pass over a map, over the global batch; Keras' JAX makes three."""
        x = ops.cast(inputs, "float32")
        axes = [axis for axis in range(len(x.shape)) if axis != self.axis % len(x.shape)]
        total, squares = ops.sum(x, axes), ops.sum(ops.square(x), axes)
        count = ops.cast(ops.size(x) // ops.shape(x)[self.axis], "float32")
        if replicas() > 1:
            total, squares, count = _over_replicas(total, squares, count)
        mean = total / count
        variance = ops.maximum(squares / count - ops.square(mean), 0.0)
        self._update_moving(mean, variance)
        gain = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            gain = gain * self.gamma
        shift = -mean * gain
        if self.center:
            shift = shift + self.beta
        around = [1] * len(x.shape)
        around[self.axis] = -1
        x = x * ops.reshape(gain, around) + ops.reshape(shift, around)
        return ops.cast(x, inputs.dtype)

    def _update_moving(self, mean, variance):
        passes = Passes.current()
        if passes is not None and passes.repeated:
            return
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = ops.cast(ops.stop_gradient(batch), moving.dtype)
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))


def _over_replicas(total, squares, count):
    """Their sums over the replicas. The sum has a gradient, so the moments' are global too."""
    import tensorflow as tf

    @tf.custom_gradient
    def sum_of_all(x):
        # Stopped, or TensorFlow looks for variables in all that comes before, in every layer anew.
        context, x = tf.distribute.get_replica_context(), tf.stop_gradient(x)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, x), sum_of_all  # its own gradient

    return tf.unstack(sum_of_all(tf.stack([total, squares, tf.fill(tf.shape(total), count)])))
