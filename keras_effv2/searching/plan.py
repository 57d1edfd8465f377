"""What a search was asked for, and whether a workdir holds the same."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from keras_effv2 import recipes
from keras_effv2 import space as spaces
from keras_effv2.arguments import check_number
from keras_effv2.data.split import Data, check_data
from keras_effv2.searching import records
from keras_effv2.searching.engine import SAMPLERS
from keras_effv2.searching.pruning import PRUNERS
from keras_effv2.searching.trial import Job
from keras_effv2.training.state import as_json

BUDGETS = ("epochs", "time")
STEP_TIMES = ("measured", "macs")
FORMAT = 1


def check_splits(data):
    """Refuses data without pictures to train on, or to compare networks on."""
    check_data(data)
    if data.train is None or data.validation is None:
        raise ValueError(
            f"{data.name} has no {'training' if data.train is None else 'validation'} split, on "
            "which networks are compared: load it with validation=0.1."
        )


def check(data, space, trials, sampler, recipe, workers, pruner, budget, confirm, step_time):
    """Refuses what cannot be searched."""
    check_splits(data)
    for name, value, known in (
        ("sampler", sampler, SAMPLERS),
        ("budget", budget, BUDGETS),
        ("step_time", step_time, STEP_TIMES),
        ("pruner", pruner, PRUNERS),
    ):
        if value not in known:
            raise ValueError(
                f"`{name}` is one of {', '.join(map(str, known))}. Received: {value!r}."
            )
    for name, value, least in (
        ("trials", trials, 1),
        ("workers", workers, 1),
        ("confirm", confirm, 0),
    ):
        check_number(f"`{name}`", value, least, whole=True)
    if pruner and sampler == "nsga2":
        raise ValueError(
            'pruner="asha" compares rewards, nsga2 draws by accuracy and step time apart. Give '
            'sampler="tpe" or "random", or pruner=None.'
        )
    if trials > space.count():
        raise ValueError(
            f"The space {space.name!r} has {space.count()} networks. Received: trials={trials}."
        )
    small = [p.image_size for p in recipe.phases if (p.image_size or 64) < spaces.SMALLEST_IMAGE]
    if small or 0 < recipe.eval_size < spaces.SMALLEST_IMAGE:
        raise ValueError(
            f"A search trains on {spaces.SMALLEST_IMAGE} pixels or more, below the last stages see "
            f"single pixels. The recipe has {min([*small, recipe.eval_size or 64])}: leave the sizes "
            "out, small pictures are scaled up."
        )
    check_recipe(data, recipe)


def check_recipe(data, recipe):
    """Refuses a recipe that networks cannot be compared by."""
    if recipe.precision == "auto":
        raise ValueError(
            "Networks are compared in one precision. Received a recipe with precision='auto': say "
            "'float32' or 'mixed_bfloat16'."
        )
    data.train.steps(recipe.batch_size)  # of a batch that is too large


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of `search`, checked, and what follows from them."""

    data: Data
    workdir: pathlib.Path
    space: spaces.Space
    trials: int
    sampler: str
    recipe: recipes.Recipe
    workers: int
    pruner: str | None
    by_time: bool
    max_parameters: float
    max_macs: float
    confirm: int
    exponents: tuple[float, float]
    step_time: str
    final_epochs: int
    keep_models: bool
    progress: bool

    def __post_init__(self):
        check_number("`final_epochs`", self.final_epochs, 0, whole=True)
        check_number("`max_parameters`", self.max_parameters, 0)
        check_number("`max_macs`", self.max_macs, 0)
        pair = np.asarray(self.exponents)
        # NaN is not below 0 either
        if pair.shape != (2,) or pair.dtype.kind not in "if" or not np.all(pair <= 0):
            raise ValueError(
                "`exponents` are two numbers up to 0, of step time and of parameters. Received: "
                f"{self.exponents!r}."
            )

    @property
    def baseline(self):
        """The network that the others are compared with."""
        return self.space.variant(self.space.baseline)

    def job(self, place, folder, variant, **changes):
        """A training in a folder; `place` is where, `changes` what differs from a trial's."""
        common = {
            "recipe": self.recipe,
            "split": "validation",
            "by_time": self.by_time,
            "known_step_time": None,
        }
        return Job(
            folder=str(folder),
            variant=variant,
            baseline=self.baseline,
            exponents=self.exponents,
            step_time=self.step_time,
            keep_models=self.keep_models,
            **place,
            **{**common, **changes},
        )

    def fits(self, variant):
        """Why a network is not tried, or None."""
        classes = len(self.data.class_names)
        return spaces.too_large(variant, self.baseline, classes, self.max_parameters, self.max_macs)

    def description(self):
        """What has to be the same for trials to be compared: a dictionary that JSON can hold."""
        content = {
            "format": FORMAT,
            "space": dataclasses.asdict(self.space),
            "recipe": dataclasses.asdict(self.recipe),
            "budget": "time" if self.by_time else "epochs",
            "exponents": self.exponents,
            "step_time": self.step_time,
            "pruner": self.pruner,
            "max_parameters": self.max_parameters,
            "max_macs": self.max_macs,
            "data": self.data.name,
            "classes": self.data.class_names,
            "training data": self.data.train.fingerprint(),
            "validation data": self.data.validation.fingerprint(),
        }
        return as_json(content)

    def study(self):
        """Name of the study: two searches in one database do not meet."""
        text = json.dumps(self.description(), sort_keys=True)
        return f"search-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def check_workdir(self, device):
        """Refuses a workdir of another search; writes `search.json` in a fresh one."""
        ours = {**self.description(), "device": device}
        records.check_same(self.workdir / "search.json", ours, "another search")


def bare(data):
    """The data without what TensorFlow has made of it in this process: it goes to others."""

    def fresh(split):
        return None if split is None else split.select(np.arange(len(split)))

    return dataclasses.replace(
        data, train=fresh(data.train), validation=fresh(data.validation), test=fresh(data.test)
    )
