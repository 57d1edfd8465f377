"""The search itself: the baseline, the trials, the best once more, the last comparison, the report."""

import dataclasses
import os

import numpy as np
from absl import logging

from keras_effv2 import files, needs, recipes, variants
from keras_effv2 import space as spaces
from keras_effv2.data import Data
from keras_effv2.searching import analysis, records, report
from keras_effv2.searching.engine import Engine
from keras_effv2.searching.plan import Plan, bare, check
from keras_effv2.searching.reward import EXPONENTS
from keras_effv2.searching.runner import Runner
from keras_effv2.searching.workers import Workers
from keras_effv2.variants.efficientnet_v2 import Variant

CONFIRM_SEEDS, FINAL_SEEDS = (1, 2), (11, 12, 13)  # added to the seed of the search


@dataclasses.dataclass(frozen=True)
class Result:
    """What `search` returns.

    Attributes:
        best: The winner, a `Variant`; `winner.json` in the workdir.
        trials: A dictionary for every trial, best first: `name`, `rows`, `reward`, `accuracy`,
            `step_time`, `parameters`, ... as in `result.json`.
        baseline: The same of the baseline.
        confirmed: The same of the trainings with further seeds.
        final: The same of the last comparison, evaluated on test; empty without a test split.
    """

    best: Variant
    trials: list
    baseline: dict
    confirmed: list
    final: list

    @property
    def conclusion(self) -> str:
        """What came out, in a sentence; only the last comparison has a figure to quote."""
        return analysis.conclusion(self.best.name, self.baseline["name"], self.final, self.trials)


@needs.naming("A search")
def search(
    data: Data,
    workdir: str | os.PathLike,
    space: str | os.PathLike | spaces.Space = "small",
    trials: int = 50,
    sampler: str = "tpe",
    recipe: recipes.Recipe | None = None,
    seed: int = 0,
    workers: int = 1,
    storage: str | None = None,
    pruner: str | None = None,
    budget: str = "epochs",
    max_parameters: float = 2.0,
    max_macs: float = 2.0,
    confirm: int = 5,
    exponents: tuple[float, float] = EXPONENTS,
    step_time: str = "measured",
    final_epochs: int | None = None,
    keep_models: bool = False,
    progress: bool = True,
) -> Result:
    """Searches a space for the network with the best accuracy for its training time and size.

    Every trial trains one network in a process of its own; the same call goes on where an earlier
    one was stopped or killed. The best are trained again with further seeds, the winner and the
    baselines for the same time with seeds not used before, and only these see the test split.

    Args:
        data: A `Data` of `keras_effv2.data.load` with a validation split.
        workdir: Local folder of the search: search.json, study.db, trials/, trials.csv,
            winner.json, final/, report.html, pareto.png. Several machines share it.
        space: `"tiny"`, `"small"`, `"b0"`, `"b4"`, a `keras_effv2.space.Space`, or the `.json` file
            of one.
        trials: Different networks to train in all, those that are done included.
        sampler: `"tpe"` learns from the trials so far, after ten random ones; `"random"`;
            `"nsga2"` spreads along the front of accuracy and step time.
        recipe: A `Recipe` for all trials; None: the recipe `search` (three epochs for `"tiny"`).
        seed: Of the draws, the order of pictures and the augmentation. With one worker the same
            seed draws the same networks.
        workers: Trials at a time on this machine, each on a GPU of its own where there are some.
        storage: URL of a database for the study, such as `"postgresql+psycopg2://HOST/NAME"`;
            None: SQLite in the workdir.
        pruner: None, or `"asha"`: a trial ends after half or three quarters of its epochs if its
            reward is then below that of the better half of the trials that came so far. It keeps
            that reward, and cannot win.
        budget: `"epochs"`, as the paper: every trial trains for the recipe's epochs, and step time
            counts in the reward. `"time"`: every trial trains as long as the baseline takes, to
            whole epochs, and step time counts no further.
        max_parameters: Largest network, in trainable parameters of the baseline.
        max_macs: Largest network, in multiply-adds of the baseline.
        confirm: How many of the best are trained with two further seeds; 0: the best trial wins.
        exponents: `(w, v)` of `accuracy * step_time**w * parameters**v`.
        step_time: `"measured"`, or `"macs"`: multiply-adds instead, where nothing can be timed;
            the search is then not training-aware.
        final_epochs: Epochs of the baseline in the last comparison, the others train as long; None:
            twice the recipe's; 0: no last comparison.
        keep_models: Whether every trial's `model.keras` stays.
        progress: Whether to show a progress bar on stderr.

    Returns:
        A `Result`.

    Raises:
        ValueError: If an argument is out of range, the data has no validation split, or the workdir
            holds another search; says what differs.
        ImportError: If Optuna is not installed.
        RuntimeError: If a trial fails by its settings, the baseline or all trials diverge, or a
            worker is on another device.
        SystemExit: With code 143 after SIGTERM, when the trainings have saved.

    Source:
        Tan & Le 2021, arXiv 2104.00298, section 3.3.

    Example:

        data = kev.data.load("folder:photos")
        result = kev.search(data, "runs/search", space="small", trials=50)
        model = kev.efficientnet_v2.build(result.best, classes=len(data.class_names))
    """
    folder = files.local(workdir, "The workdir")
    chosen = spaces.find(space)
    if recipe is None:
        recipe = recipes.get("search")
        recipe = recipes.rescale(recipe, {"epochs": 3}) if chosen.name == "tiny" else recipe
    recipe = dataclasses.replace(recipe, seed=seed)
    check(data, chosen, trials, sampler, recipe, workers, pruner, budget, confirm, step_time)
    plan = Plan(
        data=bare(data),
        workdir=folder,
        space=chosen,
        trials=trials,
        sampler=sampler,
        recipe=recipe,
        workers=workers,
        pruner=pruner,
        by_time=budget == "time",
        max_parameters=max_parameters,
        max_macs=max_macs,
        confirm=confirm,
        exponents=exponents,
        step_time=step_time,
        final_epochs=2 * recipe.epochs if final_epochs is None else final_epochs,
        keep_models=keep_models,
        progress=progress,
    )
    plan.workdir.mkdir(parents=True, exist_ok=True)
    study = plan.study()
    engine = Engine(plan.workdir, chosen, sampler, seed, storage, study, plan.fits)
    return _Search(plan, engine).run()


# --------------------------------------------------------------------------------------- search


class _Search:
    """A search, part by part."""

    def __init__(self, plan, engine):
        self.plan, self.engine = plan, engine
        self.runner = Runner(plan.workdir, plan.workers)

    def run(self):
        plan = self.plan
        with self.runner.signals():
            self.runner.probe()
            plan.check_workdir(self.runner.device)
            baseline = self._baseline()
            self.engine.remember(records.results(plan.workdir))
            runs = plan.confirm * len(CONFIRM_SEEDS)
            runs += 3 * len(FINAL_SEEDS) * bool(plan.final_epochs)
            Workers(plan, self.engine, self.runner).run(baseline, runs)
            found = records.best_first(records.results(plan.workdir))
            whole = [row for row in analysis.with_result(found) if row["reward"] > 0]
            if not whole:
                raise RuntimeError(
                    f"None of the {len(found)} trials has learnt anything; the first says: "
                    f"{found[0]['reason'] or 'no picture was right'}."
                )
            confirmed = self._confirm(whole)
            best = _winner(whole, confirmed)
            winner = plan.space.variant(plan.space.rows(best["values"]))
            variants.save_variant(winner, plan.workdir / "winner.json")
            final = self._final(winner, best)
        result = Result(winner, found, baseline, confirmed, final)
        report.write(plan, result)
        return result

    def _baseline(self):
        plan = self.plan
        notes = {"number": -1, "values": plan.space.values(plan.space.baseline)}
        folder = plan.workdir / "baseline"

        def task(slot):
            job = plan.job(self.runner.place(slot), folder, plan.baseline, notes=notes)
            with files.locked(folder.with_name(".baseline.lock")):
                return self.runner.train(job, plan.data)

        (result,) = self.runner.in_threads([task])
        if result["reason"] is not None:
            raise RuntimeError(
                f"The baseline has no result ({result['reason']}), and trials are trained alike: "
                "give another recipe, and another workdir."
            )
        return result

    # ---- the best once more

    def _confirm(self, whole):
        """Trains the best with further seeds."""
        plan = self.plan
        tasks = []
        for row in whole[: plan.confirm]:
            variant = plan.space.variant(plan.space.rows(row["values"]))
            for seed in CONFIRM_SEEDS:
                tasks.append(self._seeded("confirm", variant, seed, row["step_time"], {}))
        return self.runner.in_threads(tasks)

    def _final(self, winner, best):
        """Trains winner and baselines for the same time and evaluates them on test."""
        plan = self.plan
        if not plan.final_epochs:
            return []
        if plan.data.test is None:
            logging.warning("%s has no test split: there is no last comparison.", plan.data.name)
            return []
        recipe = recipes.rescale(plan.recipe, {"epochs": plan.final_epochs})
        changes = {"recipe": recipe, "split": "test", "by_time": True}
        rivals = {
            winner.name: (winner, best["step_time"]),
            plan.baseline.name: (plan.baseline, 1.0),
        }
        if plan.space.origin:
            origin = plan.space.variant(plan.space.origin)
            rivals.setdefault(origin.name, (origin, None))
        return self.runner.in_threads(
            [
                self._seeded("final", variant, seed, ratio, changes)
                for variant, ratio in rivals.values()
                for seed in FINAL_SEEDS
            ]
        )

    def _seeded(self, part, variant, seed, ratio, changes):
        """A task: one network trained with one more seed."""
        plan = self.plan
        seed = plan.recipe.seed + seed
        recipe = dataclasses.replace(changes.get("recipe", plan.recipe), seed=seed)
        folder = plan.workdir / part / f"{variant.name}-{recipe.epochs}-{seed}"

        def task(slot):
            job = plan.job(
                self.runner.place(slot),
                folder,
                variant,
                **{**changes, "recipe": recipe, "known_step_time": ratio},
            )
            folder.mkdir(parents=True, exist_ok=True)
            with files.locked(folder / ".claim"):
                return self.runner.train(job, plan.data)

        return task


def _winner(whole, confirmed):
    """The trial with the best mean reward over its seeds; only confirmed ones if there are some."""
    seeds = {}
    for row in confirmed:
        seeds.setdefault(row["name"], []).append(row["reward"])
    candidates = [row for row in whole if row["name"] in seeds] or whole[:1]
    return max(candidates, key=lambda row: np.mean([row["reward"], *seeds.get(row["name"], [])]))
