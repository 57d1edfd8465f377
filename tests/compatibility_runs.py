"""The runs in tests/data/compatibility: what trained, how, and where each was stopped."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

from conftest import build_convnet, tiny_data, tiny_efficientnet_row

from keras_effv2 import processor, recipes, training
from keras_effv2.models import efficientnet_v2
from keras_effv2.phases import ramp
from keras_effv2.training import state


@dataclasses.dataclass(frozen=True)
class Run:
    """A training of two epochs of six steps.

    Attributes:
        build: Builds the network.
        recipe: Its recipe.
        stop: Optimizer steps after which it was sent SIGTERM.
        tolerance: Largest difference of a weight, relative to the largest of its array, at the end
            on another machine: pixels may be rounded to the other side where pictures are changed.
    """

    build: Callable
    recipe: recipes.Recipe
    stop: int
    tolerance: float

    def train(self, workdir, **options):
        data = tiny_data()
        return training.train(
            self.build, data, self.recipe, workdir, "one", progress=False, **options
        )


def _build_efficientnet():
    return efficientnet_v2.build(
        tiny_efficientnet_row(), weights=None, classes=4, input_shape=(32, 32, 3)
    )


_ramp = functools.partial(ramp, 2, 2, dropout=(0.1, 0.4), drop_path=(0.0, 0.2))
_changed = _ramp(image_size=(32, 48), randaugment=(2, 8), mixup=(0, 0.2), cutmix=(0, 0.2))
_recipe = functools.partial(recipes.Recipe, source="tests", epochs=2, batch_size=8)

RUNS = {
    "sgd": Run(
        _build_efficientnet,
        _recipe(
            "sgd",
            learning_rate=0.02,
            optimizer="sgd",
            weight_decay=1e-4,
            ema=0.9,
            clip=1.0,
            phases=_ramp(),
            crop_area=(1.0, 1.0),
            eval_size=32,
        ),
        stop=9,
        tolerance=1e-4,
    ),
    "adamw": Run(
        build_convnet,
        _recipe(
            "adamw", learning_rate=1e-3, weight_decay=1e-2, patience=5, phases=_changed, erasing=0.5
        ),
        stop=4,
        tolerance=1e-2,
    ),
    "rmsprop": Run(
        build_convnet,
        _recipe(
            "rmsprop",
            learning_rate=1e-3,
            optimizer="rmsprop",
            weight_decay=1e-5,
            label_smoothing=0.1,
            warmup_epochs=0.5,
            autoaugment=True,
            phases=_changed,
        ),
        stop=8,
        tolerance=1e-2,
    ),
}


def cpu():
    """Model of the processor: kernels choose their instructions, and so their rounding, by it."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return sorted({line.partition(":")[2].strip() for line in lines if "model name" in line})


def is_of_here(then):
    """Whether a run, by its description, was made on a machine that rounds as this one.

    9ffd7d8 wrote the processor's model, by which those of clouds cannot be told apart; it had AVX2
    at most, and oneDNN was off.
    """
    kernels = (processor.instructions(), processor.onednn())
    here = state.machine()
    named = [key for key in here if key in then["machine"]]
    same = all(then["machine"][key] == here[key] for key in named)
    return same and then["cpu"] == cpu() and kernels == ("AVX2", "off")
