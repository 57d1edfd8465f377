"""The CoAtNet paper's comparison of layouts: which generalises, on how much data.

The same trainings in processes as a search has, of five fixed networks.
"""

import dataclasses
import os

import numpy as np

from keras_effv2 import files, needs, recipes
from keras_effv2.arguments import check_number
from keras_effv2.data import Data
from keras_effv2.phases import Phase
from keras_effv2.recipes import Recipe
from keras_effv2.searching import layouts_report, records
from keras_effv2.searching.plan import bare, check_recipe, check_splits
from keras_effv2.searching.runner import Runner
from keras_effv2.searching.trial import Job
from keras_effv2.training.state import as_json
from keras_effv2.variants import find, layout
from keras_effv2.variants.application import Variant
from keras_effv2.variants.layouts import LAYOUTS


@dataclasses.dataclass(frozen=True)
class Study:
    """What `layouts` returns.

    Attributes:
        runs: A dictionary for every training: `layout`, `fraction`, `seed`, `curve`, `accuracy`, ...
        generalisation: `(layout, other)` -> how much higher the validation accuracy of the first was,
            in -1..1: at the lowest training loss that both had after 500 steps, when the moving
            averages of batch normalisation no longer lag; mean over fractions and seeds. Two that
            had no such loss are not in it.
        capacity: Layout -> training accuracy at the end on all pictures, a stand-in.
    """

    runs: list
    generalisation: dict
    capacity: dict


@needs.naming("Comparing layouts")
def layouts(
    data: Data,
    workdir: str | os.PathLike,
    base: str | os.PathLike | Variant = "CoAtNet0",
    image_size: int = 64,
    recipe: Recipe | None = None,
    fractions: tuple[float, ...] = (0.1, 0.3, 1.0),
    seeds: int = 3,
    workers: int = 1,
    names: tuple[str, ...] = LAYOUTS,
) -> Study:
    """Trains layouts of one size on parts of the data and compares them at equal training loss.

    Augmentation and regularisation are off, as in the paper; every training makes equally many steps,
    on however few pictures. The same call goes on where an earlier one was stopped or killed.

    Args:
        data: A `Data` of `keras_effv2.data.load` with a validation split.
        workdir: Local folder of the study: runs/, layouts.csv, layouts.html.
        base: A CoAtNet of four stages, whose size all layouts have.
        image_size: Side in pixels, a multiple of 32 from 64.
        recipe: A `Recipe`; None: the recipe `search` for 20 epochs. What augments or regularises in
            it is turned off.
        fractions: Parts of the training pictures, in (0, 1].
        seeds: Trainings of each.
        workers: Trainings at a time.
        names: Layouts to compare: out of `"ViT_REL"`, `"CCCC"`, `"CCCT"`, `"CCTT"`, `"CTTT"`.

    Returns:
        A `Study`.

    Raises:
        ValueError: If an argument is out of range, or the workdir holds another study.
        SystemExit: With code 143 after SIGTERM, when the trainings have saved.

    Source:
        Dai et al. 2021, arXiv 2106.04803, section 2.2. The capacity of the paper is the fit of JFT,
        which no data here can stand for: `capacity` is named for what it is.

    Example:

        study = kev.layouts(kev.data.load("folder:photos"), "runs/layouts", seeds=1)
        print(study.generalisation["CCCC", "CTTT"])
    """
    folder = files.local(workdir, "The workdir")
    recipe = _plain(recipe or recipes.rescale(recipes.get("search"), {"epochs": 20}), image_size)
    _check(data, image_size, fractions, seeds, workers, names)
    own = dataclasses.replace(find(base), image_size=image_size)
    rows = {name: layout(name, own) for name in names}
    check_recipe(data, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    data, runner = bare(data), Runner(folder, workers)
    with runner.signals():
        runner.probe()
        _check_workdir(folder, data, recipe, rows, runner.device)
        runs = runner.in_threads(
            [
                _task(runner, data, recipe, rows[name], name, fraction, seed)
                for fraction in fractions
                for name in names
                for seed in range(seeds)
            ]
        )
    study = Study(runs, layouts_report.generalisation(runs), layouts_report.capacity(runs))
    layouts_report.write(folder, study, rows)
    return study


def _plain(recipe, image_size):
    """The recipe without what augments or regularises, at one size."""
    return dataclasses.replace(
        recipe,
        phases=(Phase(0, recipe.epochs, image_size=image_size, dropout=0.0, drop_path=0.0),),
        eval_size=0,
        crop_area=(1.0, 1.0),
        flip=False,
        autoaugment=False,
        erasing=0.0,
        cutout=0.0,
        label_smoothing=0.0,
        weight_decay=0.0,
        patience=0,
    )


def _check(data, image_size, fractions, seeds, workers, names):
    check_splits(data)
    if image_size < 64 or image_size % 32:
        raise ValueError(f"`image_size` is a multiple of 32 from 64. Received: {image_size}.")
    if not fractions or not all(0 < part <= 1 for part in fractions):
        raise ValueError(f"`fractions` are parts in (0, 1]. Received: {fractions}.")
    check_number("`seeds`", seeds, 1, whole=True)
    check_number("`workers`", workers, 1, whole=True)
    if not names or set(names) - set(LAYOUTS):
        raise ValueError(f"`names` are out of {', '.join(LAYOUTS)}. Received: {names}.")


def _check_workdir(folder, data, recipe, rows, device):
    """Refuses a workdir of another study."""
    ours = {
        "recipe": as_json(dataclasses.asdict(recipe)),
        "layouts": {name: records.one_line(row.stages) for name, row in rows.items()},
        "training data": data.train.fingerprint(),
        "validation data": data.validation.fingerprint(),
        "device": device,
    }
    records.check_same(folder / "layouts.json", ours, "another study", ("layouts",))


def _task(runner, data, recipe, row, name, fraction, seed):
    """One training: as many steps an epoch as all pictures make, on a part of them."""
    count = len(data.train)
    order = np.random.default_rng((seed, 1)).permutation(count)
    chosen = order[: max(1, round(fraction * count))]
    part = dataclasses.replace(data, train=data.train.select(np.sort(np.resize(chosen, count))))

    def task(slot):
        folder = runner.workdir / "runs" / f"{name}-{fraction:g}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        job = Job(
            folder=str(folder),
            variant=row,
            baseline=row,
            recipe=dataclasses.replace(recipe, seed=recipe.seed + seed),
            split="validation",
            by_time=False,
            exponents=(0.0, 0.0),
            known_step_time=1.0,
            step_time="macs",
            notes={"layout": name, "fraction": fraction},
            **runner.place(slot),
        )
        with files.locked(folder / ".claim"):
            return runner.train(job, part)

    return task
