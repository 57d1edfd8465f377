"""Paired measurements: ours and a peer, alternating in one run.

Machines are noisy, so single times mean little; the two sides take turns and the ratio of their
medians is the result. Models run on the backend that Keras runs on, TensorFlow, JAX or PyTorch;
TensorFlow is needed only for what is about TensorFlow.
"""

import collections.abc
import dataclasses
import os
import statistics
import tempfile

import keras
import numpy as np

from keras_effv2 import models, optimizers, processor, variants
from keras_effv2.arguments import check_number
from keras_effv2.timing import alternate, spread

MEASURES = ("train", "infer", "pipeline", "export")
LARGEST = 8 << 30  # bytes of a batch


@dataclasses.dataclass(frozen=True)
class Row:
    """One paired measurement: medians of both sides in seconds (or MiB), and their ratio.

    Attributes:
        ratio: Peer / ours: above 1, ours is faster (smaller).
        spread: Interquartile range of ours over its median.
        peer_spread: The same of the peer's.
    """

    measure: str
    model: str
    setting: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    spread: float
    peer_spread: float
    rounds: int


# ------------------------------------------------------------------------------------ the sides


def sides(model, optimizer, image_size, batch_size):
    """Train step and inference of a Keras model as functions without arguments."""
    model.compile(optimizer, "sparse_categorical_crossentropy")
    images, labels = _batch(image_size, batch_size)
    return {
        "train": lambda: model.train_on_batch(images, labels),
        "infer": lambda: model.predict_on_batch(images),
    }


def our_sides(name, image_size, batch_size):
    """`sides` of a model of ours."""
    model = models.builder(name)(weights=None, input_shape=(image_size, image_size, 3))
    return sides(model, optimizers.SGD(0.01, momentum=0.9), image_size, batch_size)


def _keras_sides(name, image_size, batch_size):
    model = _of_keras(name)(weights=None, input_shape=(image_size, image_size, 3))
    return sides(model, keras.optimizers.SGD(0.01, momentum=0.9), image_size, batch_size)


def _of_keras(name):
    builder = getattr(keras.applications, name, None)
    if builder is None:
        raise ValueError(
            f"keras.applications has no {name}. Choose EfficientNetV2B0..B3, S, M or L, or "
            "the peer timm or kecam."
        )
    return builder


@dataclasses.dataclass(frozen=True)
class Peer:
    """What ours is measured beside.

    Attributes:
        name: What it is called in the rows.
        sides: A function as `our_sides`.
    """

    name: str
    sides: collections.abc.Callable


KERAS = Peer("keras", _keras_sides)


def _batch(image_size, batch_size):
    needed = batch_size * image_size**2 * 3 * 4
    if needed > LARGEST:
        raise ValueError(
            f"A batch of {batch_size} images of {image_size} pixels takes {needed / 2**30:.0f} GiB; "
            f"up to {LARGEST >> 30} GiB are measured. Take a smaller batch or image size."
        )
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch_size, image_size, image_size, 3)).astype("float32")
    return images, rng.integers(0, 1000, batch_size)


# ----------------------------------------------------------------------------------------- rows


def setting(image_size, batch_size):
    """How a row says at what it was measured."""
    return f"{image_size} px, batch {batch_size}, {keras.config.dtype_policy().name}"


def row(measure, model, setting, times, peer, unit="s"):
    """A `Row` of the times, or other numbers, of both sides."""
    middles = [statistics.median(side) for side in times]
    spreads = [spread(side) for side in times]
    ratio = middles[1] / middles[0]
    rounds = len(times[0])
    return Row(measure, model, setting, unit, *middles, peer, ratio, *spreads, rounds)


def run(
    model="EfficientNetV2B0",
    measures=("train", "infer"),
    peer=KERAS,
    image_size=224,
    batch_size=32,
    rounds=7,
):
    """Measures a model of ours beside a peer's.

    Args:
        model: A name that `list_models()` lists.
        measures: Names out of `MEASURES`; `pipeline` and `export` need TensorFlow.
        peer: A `Peer`; `KERAS` is keras.applications, and `keras.layers.RandAugment` for the
            pipeline. Others are measured in `train` and `infer` only.
        image_size: Side of the images in pixels.
        batch_size: Images a step.
        rounds: Timings of each side, at least 1.

    Returns:
        A list of `Row`.

    Raises:
        ValueError: If a measure is unknown, the peer lacks the model, or a number is out of range.
    """
    unknown = [measure for measure in measures if measure not in MEASURES]
    if unknown:
        raise ValueError(f"Unknown measure {unknown[0]!r}. Measures: {', '.join(MEASURES)}.")
    variants.find(model)
    for name, value in (("image_size", image_size), ("batch_size", batch_size), ("rounds", rounds)):
        check_number(f"`{name}`", value, 1, whole=True)
    if peer is not KERAS and set(measures) - {"train", "infer"}:
        raise ValueError(
            f"The peer {peer.name} is measured in train and infer. Received: "
            f"{', '.join(measures)}. Leave the others out, or take the peer keras."
        )
    rows = []
    for measure in measures:
        if measure in ("train", "infer"):
            for batch in (batch_size,) if measure == "train" else sorted({1, batch_size}):
                both = [make(model, image_size, batch) for make in (our_sides, peer.sides)]
                times = alternate(*[side[measure] for side in both], rounds=rounds)
                rows.append(row(measure, model, setting(image_size, batch), times, peer.name))
        elif measure == "pipeline":
            rows += _pipeline(image_size, batch_size, rounds)
        else:
            rows += _export(model, image_size, batch_size, rounds)
    return rows


# ------------------------------------------------------------------------------ TensorFlow's part


def _pipeline(image_size, batch_size, rounds):
    """Augmentation of the same images in `tf.data`, seconds a batch, setting by setting."""
    import tensorflow as tf

    images = np.random.default_rng(0).integers(
        0, 256, (batch_size, image_size, image_size, 3), np.uint8
    )
    batches = 4
    source = tf.data.Dataset.from_tensors(images).unbatch().repeat(batches).enumerate()
    rows = []
    for name, (ours, peer) in _augmentations(batch_size).items():
        both = [side(source) for side in (ours, peer)]
        times = alternate(*[lambda s=s: [0 for _ in s] for s in both], rounds=rounds, warmup=1)
        times = [[seconds / batches for seconds in side] for side in times]
        rows.append(row("pipeline", name, f"{image_size} px, batch {batch_size}", times, "keras"))
    return rows


def _augmentations(batch_size):
    """Setting -> our pipeline and Keras' layer, as functions of a data set of (index, image)."""
    import tensorflow as tf

    from keras_effv2 import augment

    def batched(data):
        return data.batch(batch_size).prefetch(2)

    def randaugment(magnitude):
        def ours(data):
            return batched(
                data.map(
                    lambda i, x: augment.randaugment(x, magnitude, (0, tf.cast(i, tf.int32))),
                    num_parallel_calls=tf.data.AUTOTUNE,
                )
            )

        # Keras' factor is in 0..1, the papers' magnitude in 0..30
        layer = keras.layers.RandAugment((0, 255), num_ops=2, factor=magnitude / 30)
        return ours, lambda data: layered(data, lambda x, _: layer(x, training=True))

    def mixing(settings, layer):
        def ours(data):
            both = data.map(lambda i, x: (x, tf.one_hot(i % 10, 10))).batch(batch_size)
            return both.map(
                lambda x, y: augment.mix(x, y, settings, (0, 1)),
                num_parallel_calls=tf.data.AUTOTUNE,
            ).prefetch(2)

        return ours, lambda data: layered(
            data, lambda x, y: layer({"images": x, "labels": y}, training=True)
        )

    def layered(data, step):
        both = data.map(lambda i, x: (tf.cast(x, tf.float32), tf.one_hot(i % 10, 10)))
        return both.batch(batch_size).map(step, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)

    return {
        "RandAugment 5": randaugment(5.0),
        "RandAugment 15": randaugment(15.0),
        "mixup": mixing(augment.Augment(mixup=0.2), keras.layers.MixUp(0.2)),
        "cutmix": mixing(augment.Augment(cutmix=1.0), keras.layers.CutMix(1.0)),
    }


def _export(model, image_size, batch_size, rounds):
    """Folded inference against the peer's model in a `tf.function`, for one image and for many."""
    import tensorflow as tf

    from keras_effv2 import exporting

    live = models.builder(model)(weights=None, classifier_activation=None)
    peer = _of_keras(model)(
        weights=None, input_shape=(image_size, image_size, 3), classifier_activation=None
    )
    peer_step = tf.function(lambda x: peer(x, training=False))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        exporting.export(live, path, format="saved_model", fold_batch_norm=True)
        serve = tf.saved_model.load(path).signatures["serving_default"]
        for batch in sorted({1, batch_size}):
            images = tf.constant(_batch(image_size, batch)[0])
            times = alternate(
                lambda x=images: serve(x), lambda x=images: peer_step(x), rounds=rounds, warmup=3
            )
            folded = f"{image_size} px, batch {batch}, folded"
            rows.append(row("export", model, folded, times, "keras"))
    return rows


def table(rows):
    """The rows as text, one a line, for people; the last line says on what they were measured."""
    lines = [
        f"{'measure':<11} {'model':<17} {'setting':<34} {'ours':>9} {'spread':>6} {'peer':>9} "
        f"{'spread':>6}  ratio"
    ]
    for row in rows:
        scale, unit = (1000, "ms") if row.unit == "s" and row.ours < 5 else (1, row.unit)
        digits = 2 if row.ours * scale < 20 else 0
        lines.append(
            f"{row.measure:<11} {row.model:<17} {row.setting:<34} "
            f"{row.ours * scale:>6.{digits}f} {unit:<2} {row.spread:>6.0%} "
            f"{row.peer * scale:>6.{digits}f} {unit:<2} {row.peer_spread:>6.0%}  "
            f"{row.ratio:.2f}x {row.peer_name}"
        )
    machine = f"{processor.instructions()}, oneDNN {processor.onednn()}"
    return "\n".join([*lines, f"on {os.cpu_count()} processors: {machine}"])
