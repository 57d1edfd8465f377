"""What the trainings of `layouts` say: orders beside the paper's, `layouts.csv`, `layouts.html`."""

import csv
import html
import io
import itertools

import numpy as np

from keras_effv2 import files
from keras_effv2.searching import figures
from keras_effv2.variants import model_info

# arXiv 2106.04803, section 2.2; equal numbers: no difference was claimed
PAPER = {
    "generalisation": {"CCCC": 0, "CCCT": 0, "CCTT": 1, "CTTT": 2, "ViT_REL": 3},
    "capacity": {"CCTT": 0, "CTTT": 0, "ViT_REL": 1, "CCCT": 2, "CCCC": 3},
}
LEVELS = 5  # training losses at which curves are read


def at_loss(curve, loss):
    """Validation accuracy where a training first had this loss, interpolated; None if never.

    Example:

    >>> at_loss([{"loss": 2.0, "val_accuracy": 0.0}, {"loss": 1.0, "val_accuracy": 0.5}], 1.5)
    0.25
    """
    for before, after in zip(curve, curve[1:]):
        if before["loss"] >= loss >= after["loss"] and before["loss"] > after["loss"]:
            part = (before["loss"] - loss) / (before["loss"] - after["loss"])
            step = after["val_accuracy"] - before["val_accuracy"]
            return before["val_accuracy"] + part * step
    return None


def common_losses(runs):
    """Training losses that every one of the trainings went through, from high to low."""
    high = min(run["curve"][0]["loss"] for run in runs)
    low = max(min(row["loss"] for row in run["curve"]) for run in runs)
    return [] if low >= high else list(np.linspace(high, low, LEVELS))


def generalisation(runs):
    """Layout -> mean validation accuracy at equal training losses, over fractions and seeds."""
    found = {}
    runs = [run for run in runs if run["reason"] is None]
    for _, group in itertools.groupby(
        sorted(runs, key=lambda run: run["fraction"]), key=lambda run: run["fraction"]
    ):
        group = list(group)
        for run in group:
            for loss in common_losses(group):
                value = at_loss(run["curve"], loss)
                if value is not None:
                    found.setdefault(run["layout"], []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def capacity(runs):
    """Layout -> mean training accuracy at the end, on the largest fraction."""
    largest = max(run["fraction"] for run in runs)
    found = {}
    for run in runs:
        if run["fraction"] == largest and run["reason"] is None:
            found.setdefault(run["layout"], []).append(run["curve"][-1]["accuracy"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def pairs(scores, ranks):
    """Pairs of layouts that the paper orders: `(better, worse, whether ours agree)`.

    Example:

    >>> pairs({"CCCC": 0.5, "CTTT": 0.6}, PAPER["generalisation"])
    [('CCCC', 'CTTT', False)]
    """
    ordered = sorted(scores, key=ranks.get)
    return [
        (a, b, scores[a] > scores[b])
        for a, b in itertools.combinations(ordered, 2)
        if ranks[a] < ranks[b]
    ]


def write(folder, study, rows):
    """Writes `layouts.csv` and `layouts.html`.

    Args:
        folder: The workdir.
        study: A `Study`.
        rows: Layout -> `Variant`.
    """
    table = io.StringIO()
    columns = ["layout", "fraction", "seed", "accuracy", "loss", "train_accuracy", "reason"]
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    for run in study.runs:
        last = run["curve"][-1] if run.get("curve") else {}
        writer.writerow(
            [run["layout"], run["fraction"], run["seed"], run["accuracy"]]
            + [last.get("loss"), last.get("accuracy"), run["reason"]]
        )
    files.write_whole(folder / "layouts.csv", table.getvalue())
    files.write_whole(folder / "layouts.html", _page(study, rows))


def _page(study, rows):
    base = model_info(next(iter(rows.values())))
    sizes = "".join(
        f"<tr><td>{name}</td><td>{info['trainable_parameters'] / 1e6:.2f}M</td>"
        f"<td>{info['macs'] / 1e6:.0f}M</td>"
        f"<td>{info['trainable_parameters'] / base['trainable_parameters']:.3f}</td>"
        f"<td>{study.generalisation.get(name, float('nan')):.1%}</td>"
        f"<td>{study.capacity.get(name, float('nan')):.1%}</td></tr>"
        for name, info in ((name, model_info(row)) for name, row in rows.items())
    )
    orders = ""
    for what, scores in (
        ("generalisation", study.generalisation),
        ("capacity", study.capacity),
    ):
        found = pairs(scores, PAPER[what])
        agree = sum(same for *_, same in found)
        cells = ", ".join(f"{a} over {b}: {'yes' if s else 'no'}" for a, b, s in found)
        orders += f"<p>{what}: {agree} of {len(found)} pairs as in the paper. {cells}</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Layouts</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}"
        "td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #d0d7de}"
        "td:first-child,th:first-child{text-align:left}img{max-width:100%}</style>"
        "<h1>Layouts at equal size</h1><p>Generalisation is validation accuracy where trainings had "
        "the same training loss. It misleads where a fast layout has that loss within its first "
        "hundreds of steps: the moving averages of its batch normalisation, of about 100 steps, are "
        "still those of the start; train longer, and compare where the curves below are level. "
        "Capacity is training accuracy after equally many steps on all "
        "pictures: a stand-in, the paper's is the fit of 300 million pictures.</p>"
        "<table><tr><th>layout</th><th>parameters</th><th>multiply-adds</th><th>of the first</th>"
        f"<th>generalisation</th><th>capacity</th></tr>{sizes}</table><h2>The paper's orders</h2>"
        f"{html.unescape(orders)}<h2>Validation accuracy by training loss</h2>"
        f'<img alt="Curves" src="{figures.source(figures.png(_curves(study.runs)))}"></html>'
    )


def _curves(runs):
    fractions = sorted({run["fraction"] for run in runs})
    figure = figures.new(9, 3.4 * len(fractions))
    axes = np.ravel(figure.subplots(len(fractions), 1, squeeze=False))
    names = list(dict.fromkeys(run["layout"] for run in runs))
    for axis, fraction in zip(axes, fractions):
        for run in runs:
            if run["fraction"] == fraction and run.get("curve"):
                color = f"C{names.index(run['layout'])}"
                first = run["seed"] == min(r["seed"] for r in runs)
                axis.plot(
                    [row["loss"] for row in run["curve"]],
                    [row["val_accuracy"] for row in run["curve"]],
                    color=color,
                    label=run["layout"] if first else None,
                )
        axis.invert_xaxis()
        axis.set(xlabel="training loss", ylabel="validation accuracy")
        axis.set_title(f"{fraction:.0%} of the pictures")
        axis.grid(alpha=0.3)
        axis.legend()
    return figure
