"""What the layers ask of the backend: replicas, devices, passes of a recomputation."""

import contextlib
import threading

import keras

PACKAGE = "keras_effv2"
HALVES = ("bfloat16", "float16")


def on_tensorflow():
    """Whether Keras computes with TensorFlow."""
    return keras.backend.backend() == "tensorflow"


def replicas():
    """Number of `tf.distribute` replicas in step with this one; 1 outside a strategy."""
    if not on_tensorflow():
        return 1
    import tensorflow as tf

    if tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_replica_context().num_replicas_in_sync


class Passes:
    """The first run of some layers and its repetition in the backward pass, see `rematerialization`.

    The repetition draws the random numbers of the first run and leaves moving averages alone.
    """

    _active = threading.local()  # replicas are traced in threads of their own

    def __init__(self):
        self.repeated = False
        self.seeds = []  # of the first run, in order
        self._runs = 0

    @classmethod
    def current(cls):
        """The passes within whose block the caller is, or None."""
        return getattr(cls._active, "passes", None)

    @contextlib.contextmanager
    def next(self):
        """Within the block layers know whether they are run for the first time or again."""
        self.repeated = self._runs > 0
        self._runs += 1
        self._active.passes = self
        try:
            yield
        finally:
            self._active.passes = None


_traced_for = threading.local()


@contextlib.contextmanager
def portable():
    """Within the block layers compute with the usual operations, as for any device."""
    before = getattr(_traced_for, "any_device", False)
    _traced_for.any_device = True
    try:
        yield
    finally:
        _traced_for.any_device = before


def on_cpus():
    """Whether TensorFlow computes on CPUs only: the layers' shortcuts are about their kernels."""
    if not on_tensorflow() or getattr(_traced_for, "any_device", False):
        return False
    import tensorflow as tf

    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


def jax_on_cpus():
    """Whether JAX computes, and on CPUs."""
    if keras.backend.backend() != "jax" or getattr(_traced_for, "any_device", False):
        return False
    import jax

    return jax.default_backend() == "cpu"


def require_tensorflow(what):
    """Refuses what is written in TensorFlow while Keras runs on something else."""
    if not on_tensorflow():
        raise RuntimeError(
            f"{what} runs on TensorFlow alone, Keras runs on {keras.backend.backend()} here. Set "
            "KERAS_BACKEND=tensorflow before Python starts."
        )
