"""What each network with released weights costs on one processor core, beside its published accuracy.

    python benchmarks/models.py --output docs/models.json

One picture at the size that the accuracy was measured at, in a compiled function that has one
thread; the lowest of the rounds, in seconds of the processor, which other work on the machine
disturbs less than those of the clock. Weights are random: time does not depend on them.
"""

import argparse
import json
import os
import pathlib
import platform
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import tensorflow as tf

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", default="docs/models.json")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--models", help="names with commas; default: all with a published accuracy")


def rows(names):
    """A row for every checkpoint with a published ImageNet accuracy, one tag of each network."""
    for name in names or kev.list_models():
        best = {}
        for row in kev.list_weights(name):
            if (
                row.top1 is not None and row.tag != "imagenet-automl"
            ):  # the same numbers as imagenet
                size = row.image_size or kev.model_info(name)["image_size"]
                best[row.tag] = (row, size)
        yield from best.values()


_known = {}


def cost(name, size, rounds):
    """Milliseconds of one core that one picture takes, lowest of the rounds, and parameters."""
    if (name, size) not in _known:
        keras.backend.clear_session()
        network = getattr(kev, name)(weights=None, input_shape=(size, size, 3))
        call = tf.function(lambda x: network(x, training=False))
        picture = tf.constant(
            np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)), "float32"
        )
        times = []
        for _ in range(rounds + 1):
            start = time.process_time()
            call(picture).numpy()
            times.append(time.process_time() - start)
        _known[name, size] = 1000 * min(times[1:]), network.count_params()
    return _known[name, size]


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(args):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    found = []
    for row, size in rows(args.models and args.models.split(",")):
        milliseconds, parameters = cost(row.model, size, args.rounds)
        found.append(
            {
                "model": row.model,
                "weights": row.tag,
                "top1": row.top1,
                "image_size": size,
                "parameters": parameters,
                "megabytes": round(4 * parameters / 1e6, 1),
                "milliseconds": round(milliseconds, 1),
                "source": row.source,
            }
        )
        print(*found[-1].values(), sep="  ", flush=True)
    result = {
        "processor": processor(),
        "versions": f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
        "rows": found,
    }
    pathlib.Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(parser.parse_args())
