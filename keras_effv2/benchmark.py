"""Paired measurements: ours and a peer, alternating in one run.

Machines are noisy, so single times mean little; the two sides take turns and the ratio of their
medians is the result. Models run on the backend that Keras runs on, TensorFlow, JAX or PyTorch;
TensorFlow is needed only for what is about TensorFlow.
"""

import dataclasses
import importlib.util
import os
import statistics
import subprocess
import sys
import time

import keras
import numpy as np

from keras_effv2 import models, optimizers

MEASURES = ("import", "build", "first_step", "train", "infer", "pipeline", "export", "memory")
PEERS = ("keras", "timm", "kecam")

# timm's names of the same networks; its CoAtNets differ in small ways and are untrained as well
TIMM = {
    **{f"EfficientNetV2{b}": f"tf_efficientnetv2_{b.lower()}" for b in ("B0", "B1", "B2", "B3")},
    **{f"EfficientNetV2{s}": f"tf_efficientnetv2_{s.lower()}" for s in ("S", "M", "L", "XL")},
    **{f"CoAtNet{n}": f"coatnet_{n}_224" for n in range(6)},
}


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


def _fitted(model, optimizer, image_size, batch_size):
    """Train step and inference of a Keras model as functions without arguments."""
    model.compile(optimizer, "sparse_categorical_crossentropy")
    images, labels = _batch(image_size, batch_size)
    return {
        "train": lambda: model.train_on_batch(images, labels),
        "infer": lambda: model.predict_on_batch(images),
    }


def _ours(name, image_size, batch_size):
    model = _builder(name)(weights=None, input_shape=(image_size, image_size, 3))
    return _fitted(model, optimizers.SGD(0.01, momentum=0.9), image_size, batch_size)


def _builder(name):
    family = models.coatnet if name.startswith("CoAtNet") else models.efficientnet_v2
    return getattr(family, name)


def _keras_peer(name, image_size, batch_size):
    builder = getattr(keras.applications, name, None)
    if builder is None:
        raise ValueError(
            f"keras.applications has no {name}. Choose EfficientNetV2B0..B3, S, M or L, or "
            "the peer timm or kecam."
        )
    model = builder(weights=None, input_shape=(image_size, image_size, 3))
    return _fitted(model, keras.optimizers.SGD(0.01, momentum=0.9), image_size, batch_size)


def _timm_peer(name, image_size, batch_size):
    """Timm in PyTorch; compiled and channels last where there is a GPU, eager on a CPU."""
    if importlib.util.find_spec("timm") is None:
        raise ValueError("The peer timm is not installed: pip install timm torch.")
    if "tensorflow" in sys.modules and "torch" not in sys.modules:
        raise ValueError(  # the second to come crashes in libraries that both bring
            "PyTorch has to be loaded before TensorFlow: "
            "python -c 'import timm, keras_effv2.cli as cli; cli.main()' benchmark --peer=timm ..."
        )
    import timm
    import torch

    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    half = keras.config.dtype_policy().compute_dtype == "bfloat16"
    if name not in TIMM:
        raise ValueError(f"timm has no {name}. Choose another model or peer.")
    size = {"img_size": image_size} if name.startswith("CoAtNet") else {}
    model = timm.create_model(TIMM[name], pretrained=False, **size).to(device)
    model = model.to(memory_format=torch.channels_last)
    step = torch.compile(model) if gpu else model
    images, labels = _batch(image_size, batch_size)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy() / 128 - 1).to(device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.from_numpy(labels).long().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def wait():
        if gpu:
            torch.cuda.synchronize()

    def train():
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = torch.nn.functional.cross_entropy(step(images).float(), labels)
        loss.backward()
        optimizer.step()
        wait()

    def infer():
        model.eval()
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            step(images)
        wait()

    return {"train": train, "infer": infer}


def _kecam_peer(name, image_size, batch_size):
    """keras_cv_attention_models, which is written for Keras 2: the package tf_keras."""
    if importlib.util.find_spec("keras_cv_attention_models") is None:
        raise ValueError(
            "The peer kecam is not installed: pip install keras-cv-attention-models tf_keras."
        )
    if os.environ.get("TF_USE_LEGACY_KERAS") != "1":  # TensorFlow has read it already
        raise ValueError("The peer kecam needs the environment variable TF_USE_LEGACY_KERAS=1.")
    import tf_keras
    from keras_cv_attention_models import coatnet, efficientnet

    tf_keras.mixed_precision.set_global_policy(keras.config.dtype_policy().name)
    builder = getattr(coatnet if name.startswith("CoAtNet") else efficientnet, name, None)
    if builder is None:
        raise ValueError(f"keras_cv_attention_models has no {name}. Choose another model or peer.")
    shape = (image_size, image_size, 3)
    model = builder(input_shape=shape, pretrained=None, num_classes=1000)
    return _fitted(model, tf_keras.optimizers.SGD(0.01, momentum=0.9), image_size, batch_size)


_PEERS = {"keras": _keras_peer, "timm": _timm_peer, "kecam": _kecam_peer}


def _batch(image_size, batch_size):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch_size, image_size, image_size, 3)).astype("float32")
    return images, rng.integers(0, 1000, batch_size)


# -------------------------------------------------------------------------------------- pairing


def alternate(ours, peer, rounds, warmup=2):
    """Times two functions in turn.

    Args:
        ours: Function without arguments.
        peer: Function without arguments.
        rounds: How often each is timed, at least 1.
        warmup: How often each is called before.

    Returns:
        Two lists of seconds.

    Example:

    >>> [len(times) for times in alternate(lambda: 0, lambda: 0, rounds=3)]
    [3, 3]
    """
    for _ in range(warmup):
        ours()
        peer()
    times = ([], [])
    for round_ in range(rounds):
        # who goes first changes too: the second finds warmer clocks and colder caches
        for side in (0, 1) if round_ % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (ours, peer)[side]()
            times[side].append(time.perf_counter() - start)
    return times


def _setting(image_size, batch_size):
    return f"{image_size} px, batch {batch_size}, {keras.config.dtype_policy().name}"


def _row(measure, model, setting, times, peer_name, unit="s"):
    ours, peer = (statistics.median(side) for side in times)
    spreads = [_spread(side) for side in times]
    return Row(
        measure, model, setting, unit, ours, peer, peer_name, peer / ours, *spreads, len(times[0])
    )


def _spread(times):
    """Interquartile range over the median."""
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def run(
    model="EfficientNetV2B0",
    measures=("train", "infer"),
    peer="keras",
    image_size=224,
    batch_size=32,
    rounds=7,
):
    """Measures a model of ours beside a peer's.

    Args:
        model: A name that `list_models()` lists.
        measures: Names out of `MEASURES`. `import`, `build`, `first_step` and `memory` start a
            fresh process for every measurement; `pipeline` and `export` need TensorFlow.
        peer: `"keras"` (keras.applications, or `keras.layers.RandAugment` for the pipeline),
            `"timm"` (PyTorch) or `"kecam"` (keras_cv_attention_models); these two for `train` and
            `infer` only.
        image_size: Side of the images in pixels.
        batch_size: Images a step.
        rounds: Timings of each side.

    Returns:
        A list of `Row`.

    Raises:
        ValueError: If a measure or peer is unknown, or the peer lacks the model.
    """
    unknown = [measure for measure in measures if measure not in MEASURES]
    if unknown:
        raise ValueError(f"Unknown measure {unknown[0]!r}. Measures: {', '.join(MEASURES)}.")
    if peer not in PEERS:
        raise ValueError(f"Unknown peer {peer!r}. Peers: {', '.join(PEERS)}.")
    if model not in models.VARIANTS:
        raise ValueError(f"There is no model {model!r}. Models: {', '.join(models.VARIANTS)}.")
    if peer != "keras" and set(measures) - {"train", "infer"}:
        raise ValueError(
            f"The peer {peer} is measured in train and infer. Received: {', '.join(measures)}. "
            "Leave the others out, or take the peer keras."
        )
    rows = []
    for measure in measures:
        if measure in ("train", "infer"):
            for batch in (batch_size,) if measure == "train" else sorted({1, batch_size}):
                sides = [make(model, image_size, batch) for make in (_ours, _PEERS[peer])]
                times = alternate(sides[0][measure], sides[1][measure], rounds)
                rows.append(_row(measure, model, _setting(image_size, batch), times, peer))
        elif measure in ("import", "build", "first_step", "memory"):
            rows.append(_fresh(measure, model, image_size, batch_size, min(rounds, 3)))
        elif measure == "pipeline":
            rows += _pipeline(image_size, batch_size, rounds)
        else:
            rows += _export(model, image_size, batch_size, rounds)
    return rows


# ------------------------------------------------------------------------- whole-process measures

_IMPORT = """
import time
start = time.perf_counter()
import {package}
print(time.perf_counter() - start)
"""

_FRESH = """
import resource, sys, time
import keras, numpy as np
keras.config.set_dtype_policy({policy!r})
import keras_effv2
start = time.perf_counter()
module = keras_effv2 if {ours} else keras.applications
optimizers = keras_effv2.optimizers if {ours} else keras.optimizers
model = getattr(module, {model!r})(weights=None, input_shape=({size}, {size}, 3))
if {measure!r} == "build":
    print((time.perf_counter() - start) / len(model.layers))
    sys.exit()
model.compile(optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
for _ in range(2 if {measure!r} == "memory" else 1):
    model.train_on_batch(np.zeros(({batch}, {size}, {size}, 3), "float32"), np.zeros({batch}))
seconds = time.perf_counter() - start
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if {measure!r} == "memory"
      else seconds)
"""


def _fresh(measure, model, image_size, batch_size, rounds):
    """What has to be measured in fresh processes.

    Import time (ours beside Keras' alone), build time a layer (beside keras.applications'
    EfficientNetV2L where it lacks the model), time to the first train step, peak memory.
    """
    peer = model if hasattr(keras.applications, model) else "EfficientNetV2L"
    if peer != model and measure != "build":
        raise ValueError(f"keras.applications has no {model}: `{measure}` has nothing beside it.")
    sides = (
        {"package": "keras_effv2", "ours": True, "model": model},
        {"package": "keras", "ours": False, "model": peer},
    )
    times = ([], [])
    for _ in range(rounds):
        for side, names in enumerate(sides):
            code = (_IMPORT if measure == "import" else _FRESH).format(
                policy=keras.config.dtype_policy().name,
                size=image_size,
                measure=measure,
                batch=batch_size,
                **names,
            )
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            if done.returncode:
                raise RuntimeError(
                    f"Measuring {measure} of {model} failed: {done.stderr.strip()[-300:]}"
                )
            times[side].append(float(done.stdout.split()[-1]))
    unit = "MiB" if measure == "memory" else "s"
    name, setting = ("-", "-") if measure == "import" else (model, _setting(image_size, batch_size))
    if measure == "build":
        setting = f"a layer, beside {peer}"
    return _row(measure, name, setting, times, "keras", unit)


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
        sides = [side(source) for side in (ours, peer)]
        times = alternate(*[lambda s=s: [0 for _ in s] for s in sides], rounds, warmup=1)
        times = [[seconds / batches for seconds in side] for side in times]
        rows.append(_row("pipeline", name, f"{image_size} px, batch {batch_size}", times, "keras"))
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
    import tempfile

    import tensorflow as tf

    from keras_effv2 import exporting

    builder = getattr(keras.applications, model, None)
    if builder is None:
        raise ValueError(f"keras.applications has no {model}: `export` has nothing beside it.")
    live = _builder(model)(weights=None, classifier_activation=None)
    peer = builder(
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
                lambda x=images: serve(x), lambda x=images: peer_step(x), rounds, warmup=3
            )
            setting = f"{image_size} px, batch {batch}, folded"
            rows.append(_row("export", model, setting, times, "keras"))
    return rows


# -------------------------------------------------------------------------------------- profile


def profile(model="EfficientNetV2B0", image_size=96, batch_size=32, steps=3, ours=True):
    """Tells where a train step's time goes, operation by operation (TensorFlow).

    Args:
        model: A name that `list_models()` lists.
        image_size: Side of the images in pixels.
        batch_size: Images a step.
        steps: Steps to average over.
        ours: Whether to profile our model, or keras.applications'.

    Returns:
        A list of `(operation type, milliseconds a step, executions a step)`, longest first. Times
        are thread times: with two threads they add up to twice the wall time.
    """
    import collections
    import glob
    import tempfile

    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    make = _ours if ours else _keras_peer
    step = make(model, image_size, batch_size)["train"]
    step()
    step()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            step()
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        (path,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
        with open(path, "rb") as file:
            space.ParseFromString(file.read())
    total, count = collections.Counter(), collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if ":" in name and event.duration_ps:  # node/name:OpType
                    kind = name.rsplit(":", 1)[1].split("#")[0]
                    total[kind] += event.duration_ps / 1e9
                    count[kind] += 1
    return [(kind, ms / steps, count[kind] // steps) for kind, ms in total.most_common()]


def table(rows):
    """The rows as text, one a line, for people."""
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
    return "\n".join(lines)
