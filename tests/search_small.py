"""A small search as a script, for tests that kill it: python tests/search_small.py WORKDIR ..."""

import json
import sys

from conftest import tiny_data
from test_searching import RECIPE, small_space

from keras_effv2 import searching

if __name__ == "__main__":
    options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    settings = {"trials": 3, "confirm": 0, "final_epochs": 0, "step_time": "macs", **options}
    searching.search(
        tiny_data(96, 32),
        sys.argv[1],
        space=small_space(),
        recipe=RECIPE,
        progress=False,
        sampler="random",
        **settings,
    )
