"""What small networks of every family say, on the backend of this process.

python tests/backend_outputs.py jax FILE.npy: in a process that has no TensorFlow.
"""

import builtins
import contextlib
import dataclasses
import os
import sys

import numpy as np


def forbid_tensorflow():
    real = builtins.__import__

    def guarded(name, *args, **options):
        if name.split(".")[0] == "tensorflow":
            raise ImportError("tensorflow is not installed")
        return real(name, *args, **options)

    builtins.__import__ = guarded


def rows():
    """A row of every family, with its builder; all stages have two narrow blocks."""
    from keras_effv2.models import coatnet, coatnet_rw, efficientnet_v2

    for family, name, channels, changes in (
        (efficientnet_v2, "EfficientNetV2B0", 8, {"stem": 8, "top": 16, "pixels": "128"}),
        (coatnet, "CoAtNet0", 8, {"stem": 8, "head_size": 4, "hidden": 16}),
        (coatnet_rw, "CoAtNet1RWMax", 32, {"stem": 8, "weights": None}),
    ):
        row = family.VARIANTS[name]
        stages = tuple(dataclasses.replace(s, repeats=2, channels=channels) for s in row.stages)
        yield family.build, dataclasses.replace(row, stages=stages, **changes)


def outputs():
    """Logits of every family, with weights drawn by NumPy."""
    import keras

    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    found = []
    for build, row in rows():
        with _hastily(keras.backend.backend()):
            model = build(row, weights=None, classes=10, classifier_activation=None)
        random = np.random.default_rng(1)
        for weight in model.weights:
            value = random.normal(0, 0.1, weight.shape)
            positive = weight.name in ("gamma", "moving_variance")
            weight.assign(np.abs(value) + 0.9 if positive else value)
        found.append(model.predict(images, verbose=0))
    return np.stack(found)


@contextlib.contextmanager
def _hastily(backend):
    """JAX compiles every drawing of a first weight: for numbers that are thrown away, carelessly."""
    if backend == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
    yield
    if backend == "jax":
        jax.config.update("jax_disable_most_optimizations", False)


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = sys.argv[1]
    forbid_tensorflow()
    np.save(sys.argv[2], outputs())
