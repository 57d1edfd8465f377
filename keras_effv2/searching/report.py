"""The report of a search: `report.html`, a page that stands alone, and `pareto.png`."""

import dataclasses
import html
import importlib.resources
import json
import shlex
import string
from collections.abc import Mapping

from keras_effv2 import files, recipes
from keras_effv2 import space as spaces
from keras_effv2.evaluation import wilson
from keras_effv2.evaluation.figures import png, source
from keras_effv2.searching import analysis, figures, records

SHOWN = 20  # of the best trials
_NO_FLAGS = ("name", "source", "phases", "seed")  # of a recipe's fields


def write(plan, result):
    """Writes `report.html` and `pareto.png` into the workdir.

    Args:
        plan: The `Plan` of the search.
        result: Its `Result`.
    """
    pareto = png(figures.pareto(result))
    files.write_whole(plan.workdir / "pareto.png", pareto)
    files.write_whole(plan.workdir / "report.html", _page(plan, result, pareto))


def _page(plan, result, pareto):
    template = importlib.resources.files(__package__).joinpath("report.html")
    baseline, best = plan.baseline, result.best
    effects = figures.main_effects(result.trials, plan.space.parameters())
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"Search of {plan.space.name!r} on {plan.data.name}"),
        conclusion=html.escape(result.conclusion),
        cards="".join(
            f'<div class="card"><b>{value}</b><span>{text}</span></div>'
            for value, text in _cards(result)
        ),
        pareto=source(pareto),
        running=source(png(figures.running_best(result.trials))),
        shown=min(SHOWN, len(result.trials)),
        count=len(result.trials),
        best="".join(map(_best_row, result.trials[:SHOWN])),
        final_text=html.escape(_final_text(plan, result)),
        final="".join(_final_rows(plan, result)),
        networks="".join(
            _network(title, v) for title, v in (("winner", best), ("baseline", baseline))
        ),
        mattered=html.escape(_mattered(plan, result)),
        effects=source(png(effects)),
        made=html.escape(_made(plan, result)),
        commands=html.escape(_commands(plan)),
    )


def _cards(result):
    """The numbers at the top: `(value, what it is)`, of the winner's first trial."""
    row = next(row for row in result.trials if row["name"] == result.best.name)
    return [
        (f"{row['accuracy']:.1%}", "validation accuracy of the winner's trial"),
        (f"{result.baseline['accuracy']:.1%}", "of the baseline's"),
        (f"{row['step_time']:.2f}", "time of a step / the baseline's"),
        (f"{row['parameters']:.2f}", "parameters / the baseline's"),
        (f"{len(result.trials)}", "networks trained"),
    ]


def _best_row(row):
    images = row.get("images", 0)
    low, high = wilson(round(row["accuracy"] * images), images) if images else (0.0, 0.0)
    reason = f" ({html.escape(row['reason'].split(':')[0])})" if row["reason"] else ""
    return (
        f"<tr><td>{row['name']}{reason}</td><td>{row['reward']:.4f}</td>"
        f"<td>{row['accuracy']:.1%}</td><td>{low:.1%} to {high:.1%}</td>"
        f"<td>{row['step_time']:.2f}</td><td>{row['parameters']:.2f}</td>"
        f'<td>{row["macs"] / 1e6:.1f}</td><td class="rows">{row["rows"]}</td></tr>'
    )


def _final_text(plan, result):
    if not result.final:
        return "There was none: no accuracy of this search is to be quoted."
    return (
        f"Every network was trained as long as the baseline takes for {plan.final_epochs} epochs, "
        "with seeds that were not used before, and evaluated once on the test split "
        f"({max(row.get('images', 0) for row in result.final)} pictures)."
    )


def _final_rows(plan, result):
    origin = plan.space.variant(plan.space.origin).name if plan.space.origin else None
    titles = {origin: "EfficientNet-V1's blocks", plan.baseline.name: "baseline"}
    titles[result.best.name] = "winner"
    for name, rows in analysis.by_network(result.final).items():
        told = analysis.with_result(rows)
        mean = f"{analysis.mean_accuracy(told)[0]:.1%}" if told else "-"
        seeds = " ".join(f"{r['accuracy']:.1%}" if r["reason"] is None else "none" for r in rows)
        yield (
            f"<tr><td>{titles[name]} ({name})</td><td>{seeds}</td><td>{mean}</td>"
            f"<td>{rows[0]['epochs']:.1f}</td><td>{rows[0]['step_time']:.2f}</td>"
            f"<td>{rows[0]['parameters']:.2f}</td></tr>"
        )


def _network(title, variant):
    rows = [f"<tr><td>0</td><td>Conv3x3</td><td>2</td><td>{variant.stem}</td><td>1</td></tr>"]
    for i, stage in enumerate(variant.stages, start=1):
        kind = "Fused-MBConv" if stage.block == "fused" else "MBConv"
        rows.append(
            f"<tr><td>{i}</td><td>{kind}{stage.expansion}, k{stage.kernel}x{stage.kernel}</td>"
            f"<td>{stage.stride}</td><td>{stage.channels}</td><td>{stage.repeats}</td></tr>"
        )
    last = len(variant.stages) + 1
    rows.append(
        f"<tr><td>{last}</td><td>Conv1x1, pooling, FC</td><td>-</td><td>{variant.top}</td>"
        "<td>1</td></tr>"
    )
    return (
        f"<h3>{title}: {variant.name}</h3><table><tr><th>stage</th><th>operator</th><th>stride</th>"
        f"<th>channels</th><th>layers</th></tr>{''.join(rows)}</table>"
    )


def _mattered(plan, result):
    found = analysis.correlations([row for row in result.trials if not analysis.is_pruned(row)])
    parts = [
        f"{name} {'undefined' if value is None else f'{value:+.2f}'}"
        for name, value in zip(("accuracy", "step time", "parameters"), found.values())
    ]
    text = f"Rank correlation of the reward with {', '.join(parts)}."
    if found["accuracy"] is not None and found["accuracy"] < analysis.HARDLY:
        text += " Accuracy hardly mattered here: trials were too easy or too noisy."
    shares = []
    for name in plan.space.parameters():
        if name.endswith("_block"):
            fused = [row["values"][name] == "fused" for row in result.trials[:SHOWN]]
            shares.append(f"{sum(fused) / len(fused):.0%}")
    text += f" Fused stages among the best {min(SHOWN, len(result.trials))}: {', '.join(shares)}."
    if plan.step_time == "macs":
        text += " Step times are multiply-adds: this search is not training-aware."
    return text + " Below, the mean reward of every choice with its standard error."


def _made(plan, result):
    study = records.read(plan.workdir / "search.json") or {}
    device = study.get("device", "")
    rows = [result.baseline, *result.trials, *result.confirmed, *result.final]
    seconds = sum(row["seconds"] for row in rows)
    clock = "Step times are ratios of wall time to the baseline's, step by step in turn."
    if plan.step_time == "macs":
        clock = "Step times are ratios of multiply-adds to the baseline's: nothing was timed."
    elif device.startswith("CPU"):
        clock = (
            "Step times are ratios of processor time to the baseline's, step by step in turn; that "
            "does not tell how well a network uses several cores."
        )
    return (
        f"{device}; {seconds / 60:.0f} minutes of training in all. {clock} Recipe "
        f"{plan.recipe.name}: {plan.recipe.epochs} epochs, batch {plan.recipe.batch_size}, "
        f"{plan.recipe.optimizer}, seed {plan.recipe.seed}. Trials train for equal "
        f"{'time' if plan.by_time else 'epochs'}. Versions: {json.dumps(study.get('versions', {}))}."
    )


def _commands(plan):
    """The lines that make the search again, train its winner and scale it."""
    data, winner = f"--data={plan.data.name}", f"--model={plan.workdir}/winner.json"
    own = plan.space.name if plan.space.name in spaces.SPACES else f"{plan.space.name}.json"
    flags = {
        "space": own,
        "trials": plan.trials,
        "sampler": plan.sampler,
        "seed": plan.recipe.seed,
        "pruner": plan.pruner or "none",
        "budget": "time" if plan.by_time else "epochs",
        "max_parameters": plan.max_parameters,
        "max_macs": plan.max_macs,
        "confirm": plan.confirm,
        "final_epochs": plan.final_epochs,
        "step_time": plan.step_time,
        **_recipe_flags(plan.recipe),
        "workdir": plan.workdir,
    }
    lines = (
        ["search", data, *(f"--{name}={value}" for name, value in flags.items())],
        ["train", data, winner, "--recipe=finetune", "--workdir=runs/winner"],
        ["scale", winner, "--step=1", "--output=larger.json"],
    )
    return "\n".join(shlex.join(["effv2", *line]) for line in lines)


def _recipe_flags(recipe):
    """A recipe as the row that it was made of, and what was changed of it."""
    name = recipe.name if recipe.name in recipes.RECIPES else "search"
    row, flags = recipes.get(name, "EfficientNetV2B0"), {"recipe": name}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if value != getattr(row, field.name) and field.name not in _NO_FLAGS:
            if isinstance(value, Mapping):
                value = ",".join(f"{key}={weight}" for key, weight in value.items())
            elif isinstance(value, tuple):
                value = ",".join(map(str, value))
            flags[f"recipe.{field.name}"] = value
    return flags
