"""Ours beside networks of other libraries, in fresh processes, and operation by operation.

    python benchmarks/peers.py --peer=timm --model=EfficientNetV2S
    python benchmarks/peers.py --measure=help,import,build,first_step,memory
    python benchmarks/peers.py --profile --image_size=96

It takes the flags of `effv2 benchmark`, which calls this file where it lies in a checkout.
"""

import collections
import glob
import importlib.util
import os
import re
import subprocess
import sys
import tempfile

from keras_effv2 import variants
from keras_effv2.variants import coatnet, coatnet_rw

# timm's names of the same networks; of the paper's CoAtNets they differ in small ways
TIMM = {
    **{f"EfficientNetV2{b}": f"tf_efficientnetv2_{b.lower()}" for b in ("B0", "B1", "B2", "B3")},
    **{f"EfficientNetV2{s}": f"tf_efficientnetv2_{s.lower()}" for s in ("S", "M", "L", "XL")},
    **{f"CoAtNet{n}": f"coatnet_{n}_224" for n in range(6)},
    **{f"CoAtNet{n}RW": f"coatnet_{n}_rw_224" for n in range(4)},
    "CoAtNet0RWBN": "coatnet_bn_0_rw_224",
    "CoAtNet1RWMax": "coatnet_rmlp_1_rw_224",
    "CoAtNet1RW2": "coatnet_rmlp_1_rw2_224",
    "CoAtNetNanoRW": "coatnet_nano_rw_224",
    "CoAtNetNanoRW2": "coatnet_rmlp_nano_rw_224",
    "CoAtNeXtNanoRW": "coatnext_nano_rw_224",
}

# layers of timm's EfficientNetV2 within a block, and outside of blocks, under our names
_MBCONV = {
    **{"conv_pw": "expand_conv", "bn1": "expand_bn", "conv_dw": "dwconv2", "bn2": "bn"},
    **{"se.conv_reduce": "se_reduce", "se.conv_expand": "se_expand"},
    **{"conv_pwl": "project_conv", "bn3": "project_bn"},
}
_FUSED = {"conv_exp": "expand_conv", "bn1": "expand_bn", "conv_pwl": "project_conv"}
_FUSED["bn2"] = "project_bn"
_SINGLE = {"conv": "project_conv", "bn1": "project_bn"}
_ENDS = {"conv_stem": "stem_conv", "bn1": "stem_bn", "conv_head": "top_conv", "bn2": "top_bn"}
_ENDS["classifier"] = "predictions"
LEAVES = ("weight", "bias", "running_mean", "running_var")  # in the order of our layers' weights


def our_layer(name, row):
    """Name of our layer for one of timm's EfficientNetV2, of the network with this row."""
    from keras_effv2.models import application

    match = re.match(r"blocks\.(\d+)\.(\d+)\.(.*)", name)
    if not match:
        return _ENDS[name]
    stage, letter = row.stages[int(match[1])], application.block_letters(int(match[2]))
    names = _MBCONV if stage.block == "mbconv" else _FUSED
    names = _SINGLE if stage.block == "fused" and stage.expansion == 1 else names
    return f"block{int(match[1]) + 1}{letter}_{names[match[3]]}"


# ------------------------------------------------------------------------------------ the sides


def load(peer):
    """Imports what a peer needs; PyTorch has to come before TensorFlow, which crashes otherwise."""
    if peer == "timm":
        if importlib.util.find_spec("timm") is None:
            raise ValueError("The peer timm is not installed: pip install timm torch.")
        if "tensorflow" in sys.modules and "torch" not in sys.modules:
            raise ValueError("PyTorch has to be loaded before TensorFlow: import timm first.")
        import timm  # noqa: F401
    if peer == "kecam":
        if importlib.util.find_spec("keras_cv_attention_models") is None:
            raise ValueError(
                "The peer kecam is not installed: pip install keras-cv-attention-models tf_keras."
            )
        if os.environ.get("TF_USE_LEGACY_KERAS") != "1":  # TensorFlow reads it when imported
            raise ValueError("The peer kecam needs the environment variable TF_USE_LEGACY_KERAS=1.")


def timm_sides(name, image_size, batch_size, half, steps=1):
    """Training and inference of timm's network as functions that make so many steps and wait.

    Compiled and channels last where there is a GPU, eager on a CPU; `half` is bfloat16 by autocast.
    """
    import timm
    import torch

    if name not in TIMM:
        raise ValueError(f"timm has no {name}. Choose another model or peer.")
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    kinds = (coatnet.Variant, coatnet_rw.Variant)
    sized = isinstance(variants.find(name), kinds)  # its tables have a size
    size = {"img_size": image_size} if sized else {}
    if gpu and sized:  # compiled by PyTorch 2.11, the gradient of the fused one refuses timm's bias
        timm.layers.set_fused_attn(False)
    model = timm.create_model(TIMM[name], pretrained=False, **size).to(device)
    model = model.to(memory_format=torch.channels_last)
    forward = torch.compile(model) if gpu else model
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.rand(batch_size, 3, image_size, image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch_size,), device=device)

    def wait():
        if gpu:
            torch.cuda.synchronize()

    def train():
        model.train()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = torch.nn.functional.cross_entropy(forward(images).float(), labels)
            loss.backward()
            optimizer.step()
        wait()

    def infer():
        model.eval()
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            for _ in range(steps):
                forward(images)
        wait()

    return {"train": train, "infer": infer}


def _timm(name, image_size, batch_size):
    import keras

    load("timm")
    half = keras.config.dtype_policy().compute_dtype == "bfloat16"
    return timm_sides(name, image_size, batch_size, half)


def _kecam(name, image_size, batch_size):
    """keras_cv_attention_models, which is written for Keras 2: the package tf_keras."""
    load("kecam")
    import keras
    import tf_keras
    from keras_cv_attention_models import coatnet as kecam_coatnet
    from keras_cv_attention_models import efficientnet

    from keras_effv2 import benchmark

    tf_keras.mixed_precision.set_global_policy(keras.config.dtype_policy().name)
    builder = getattr(efficientnet, name, None) or getattr(kecam_coatnet, name, None)
    if builder is None:
        raise ValueError(f"keras_cv_attention_models has no {name}. Choose another model or peer.")
    shape = (image_size, image_size, 3)
    model = builder(input_shape=shape, pretrained=None, num_classes=1000)
    optimizer = tf_keras.optimizers.SGD(0.01, momentum=0.9)
    return benchmark.sides(model, optimizer, image_size, batch_size)


PEERS = {"timm": _timm, "kecam": _kecam}


# ------------------------------------------------------------------------- whole-process measures

_IMPORT = """
import time
start = time.perf_counter()
import {package}
{touch}
print(time.perf_counter() - start)
"""

_HELP = """
import subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, {arguments}], check=True, capture_output=True)
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
FRESH = {"help": _HELP, "import": _IMPORT, "build": _FRESH, "first_step": _FRESH, "memory": _FRESH}


def fresh(measure, model, image_size, batch_size, rounds):
    """What has to be measured in fresh processes, as a `benchmark.Row`.

    The time of `effv2 --help` (beside `import keras`), import time of all that `EfficientNetV2B0`
    needs (beside Keras' alone), build time a layer (beside keras.applications' EfficientNetV2L where
    it lacks the model), time to the first train step, peak memory.
    """
    import keras

    from keras_effv2 import benchmark

    peer = model if hasattr(keras.applications, model) else "EfficientNetV2L"
    if peer != model and measure in ("first_step", "memory"):
        raise ValueError(f"keras.applications has no {model}: `{measure}` has nothing beside it.")
    sides = (
        {
            "package": "keras_effv2",
            "touch": "keras_effv2.EfficientNetV2B0",
            "arguments": "'-m', 'keras_effv2', '--help'",
            "ours": True,
            "model": model,
        },
        {
            "package": "keras",
            "touch": "",
            "arguments": "'-c', 'import keras'",
            "ours": False,
            "model": peer,
        },
    )
    policy = keras.config.dtype_policy().name
    settings = {"policy": policy, "size": image_size, "measure": measure, "batch": batch_size}
    times = ([], [])
    for _ in range(rounds):
        for side, names in enumerate(sides):
            times[side].append(_number(FRESH[measure].format(**settings, **names), measure, model))
    unit = "MiB" if measure == "memory" else "s"
    whole = measure in ("help", "import")
    name, setting = ("-", "-") if whole else (model, benchmark.setting(image_size, batch_size))
    if measure == "build":
        setting = f"a layer, beside {peer}"
    return benchmark.row(measure, name, setting, times, "keras", unit)


def _number(code, measure, model):
    """The last word that a program prints."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"Measuring {measure} of {model} failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


# -------------------------------------------------------------------------------------- all of it


def run(model, measures, peer, image_size, batch_size, rounds):
    """As `benchmark.run`, with the peers timm and kecam and the measures in `FRESH`."""
    from keras_effv2 import benchmark

    rows = []
    for measure in measures:
        if measure in FRESH and peer == "keras":
            rows.append(fresh(measure, model, image_size, batch_size, min(rounds, 3)))
        else:
            other = benchmark.KERAS if peer == "keras" else benchmark.Peer(peer, PEERS[peer])
            rows += benchmark.run(model, (measure,), other, image_size, batch_size, rounds)
    return rows


def profile(model="EfficientNetV2B0", image_size=96, batch_size=32, steps=3):
    """Tells where a train step's time goes, operation by operation (TensorFlow).

    Returns:
        A list of `(operation type, milliseconds a step, executions a step)`, longest first. Times
        are thread times: with two threads they add up to twice the wall time.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    from keras_effv2 import benchmark

    step = benchmark.our_sides(model, image_size, batch_size)["train"]
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


if __name__ == "__main__":
    from keras_effv2 import cli

    sys.exit(cli.main(["benchmark", *sys.argv[1:]]))
