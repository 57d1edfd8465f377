"""How cost grows with batch, image size, depth and replicas: a table and a plot.

    python benchmarks/growth.py --output growth.png

Each setting trains a few steps in a process of its own, whose peak memory is its own too. Wall time
suffers from other work on the machine; processor time, over all threads, hardly does.
"""

import argparse
import json
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", default="growth.png")
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--quick", action="store_true", help="without the large networks")

# what varies -> settings (model, batch, pixels, replicas, whether activations are recomputed)
SERIES = {
    "batch": [("EfficientNetV2B0", batch, 96, 1, 0) for batch in (4, 8, 16, 32, 64)],
    "image size": [("EfficientNetV2B0", 8, size, 1, 0) for size in (64, 96, 128, 192, 256)],
    "EfficientNetV2": [
        (f"EfficientNetV2{name}", 4, 96, 1, 0) for name in ("B0", "B1", "B2", "B3", "S", "M", "L")
    ],
    "CoAtNet": [(f"CoAtNet{i}", 2, 96, 1, 0) for i in range(5)],
    "replicas": [("EfficientNetV2B0", 16, 64, replicas, 0) for replicas in (1, 2, 4)],
    "remat": [
        (model, batch, size, 1, remat)
        for model, batch, size in (("CoAtNet0", 16, 192), ("CoAtNet4", 2, 384))
        for remat in (0, 1)
    ],
}
parser.add_argument("--series", default=",".join(SERIES), help="which, separated by commas")
LARGE = {"EfficientNetV2M", "EfficientNetV2L", "CoAtNet3", "CoAtNet4"}

STEP = """
import json, resource, statistics, sys, time
import numpy as np, tensorflow as tf
model, batch, size, replicas, remat, steps = sys.argv[1], *map(int, sys.argv[2:])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
import keras
import keras_effv2 as kev
from keras_effv2.rematerialization import rematerialized
strategy = tf.distribute.MirroredStrategy(
    [f"CPU:{i}" for i in range(replicas)], tf.distribute.ReductionToOneDevice()
) if replicas > 1 else tf.distribute.get_strategy()
with strategy.scope():
    net = getattr(kev, model)(weights=None, classes=10, input_shape=(size, size, 3))
    optimizer = kev.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(net.trainable_variables)
forward = rematerialized(net) if remat else lambda images: net(images, training=True)
def replica(images, labels):
    with tf.GradientTape() as tape:
        scores = forward(images)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, scores))
    values = [v.value for v in net.trainable_variables]
    optimizer.apply(tape.gradient(loss, values), net.trainable_variables)
    return loss
step = tf.function(lambda x, y: strategy.run(replica, (x, y)))
images = np.random.default_rng(0).uniform(0, 255, (batch // replicas, size, size, 3)).astype("float32")
labels = np.zeros(batch // replicas, "int64")
def give(x): return strategy.experimental_distribute_values_from_function(lambda _: tf.constant(x))
x, y = (tf.constant(images), tf.constant(labels)) if replicas == 1 else (give(images), give(labels))
times = []
for i in range(steps + 1):
    start, processor = time.perf_counter(), time.process_time()
    step(x, y)
    times.append((time.perf_counter() - start, time.process_time() - processor))
wall, processor = (statistics.median(column) for column in zip(*times[1:]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": wall, "processor": processor, "gibibytes": peak}))
"""


def main(args):
    rows = []
    for series in args.series.split(","):
        for setting in SERIES[series]:
            if args.quick and setting[0] in LARGE:
                continue
            command = [sys.executable, "-c", STEP, *map(str, setting), str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append({"series": series, "setting": setting, **row})
            print(json.dumps(rows[-1]), flush=True)
    plot(rows, args.output)
    print("| varied | model | batch | pixels | replicas | remat | s a step | processor s | GiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = " | ".join(map(str, row["setting"]))
        numbers = f"{row['seconds']:.2f} | {row['processor']:.2f} | {row['gibibytes']:.1f}"
        print(f"| {row['series']} | {cells} | {numbers} |")


def plot(rows, path):
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["series"] for row in rows))
    figure, axes = plt.subplots(
        2, len(names), figsize=(4 * len(names), 6), sharex="col", squeeze=False
    )
    for column, series in zip(axes.T, names, strict=True):
        own = [row for row in rows if row["series"] == series]
        index = {"batch": 1, "image size": 2, "replicas": 3, "remat": 4}.get(series, 0)
        ticks = [str(row["setting"][index]).removeprefix(series) for row in own]
        column[0].plot(ticks, [row["processor"] for row in own], marker="o")
        column[1].plot(ticks, [row["gibibytes"] for row in own], marker="o", color="tab:red")
        column[0].set_title(series)
    for axis, label in zip(axes[:, 0], ("processor seconds a step", "GiB"), strict=True):
        axis.set_ylabel(label)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main(parser.parse_args())
