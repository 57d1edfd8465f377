"""Search a space of networks for the best accuracy for its time and size; resumes.

The same command on other machines joins in: give them the same workdir and --storage.
"""

from keras_effv2 import space
from keras_effv2.cli import flags, settings

USAGE = "--data=... --workdir=... [FLAGS]"


def define(values):
    flags.output_format(values)
    flags.data(values)
    flags.path(values, "workdir", "Folder of the search; one found there is resumed.", local=True)
    flags.string(
        values,
        "space",
        "small",
        f"What networks are drawn from: {', '.join(space.SPACES)}, or the .json file of a space.",
    )
    flags.integer(values, "trials", 50, "Networks to train in all.", 1)
    samplers = ["tpe", "random", "nsga2"]
    flags.choice(values, "sampler", "tpe", samplers, "How networks are drawn.")
    flags.string(values, "recipe", "search", "Recipe; its fields: --recipe.FIELD=VALUE.")
    flags.strings(values, settings.DOTTED["recipe"], "What --recipe.NAME=VALUE stands for.")
    flags.integer(values, "seed", 0, "Seed.", 0, (1 << 32) - 20)
    flags.integer(values, "workers", 1, "Networks to train at a time on this machine.", 1, 64)
    meaning = "asha: trials that fall behind end after half or three quarters of their epochs."
    flags.choice(values, "pruner", "none", ["none", "asha"], meaning)
    flags.string(values, "storage", None, "URL of a database for the study; default: a file.")
    meaning = "Whether trials train for equal epochs, as the paper's, or for equal time."
    flags.choice(values, "budget", "epochs", ["epochs", "time"], meaning)
    meaning = "Largest network, in parameters of the baseline (default 2)."
    flags.number(values, "max_parameters", meaning, 0.01, 1e6)
    meaning = "Largest network, in multiply-adds of the baseline (default 2)."
    flags.number(values, "max_macs", meaning, 0.01, 1e6)
    flags.integer(values, "confirm", 5, "How many of the best get two further seeds.", 0)
    meaning = "Epochs of the last comparison; default: twice the recipe's; 0: none."
    flags.integer(values, "final_epochs", None, meaning, 0)
    meaning = "How step times are had; macs: multiply-adds instead, not training-aware."
    flags.choice(values, "step_time", "measured", ["measured", "macs"], meaning)
    flags.boolean(values, "keep_models", False, "Keep the model.keras of every trial.")


def run(values, _):
    flags.require(values, "workdir", "data")
    if values.space not in space.SPACES and not values.space.endswith(".json"):
        known = f"spaces: {', '.join(space.SPACES)}, or a .json file"
        raise flags.UsageError(f"there is no space {values.space!r}; {known}")
    chosen = space.find(values.space)
    recipe = settings.recipe(values.recipe, values.recipe_field, "EfficientNetV2B0")
    if recipe.seed not in (0, values.seed):
        raise flags.UsageError(
            f"a search has one seed: give --seed={recipe.seed} in place of --recipe.seed"
        )
    if not values["recipe"].present and values.space == "tiny" and not values.recipe_field:
        recipe = None  # three epochs
    flags.check_data(values)

    from keras_effv2 import searching

    result = searching.search(
        flags.load_data(values),
        values.workdir,
        space=chosen,
        trials=values.trials,
        sampler=values.sampler,
        recipe=recipe,
        seed=values.seed,
        workers=values.workers,
        storage=values.storage,
        pruner=None if values.pruner == "none" else values.pruner,
        budget=values.budget,
        max_parameters=2.0 if values.max_parameters is None else values.max_parameters,
        max_macs=2.0 if values.max_macs is None else values.max_macs,
        confirm=values.confirm,
        step_time=values.step_time,
        final_epochs=values.final_epochs,
        keep_models=values.keep_models,
    )
    summary = {
        "best": result.best.name,
        "conclusion": result.conclusion,
        "trials": result.trials,
        "baseline": result.baseline,
        "confirmed": result.confirmed,
        "final": result.final,
    }
    lines = [
        f"{row['reward']:.4f}  {row['accuracy']:6.1%}  step {row['step_time']:5.2f}  size "
        f"{row['parameters']:5.2f}  {row['name']}  {row['rows']}"
        for row in result.trials[:10]
    ]
    lines += [
        result.conclusion,
        f"network: {values.workdir}/winner.json, report: {values.workdir}/report.html",
    ]
    flags.show(values, summary, "\n".join(lines))
