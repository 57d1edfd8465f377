"""Searches a network for your pictures, scales it and trains the winner.

    python examples/search_a_network.py --data folder:photos --workdir runs/search

Every trial trains one network; the same command goes on where it was stopped, and on other machines
that share the folder it joins in. report.html in the workdir shows what was found. The `if` at the
end is needed: the trainings are processes that read this file again.
"""

import argparse
import dataclasses
import pathlib

from absl import logging

import keras_effv2 as kev
from keras_effv2 import recipes

logging.set_verbosity(logging.INFO)  # what a trial costs, and how it goes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--workdir", default="runs/search", type=pathlib.Path)
    parser.add_argument("--trials", default=50, type=int)
    parser.add_argument("--smoke", action="store_true", help="two short trials on digits")
    arguments = parser.parse_args()

    data = kev.data.load(arguments.data)
    settings = {"space": "small", "trials": arguments.trials}
    if arguments.smoke:
        data = dataclasses.replace(data, train=data.train.select(range(256)))
        short = {"epochs": 1, "batch_size": 256, "flip": False}
        settings = {
            "space": "tiny",
            "trials": 2,
            "recipe": recipes.rescale(recipes.get("search"), short),
            "step_time": "macs",  # no timing: it takes longer than such a training
            "confirm": 0,
            "final_epochs": 0,
        }
    result = kev.search(data, arguments.workdir, **settings)
    print(result.conclusion)
    print(f"report: {arguments.workdir / 'report.html'}, rows: {arguments.workdir / 'winner.json'}")

    larger = kev.scale(result.best, 1)
    parameters = kev.model_info(larger, classes=len(data.class_names))["parameters"]
    print(f"a step larger: {larger.name}, {parameters:,} parameters at {larger.image_size} px")

    model = kev.efficientnet_v2.build(result.best, classes=len(data.class_names))
    print(f"the winner: {model.count_params():,} parameters, ready for kev.train")


if __name__ == "__main__":
    main()
