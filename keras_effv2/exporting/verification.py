"""What is written is compared with the live model before it is moved to its place."""

import contextlib
import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
import tensorflow as tf


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


def compare(net, run, images, path, format, target):
    live = tf.function(lambda x: net(x, training=False), reduce_retracing=True)
    theirs, ours = [], []
    for image in images:
        theirs.append(np.ravel(run(image[None])))
        ours.append(np.ravel(live(tf.constant(image[None]))))
    drift = np.stack(theirs) - np.stack(ours)
    agreement = np.mean(np.argmax(theirs, 1) == np.argmax(ours, 1))
    seconds = [[], []]
    for _ in range(9):  # in turn: machines are noisy
        for side, function in enumerate((run, lambda x: live(tf.constant(x)).numpy())):
            start = time.perf_counter()
            function(images[:1])
            seconds[side].append(time.perf_counter() - start)
    size = sum(f.stat().st_size for f in ([target] if target.is_file() else target.rglob("*")))
    report = Report(
        str(path),
        format,
        size / 1e6,
        float(np.abs(drift).max()),
        float(np.sqrt(np.mean(drift**2))),
        float(agreement),
        len(images),
        1000 * statistics.median(seconds[0]),
        1000 * statistics.median(seconds[1]),
    )
    return report, float(np.sqrt(np.mean(np.square(ours))))


_CHECK = """
import sys, numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
case = np.load(sys.argv[2])
outputs = loaded(tf.constant(case["images"]), training=False).numpy()
served = loaded.signatures["serving_default"](tf.constant(case["images"]))["outputs"].numpy()
scale = max(1.0, float(np.abs(case["outputs"]).max()))
drift = max(np.abs(outputs - case["outputs"]).max(), np.abs(served - case["outputs"]).max())
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(loaded(tf.constant(case["images"]), training=True) ** 2)
gradients = tape.gradient(loss, loaded.trainable_variables)
missing = sum(g is None for g in gradients)
if not drift <= 1e-5 * scale or missing:
    sys.exit(f"outputs differ by {drift}, {missing} variables get no gradient")
"""


def verify(folder, root, channels):
    """Loads the export in a process without this package and compares outputs and gradients."""
    images = np.random.default_rng(0).uniform(0, 1, (2, 64, 96, channels)).astype("float32")
    with tempfile.TemporaryDirectory() as work:
        case = os.path.join(work, "case.npz")
        with tf.device("CPU:0"):  # this process may hold all the memory of an accelerator
            outputs = root.__call__(tf.constant(images), training=False).numpy()
        np.savez(case, images=images, outputs=outputs)
        done = subprocess.run(
            [sys.executable, "-c", _CHECK, str(folder.resolve()), case],
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


@contextlib.contextmanager
def in_place(path):
    """A temporary folder that becomes `path` if the block ends well, and vanishes if not."""
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists. Remove it, or choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
        folder = pathlib.Path(work) / "export"
        yield folder
        if path.name.endswith((".tar.gz", ".tgz")):
            archive = pathlib.Path(work) / "archive"
            with tarfile.open(archive, "w:gz") as tar:
                for child in sorted(folder.iterdir()):  # at the root, as TF Hub wants it
                    tar.add(child, arcname=child.name)
            os.replace(archive, path)
        elif folder.is_dir() or folder.is_file():
            os.replace(folder, path)
        else:
            raise RuntimeError(f"Nothing was written for {path}.")
