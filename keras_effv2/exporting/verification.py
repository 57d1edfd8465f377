"""What is written is compared with the model that was given before it is moved to its place."""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from keras_effv2 import graph, layers


@dataclasses.dataclass(frozen=True)
class Report:
    """How an export compares with the live model, on given or random images.

    Attributes:
        path: What was written.
        format: Its format.
        megabytes: Its size.
        max_drift: Largest difference of an output.
        rms_drift: Root mean square of the differences.
        top1_agreement: Part of the images with the same best class.
        images: Number of images compared.
        milliseconds: Median latency of one image in the export.
        milliseconds_live: The same of the live model in a `tf.function`.
    """

    path: str
    format: str
    megabytes: float
    max_drift: float
    rms_drift: float
    top1_agreement: float
    images: int
    milliseconds: float
    milliseconds_live: float

    def __str__(self):
        return (
            f"{self.path}: {self.format}, {self.megabytes:.1f} MB; against the live model on "
            f"{self.images} images: largest difference {self.max_drift:.2g}, RMS "
            f"{self.rms_drift:.2g}, same top 1 {self.top1_agreement:.1%}; one image "
            f"{self.milliseconds:.1f} ms, live {self.milliseconds_live:.1f} ms"
        )


def is_exact(model):
    """Whether a model computes in float32 throughout, so that an export can be held to it."""
    return all(
        layer.compute_dtype == "float32" and not graph.is_quantised(layer)
        for layer in layers.walk(model)
    )


def compare(model, run, images, path, format, target):
    """Compares a function that runs an export with the model, image by image.

    Returns:
        A `Report`, and the root mean square of the model's outputs.
    """
    live = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    theirs, ours = [], []
    for image in images:
        theirs.append(np.ravel(run(image[None])))
        ours.append(np.ravel(live(tf.constant(image[None]))))
    drift = np.stack(theirs) - np.stack(ours)
    agreement = np.mean(_best(theirs) == _best(ours))
    seconds = [[], []]
    for _ in range(9):  # in turn: machines are noisy
        for side, function in enumerate((run, lambda x: live(tf.constant(x)).numpy())):
            start = time.perf_counter()
            function(images[:1])
            seconds[side].append(time.perf_counter() - start)
    size = sum(f.stat().st_size for f in ([target] if target.is_file() else target.rglob("*")))
    report = Report(
        path=str(path),
        format=format,
        megabytes=size / 1e6,
        max_drift=float(np.abs(drift).max()),
        rms_drift=float(np.sqrt(np.mean(drift**2))),
        top1_agreement=float(agreement),
        images=len(images),
        milliseconds=1000 * statistics.median(seconds[0]),
        milliseconds_live=1000 * statistics.median(seconds[1]),
    )
    return report, float(np.sqrt(np.mean(np.square(ours))))


def _best(outputs):
    """The best class of each image; of one output, which side of even it is on."""
    outputs = np.stack(outputs)
    return outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(1)


# What a process without this package finds in a reusable SavedModel.
_FIND = """
import sys, numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = tf.constant(np.load(sys.argv[2]))
called = loaded(images, training=False).numpy()
served = loaded.signatures["serving_default"](images)["outputs"].numpy()
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(loaded(images, training=True) ** 2)
gradients = tape.gradient(loss, loaded.trainable_variables)
missing = sum(g is None for g in gradients)
np.savez(sys.argv[3], called=called, served=served, missing=missing)
"""


def verify(folder, model, net, features=None):
    """Loads a hub export in a process without this package and compares it with the model.

    What the model gives is computed by the model itself, layer by layer. What the export gives is
    brought there: logits by the model's last activation, features by the rest of the network.

    Args:
        folder: The written SavedModel.
        model: The model that the user gave.
        net: What was exported, a clone of it or itself.
        features: `net` up to its features, if those were exported.

    Raises:
        RuntimeError: If the outputs differ, or a variable gets no gradient.
    """
    height, width, channels = model.inputs[0].shape[1:]
    shape = (2, height or 64, width or 96, channels)
    images = np.random.default_rng(0).uniform(0, 1, shape).astype("float32")
    found = _in_fresh_process(folder, images)
    exact = is_exact(model)
    with tf.device("CPU:0"):  # this process may hold all the memory of an accelerator
        wanted = _outputs(model, images)
        after = _after_features(net, features) if features else _after_logits(model)
        drift = max(_drift(after(found[key]), wanted, exact) for key in ("called", "served"))
    limit = 1e-4 if exact else 0.05
    if not drift <= limit or found["missing"]:  # not a number either
        raise RuntimeError(
            f"The export failed its check in a fresh process: its outputs differ by {drift:.2g} from "
            f"the model's, {found['missing']} variables get no gradient. It was not written."
        )


def _in_fresh_process(folder, images):
    """The arrays that `_FIND` finds."""
    folder = folder.resolve()
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:  # where room is needed anyway
        given, found = (os.path.join(work, name) for name in ("images.npy", "found.npz"))
        np.save(given, images)
        done = subprocess.run(
            [sys.executable, "-c", _FIND, str(folder), given, found],
            capture_output=True,
            text=True,
            cwd=work,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PYTHONPATH": "",
                "CUDA_VISIBLE_DEVICES": "-1",
            },
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"The export failed its check in a fresh process: {last}.")
        return dict(np.load(found))


def _outputs(model, images):
    """What the model itself gives for images in [0, 1]."""
    pixels = layers.find_pixels(model)
    images = images if layers.takes_hub_images(model) else images * np.float32(255)
    if pixels is not None and not pixels.enabled:
        images = layers.normalize(images, pixels.pixels)
    return np.asarray(model(tf.constant(images), training=False), "float64")


def _after_logits(model):
    """What makes the model's outputs of its logits."""
    activation = {
        "softmax": tf.nn.softmax,
        "sigmoid": tf.sigmoid,
        None: tf.identity,
    }[graph.activation_of(model)]
    return lambda logits: activation(tf.constant(logits, tf.float64)).numpy()


def _after_features(net, features):
    """What makes the model's outputs of its features."""
    if features is net:
        return np.asarray
    rest = keras.Model(features.outputs[0], net.outputs[0])
    return lambda found: np.asarray(rest(tf.constant(found), training=False))


def _drift(found, wanted, exact):
    """The largest difference, in parts of the largest number or of 1.

    Probabilities hide what was done to logits, so likely and unlikely classes are compared by parts
    of themselves, too.
    """
    found = np.asarray(found, "float64")
    drift = np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max())
    if exact and (wanted >= 0).all() and (wanted <= 1).all():
        likely = wanted > 1e-4
        parts = np.abs(found[likely] / wanted[likely] - 1)
        drift = max(drift, 0.01 * parts.max(initial=0.0))
    return drift
