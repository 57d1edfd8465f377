"""What each phase of a progressive run costs: its pipeline, its step, and coming to it.

    python benchmarks/phases.py --data folder:flowers --sizes 64,112

For every phase: images a second that the input pipeline gives alone and that training takes, and
how much longer than a usual step of the phase its first one is (the wait for its pipeline, and the
kernels' preparation for the new size; a trace would take ten seconds or more).
"""

import argparse
import dataclasses
import statistics
import tempfile
import time

import keras

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="folder:PATH, tfds:NAME or digits")
parser.add_argument("--model", default="EfficientNetV2B0", choices=kev.list_models())
parser.add_argument("--sizes", default="64,112", help="first and last size in pixels")
parser.add_argument("--batches", type=int, default=10, help="of the pipeline alone")


class Stopwatch(keras.callbacks.Callback):
    """Seconds from the end of a step to the end of the next, epoch by epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append([])
        self.last = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        self.epochs[-1].append(now - self.last)
        self.last = now


def pipeline(data, recipe, phase, batches):
    """Images a second of the input pipeline alone."""
    iterator = iter(
        data.train.train_batches(
            image_size=phase.image_size,
            batch_size=recipe.batch_size,
            augment=kev.recipes.augment_of(recipe, phase),
        )
    )
    next(iterator)  # tracing
    start = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches * recipe.batch_size / (time.perf_counter() - start)


def main(args):
    sizes = tuple(map(int, args.sizes.split(",")))
    data = kev.data.load(args.data)
    phases = kev.ramp(8, 4, image_size=sizes, dropout=(0.0, 0.2), randaugment=(5.0, 15.0))
    recipe = dataclasses.replace(
        kev.recipes.get("digits", model=args.model), epochs=8, phases=phases, crop_area=(0.08, 1.0)
    )
    rates = [pipeline(data, recipe, phase, args.batches) for phase in phases]
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as workdir:
        result = kev.train(
            lambda: getattr(kev, args.model)(weights=None, classes=len(data.class_names)),
            data,
            recipe,
            workdir,
            callbacks=[watch],
            progress=False,
        )
    print(
        f"{args.model}, {data.name}, batch {recipe.batch_size}, {result.traces} trace of the step"
    )
    print("| pixels | pipeline, images/s | training, images/s | first step: s more |")
    print("| ---: | ---: | ---: | ---: |")
    for phase, rate in zip(phases, rates, strict=True):
        first, *others = watch.epochs[phase.start_epoch]
        step = statistics.median(others)
        more = "with the trace" if phase.start_epoch == 0 else f"{first - step:.2f}"
        print(f"| {phase.image_size} | {rate:.0f} | {recipe.batch_size / step:.0f} | {more} |")


if __name__ == "__main__":
    main(parser.parse_args())
