"""Which devices train, and how a model gets there."""

import contextlib
import json
import os

import keras
import tensorflow as tf

from keras_effv2 import errors, graph, layers

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def make_strategy(name, tpu="local"):
    """Makes a `tf.distribute.Strategy` from its name; a strategy is returned as it is.

    Args:
        name: One of `STRATEGIES`; `"multiworker"` has to be made before anything else uses
            TensorFlow.
        tpu: Name of the TPU for the resolver.

    Raises:
        ValueError: If the name is unknown.
        RuntimeError: If the workers or the TPU cannot be reached.

    Example:

    >>> make_strategy("one").num_replicas_in_sync
    1
    """
    if isinstance(name, tf.distribute.Strategy):
        return name
    if name not in STRATEGIES:
        raise ValueError(f"`strategy` is one of {', '.join(STRATEGIES)}. Received: {name!r}.")
    if name == "multiworker":
        return _multiworker()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        return tf.distribute.MirroredStrategy(devices)
    return _tpu(tpu)


def _multiworker():
    try:
        if not isinstance(json.loads(os.environ.get("TF_CONFIG") or "{}"), dict):
            raise TypeError("no dictionary")
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cluster, task = resolver.cluster_spec().as_dict(), (resolver.task_type, resolver.task_id)
        known = not cluster or (task[1] or 0) < len(cluster[task[0]])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{_TF_CONFIG} It cannot be read: {error!r}.") from None
    if not known:
        raise ValueError(f"{_TF_CONFIG} Its task {task} is none of its cluster {cluster}.")
    try:  # before anything else asks TensorFlow for its devices
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise RuntimeError(
            f"The workers cannot be joined: {error}. Make the strategy before anything else "
            "uses TensorFlow: strategy = make_strategy('multiworker')."
        ) from error


_TF_CONFIG = (
    "The environment variable TF_CONFIG says in JSON who the workers are and which of them this is: "
    '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}.'
)


def _tpu(name):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"The TPU {name!r} cannot be used: {errors.first_line(error)}. TPUs need the "
            "package tensorflow-tpu (up to 2.20) on a TPU machine."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy):
    """Whether this process writes the files; the only one, or the first of the workers."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or not resolver.task_type:
        return True
    chief = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == chief and resolver.task_id == 0


def is_late(strategy):
    """Whether the strategy has to be there before the model."""
    return is_tpu(strategy) or has_workers(strategy)


def has_workers(strategy):
    """Whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_tpu(strategy):
    """Whether every shape is compiled for itself."""
    return isinstance(strategy, tf.distribute.TPUStrategy)


def place(model, recipe, strategy):
    """The model to train, built in the strategy's scope, of dynamic size.

    Args:
        model: A `keras.Model`, or a function without arguments that builds one.
        recipe: A `Recipe`; its precision has to be the model's, or float32.
        strategy: A `tf.distribute.Strategy`.
    """
    late = is_late(strategy)
    built = isinstance(model, keras.Model)
    if built and late:
        raise ValueError(
            "A model that exists before a multi-worker or TPU strategy cannot be used: pass a "
            "function without arguments that builds it."
        )
    with strategy.scope(), policy(recipe.precision):
        own = model if built else model()
        shape = tuple(own.inputs[0].shape)
        if len(shape) != 4:
            raise ValueError(
                f"{own.name} takes inputs of shape {shape}, no pictures (None, height, width, "
                "channels): give a classifier of images."
            )
        has = policies(own)
        if recipe.precision not in {"float32", *has}:
            raise ValueError(
                f"The recipe trains in {recipe.precision}, but model {own.name!r} was built in "
                f"{', '.join(sorted(has))}. Train it as it is, dataclasses.replace(recipe, "
                'precision="float32") (effv2 train --recipe.precision=float32), or build it after '
                f"keras.config.set_dtype_policy({recipe.precision!r})."
            )
        stays = strategy.num_replicas_in_sync == 1 if built else True
        if not graph.is_dynamic(own):
            return _of_any_size(own, stays)
        return own if stays else graph.dynamic_clone(own)


def _of_any_size(model, stays):
    """The model on pictures of any size; as it is, if a layer such as `Flatten` forbids that."""
    clone = graph.of_any_size(model)
    if clone is None and not stays:
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
    return model if clone is None else clone


def policies(model):
    """Names of the dtype policies that a model's layers have."""
    return {layer.dtype_policy.name for layer in layers.walk(model)}


@contextlib.contextmanager
def policy(name):
    """Within the block layers are built in a precision; in float32, as Keras is set."""
    before = keras.config.dtype_policy()
    if name != "float32":
        keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
