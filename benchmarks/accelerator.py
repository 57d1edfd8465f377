"""Ours on JAX beside timm under `torch.compile`, on one accelerator, alternating in one run.

    python benchmarks/accelerator.py
    python benchmarks/accelerator.py --small                  # what a CPU can do
    python benchmarks/accelerator.py --small --sides ours     # without torch and timm
    python benchmarks/accelerator.py --together 4             # where memory allows

Needs jax, torch and timm; not TensorFlow. Each side lives in a process of its own and waits while
the other is timed. Of each: images a second, seconds until the first step of training and the first
of inference are done, peak memory, and the part of the chip's matrix peak, which is measured in the
same run, that the network's multiply-adds make of it. Networks that compile together slow each
other's first steps, and hold the chip's memory together.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--settings",
    default="EfficientNetV2S:128,EfficientNetV2S:224,EfficientNetV2S:300,CoAtNet0:224,CoAtNet2:224,"
    "CoAtNet0RW:224,CoAtNet1RW:224,CoAtNet2RW:224",
    help="MODEL:PIXELS, separated by commas",
)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
parser.add_argument("--rounds", type=int, default=7, help="timings of each side")
parser.add_argument("--steps", type=int, default=10, help="steps in one timing")
parser.add_argument("--together", type=int, default=1, help="networks that compile together")
parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices of the peak")
parser.add_argument("--sides", default="ours,timm", choices=["ours,timm", "ours", "timm"])
parser.add_argument("--small", action="store_true", help="one small size, few steps, float32")
parser.add_argument("--json", help="file for the rows")
SMALL = {
    "settings": "EfficientNetV2B0:64",
    "batch": 4,
    "precision": "float32",
    "rounds": 3,
    "steps": 1,
    "matrix": 1024,
}
parser.add_argument("--side", choices=["ours", "timm"], help=argparse.SUPPRESS)


# ------------------------------------------------------------------- one side, in its own process


def ours(model, size, args):
    """Functions that start so many steps and wait for them, and one that tells the memory."""
    import jax
    import keras
    import numpy as np

    from keras_effv2 import models

    keras.config.set_dtype_policy(
        "mixed_bfloat16" if args.precision == "bfloat16" else args.precision
    )
    with keras.device("cpu:0"):  # an accelerator compiles a program for every shape of a variable
        net = models.builder(model)(
            weights=None, input_shape=(size, size, 3), classifier_activation=None
        )
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        optimizer.build(net.trainable_variables)

    def loss(trainable, others, images, labels):
        logits, others = net.stateless_call(trainable, others, images, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return losses.mean(), others

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def train(trainable, others, slots, images, labels):
        (_, others), gradients = jax.value_and_grad(loss, has_aux=True)(
            trainable, others, images, labels
        )
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return trainable, others, slots

    @jax.jit
    def infer(trainable, others, images):
        return net.stateless_call(trainable, others, images, training=False)[0]

    rng = np.random.default_rng(0)
    images = jax.numpy.asarray(rng.uniform(0, 255, (args.batch, size, size, 3)), "float32")
    labels = jax.numpy.asarray(rng.integers(0, 1000, args.batch))
    state = [
        [jax.device_put(v.value, jax.devices()[0]) for v in variables]
        for variables in (net.trainable_variables, net.non_trainable_variables, optimizer.variables)
    ]

    def run_train():
        for _ in range(args.steps):
            state[:] = train(*state, images, labels)
        jax.block_until_ready(state)

    def run_infer():
        outputs = [infer(*state[:2], images) for _ in range(args.steps)]
        jax.block_until_ready(outputs)

    def memory():
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    # not ones: chips draw less power for them, and are faster
    matrix = jax.numpy.asarray(rng.normal(size=(args.matrix, args.matrix)), args.precision)
    product = jax.jit(lambda x: x @ x)
    return {
        "train": run_train,
        "infer": run_infer,
        "product": lambda: product(matrix).block_until_ready(),
        "memory": memory,
    }


def timm(model, size, args):
    """As `ours`, of timm in PyTorch."""
    import torch
    from peers import timm_sides

    gpu = torch.cuda.is_available()
    half = args.precision == "bfloat16"
    matrix = torch.randn(args.matrix, args.matrix)
    matrix = matrix.to("cuda" if gpu else "cpu", getattr(torch, args.precision))

    def product():
        matrix @ matrix
        if gpu:
            torch.cuda.synchronize()

    return {
        **timm_sides(model, size, args.batch, half, args.steps),
        "product": product,
        "memory": lambda: torch.cuda.max_memory_allocated() if gpu else None,
    }


def serve(args):
    """Times what is asked for on standard input, a word a line, until it ends."""
    # other packages may print: answers go to where output went at first
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model, size = args.settings.split(":")
    functions = {"ours": ours, "timm": timm}[args.side](model, int(size), args)
    for line in sys.stdin:
        start = time.perf_counter()
        answer = functions[line.strip()]()
        if line.strip() == "memory":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps(answer or peak), file=answers, flush=True)
        else:
            print(json.dumps(time.perf_counter() - start), file=answers, flush=True)


# ------------------------------------------------------------------------------------ both sides


class Side:
    """A process that answers one word by one number; it begins to compile at once."""

    WORDS = ("train", "infer", "product")

    def __init__(self, name, setting, args):
        options = ["--side", name, "--settings", setting, "--precision", args.precision]
        for key in ("batch", "steps", "matrix"):
            options += [f"--{key}", str(getattr(args, key))]
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "KERAS_BACKEND": "jax",
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # two sides share the chip
            },
        )
        self.first = {}  # seconds of the first time, which compiles
        for word in self.WORDS:
            self.tell(word)

    def wait(self):
        """Waits until all has been compiled."""
        self.first = {word: self.answer() for word in self.WORDS}

    def ask(self, word):
        """Asks for one number; stops the benchmark if the side is gone."""
        self.tell(word)
        return self.answer()

    def tell(self, word):
        """Asks without waiting for the `answer`."""
        print(word, file=self.process.stdin, flush=True)

    def answer(self):
        """The number that was asked for first of those that did not come yet."""
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(
                f"A side ended with code {self.process.wait()}; see its message above."
            )
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(setting, sides, args):
    """A row for training and one for inference, of sides that have compiled."""
    from keras_effv2 import model_info

    model, size = setting.split(":")
    macs = model_info(model, int(size))["macs"]
    product = min(side.ask("product") for side in sides for _ in range(5))
    peak = 2 * args.matrix**3 / product
    rows = []
    for mode, operations in (("train", 6 * macs), ("infer", 2 * macs)):
        times = [[] for _ in sides]
        for round_ in range(args.rounds):
            for i in range(len(sides))[:: 1 if round_ % 2 == 0 else -1]:
                times[i].append(sides[i].ask(mode))
        rates = [args.steps * args.batch / statistics.median(t) for t in times]
        rows.append(
            {
                "mode": mode,
                "model": model,
                "pixels": int(size),
                "batch": args.batch,
                "precision": args.precision,
                "images_per_second": rates,
                "ratio": rates[0] / rates[-1],
                "first_seconds": [side.first[mode] for side in sides],
                "part_of_peak": [rate * operations / peak for rate in rates],
                "peak_flops": peak,
            }
        )
    for row in rows:
        row["memory_bytes"] = [side.ask("memory") for side in sides]
    return rows


def measured(args):
    """The rows of one network after the other."""
    settings = args.settings.split(",")
    for first in range(0, len(settings), args.together):
        group = {
            setting: [Side(name, setting, args) for name in args.sides.split(",")]
            for setting in settings[first : first + args.together]
        }
        everyone = [side for sides in group.values() for side in sides]
        for side in everyone:
            side.wait()
        for setting, sides in group.items():
            yield measure(setting, sides, args)
        for side in everyone:
            side.close()


def main(args):
    if args.side:
        return serve(args)
    rows = []
    print(f"| what | model | pixels | images/s: {args.sides} | ratio | of peak | first s | GiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for network in measured(args):
        for row in network:
            rows.append(row)
            rates = ", ".join(f"{rate:,.1f}" for rate in row["images_per_second"])
            parts = ", ".join(f"{part:.0%}" for part in row["part_of_peak"])
            firsts = ", ".join(f"{seconds:.0f}" for seconds in row["first_seconds"])
            memory = ", ".join(f"{n / 2**30:.1f}" for n in row["memory_bytes"])
            print(
                f"| {row['mode']} | {row['model']} | {row['pixels']} | {rates} "
                f"| {row['ratio']:.2f} | {parts} | {firsts} | {memory} |",
                flush=True,
            )
        if args.json:  # after every network: a machine may be lent for a time
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(rows, file, indent=1)
    print(f"matrix peak {rows[0]['peak_flops'] / 1e12:.1f} TFLOP/s in {args.precision}")


if __name__ == "__main__":
    if "--small" in sys.argv:
        parser.set_defaults(**SMALL)
    main(parser.parse_args())
