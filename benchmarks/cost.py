"""What training on ImageNet costs, by arithmetic; nothing is run.

    python benchmarks/cost.py --chips 1,8,512
    python benchmarks/cost.py --memory

Operations are six a multiply-add (one forward pass of two, two backward), summed over the phases of
the published recipes. How much of a chip's peak a training reaches is not assumed but taken from
the paper's own hours on 32 TPUv3 cores (arXiv 2104.00298, table 7); for networks without published
hours the median of those is used. Chips are taken to add up perfectly, which they do not quite.
"""

import argparse
import statistics

import keras_effv2 as kev
from keras_effv2 import variants

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--chips", default="1,8,512")
parser.add_argument("--peak", type=float, default=123.0, help="TFLOP/s of a chip; TPUv3: 123")

parser.add_argument("--memory", action="store_true", help="what every device has to hold instead")

IMAGES = {"imagenet1k": 1_281_167, "imagenet21k": 12_720_275}  # as google/automl counts them
PAPER_HOURS = {  # on 32 TPUv3 cores of 61.5 TFLOP/s
    ("imagenet1k", "EfficientNetV2S"): 7.1,
    ("imagenet1k", "EfficientNetV2M"): 13.0,
    ("imagenet1k", "EfficientNetV2L"): 24.0,
}
PAPER_PEAK = 32 * 61.5e12
RUNS = [
    *(("imagenet1k", f"EfficientNetV2{name}") for name in ("B0", "S", "M", "L")),
    *(("imagenet1k", f"CoAtNet{i}") for i in range(4)),
    *(("imagenet21k", f"EfficientNetV2{name}") for name in ("S", "M", "L", "XL")),
    *(("imagenet21k", f"CoAtNet{i}") for i in (2, 3, 4)),
]


def operations(recipe_name, model):
    """Floating-point operations of a whole training."""
    recipe = kev.recipes.get(recipe_name, model)
    macs = sum(
        kev.model_info(model, phase.image_size)["macs"] * (phase.stop_epoch - phase.start_epoch)
        for phase in recipe.phases
    )
    return 6 * macs * IMAGES[recipe_name]


LARGE = ("EfficientNetV2L", "EfficientNetV2XL", *(f"CoAtNet{i}" for i in range(3, 8)))
COPIES = 5  # weights, gradients, two slots of RMSprop or AdamW, averages; float32


def boundaries(model, size):
    """Numbers an image that flow from block to block: what rematerialization keeps."""
    row, side, total = variants.find(model), -(-size // 2), 0
    for stage in row.stages:
        side = -(-side // stage.stride)
        total += stage.repeats * side * side * stage.channels
    return total


def print_memory():
    """State by model, and what each image adds without and with rematerialization, in bfloat16."""
    print(
        "| model | million parameters | state, GiB | pixels | an image, MiB | rematerialized, MiB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for model in LARGE:
        info = kev.model_info(model)
        count, size = info["trainable_parameters"], info["image_size"]
        every = 2 * info["activations"] / 2**20
        kept = 2 * boundaries(model, size) / 2**20
        print(
            f"| {model} | {count / 1e6:,.0f} | {COPIES * 4 * count / 2**30:.1f} | {size} "
            f"| {every:.0f} | {kept:.1f} |"
        )


def main(args):
    if args.memory:
        return print_memory()
    chips = [int(n) for n in args.chips.split(",")]
    reached = {
        run: operations(*run) / (hours * 3600 * PAPER_PEAK) for run, hours in PAPER_HOURS.items()
    }
    usual = statistics.median(reached.values())
    titles = " | ".join(f"{n} chips, h" if n > 1 else "1 chip, h" for n in chips)
    print(f"| recipe | model | operations | of the peak | {titles} |")
    print("| --- | --- | ---: | ---: |" + " ---: |" * len(chips))
    for run in RUNS:
        total, part = operations(*run), reached.get(run, usual)
        source = "" if run in reached else " (median)"
        hours = " | ".join(f"{total / (n * args.peak * 1e12 * part) / 3600:,.2f}" for n in chips)
        print(f"| {run[0]} | {run[1]} | {total:.1e} | {100 * part:.0f} %{source} | {hours} |")


if __name__ == "__main__":
    main(parser.parse_args())
