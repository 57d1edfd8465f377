"""Fine-tunes a network on your own pictures: a folder with one sub-folder a class.

    python examples/finetune_folder.py photos --workdir runs/mine

Damaged pictures are named and left out, size, batch and length follow from the data, and the same
command goes on after an interruption. The other finetune_*.py call `main` with their data set.
"""

import argparse
import dataclasses
import pathlib

from absl import logging

import keras_effv2 as kev

logging.set_verbosity(logging.INFO)  # how long it will take, and how it goes


def parse(data=None):
    parser = argparse.ArgumentParser(description="Fine-tunes a network.")
    if data is None:
        parser.add_argument("folder", nargs="?", help="with one sub-folder a class")
    parser.add_argument("--data", default=data, help="folder:PATH, tfds:NAME or digits")
    parser.add_argument("--model", default="EfficientNetV2B0", choices=kev.list_models())
    parser.add_argument("--weights", default="default", help="tag or path")
    parser.add_argument("--workdir", help="default: runs/ and the name of the data")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noflip", action="store_true", help="for letters and digits")
    parser.add_argument("--smoke", action="store_true", help="a minute on digits, random weights")
    args = parser.parse_args()
    if getattr(args, "folder", None):
        args.data = f"folder:{args.folder}"
    if not args.data and not args.smoke:
        parser.error("give a folder, or --smoke")
    if not args.workdir:
        name = pathlib.Path((args.data or "").rpartition(":")[2]).resolve().name
        args.workdir = f"runs/{'smoke' if args.smoke else name}"
    return args


def main(args):
    data = kev.data.load("digits" if args.smoke else args.data)  # the split is no seed's
    if args.smoke:
        data = dataclasses.replace(data, train=data.train.select(range(64)))
        args.weights, args.epochs, args.image_size, args.noflip = None, 1, 32, True
    result, judged = kev.finetune(
        args.model,
        data,
        args.workdir,
        weights=args.weights,
        epochs=args.epochs,
        image_size=args.image_size,
        flip=not args.noflip,
        seed=args.seed,
        hub=not args.smoke,
    )
    low, high = judged.top1_interval
    print(f"{judged.split}: {judged.top1:.1%} ({low:.1%} to {high:.1%}) after {result.steps} steps")
    print(f"report: {args.workdir}/report.html")


if __name__ == "__main__":
    main(parse())
