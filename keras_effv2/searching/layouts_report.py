"""What the trainings of `layouts` say: orders beside the paper's, `layouts.csv`, `layouts.html`."""

import csv
import io
import itertools

import numpy as np

from keras_effv2 import files
from keras_effv2.evaluation.figures import new, png, source
from keras_effv2.variants import model_info

# arXiv 2106.04803, section 2.2; equal numbers: no difference was claimed
PAPER = {
    "generalisation": {"CCCC": 0, "CCCT": 0, "CCTT": 1, "CTTT": 2, "ViT_REL": 3},
    "capacity": {"CCTT": 0, "CTTT": 0, "ViT_REL": 1, "CCCT": 2, "CCCC": 3},
}
NOTHING = "Nothing to compare: train for more epochs, until the slower layouts have learnt more."
# steps until moving averages of momentum 0.99, those of the networks here, hold no more than 1 % of the
# start: five times their memory of 100 steps
SETTLED = 500


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


def settled(run):
    """The epochs of a training whose validation the start no longer spoils."""
    steps = run["steps"] / len(run["curve"])  # of an epoch
    return [row for i, row in enumerate(run["curve"], start=1) if i * steps >= SETTLED]


def difference(curve, other):
    """Validation accuracy of one training over another, at the lowest training loss of both.

    Returns:
        A difference in -1..1; None where one has no epochs, or had passed that loss before them.
    """
    if not curve or not other:
        return None
    loss = max(min(row["loss"] for row in rows) for rows in (curve, other))
    ours, theirs = at_loss(curve, loss), at_loss(other, loss)
    return None if ours is None or theirs is None else ours - theirs


def generalisation(runs):
    """Two layouts -> mean `difference` over fractions and seeds; without those that have none."""
    curves = {
        (run["fraction"], run["seed"], run["layout"]): settled(run)
        for run in runs
        if run["reason"] is None
    }
    names, found = list(dict.fromkeys(run["layout"] for run in runs)), {}
    for two in itertools.combinations(names, 2):
        for fraction, seed in sorted({key[:2] for key in curves}):
            values = difference(*(curves.get((fraction, seed, name)) for name in two))
            if values is not None:
                found.setdefault(two, []).append(values)
    return {two: float(np.mean(values)) for two, values in found.items()}


def capacity(runs):
    """Layout -> mean training accuracy at the end, on the largest fraction."""
    largest = max(run["fraction"] for run in runs)
    found = {}
    for run in runs:
        if run["fraction"] == largest and run["reason"] is None:
            found.setdefault(run["layout"], []).append(run["curve"][-1]["accuracy"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def pairs(differences, ranks):
    """Pairs of layouts that the paper orders: `(better, worse, by how much it was so here)`.

    Example:

    >>> pairs({("CTTT", "CCCC"): 0.125}, PAPER["generalisation"])
    [('CCCC', 'CTTT', -0.125)]
    """
    found = []
    for (a, b), value in differences.items():
        if ranks[a] < ranks[b]:
            found.append((a, b, value))
        elif ranks[a] > ranks[b]:
            found.append((b, a, -value))
    return sorted(found, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _by_two(scores):
    """The differences of scores, two by two."""
    return {(a, b): scores[a] - scores[b] for a, b in itertools.combinations(scores, 2)}


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
        f"<td>{study.capacity.get(name, float('nan')):.1%}</td></tr>"
        for name, info in ((name, model_info(row)) for name, row in rows.items())
    )
    orders = ""
    for what, differences in (
        ("generalisation", study.generalisation),
        ("capacity", _by_two(study.capacity)),
    ):
        found = pairs(differences, PAPER[what])
        agree = sum(value > 0 for *_, value in found)
        cells = ", ".join(f"{a} over {b}: {100 * value:+.1f} points" for a, b, value in found)
        orders += (
            f"<p>{what}: {agree} of {len(found)} pairs as in the paper. {cells or NOTHING}</p>"
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Layouts</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}"
        "td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #d0d7de}"
        "td:first-child,th:first-child{text-align:left}img{max-width:100%}</style>"
        "<h1>Layouts at equal size</h1><p>Generalisation compares two trainings of one seed and one "
        "part of the pictures: their validation accuracy at the lowest training loss that both had, "
        f"after the first {SETTLED} steps, in which the moving averages of batch normalisation are "
        "still those of the start. A fast layout that had passed that loss before is not compared. "
        "Capacity is training accuracy after equally many steps on all pictures: a stand-in, the "
        "paper's is the fit of 300 million pictures.</p>"
        "<table><tr><th>layout</th><th>parameters</th><th>multiply-adds</th><th>of the first</th>"
        f"<th>capacity</th></tr>{sizes}</table><h2>The paper's orders</h2>"
        f"{orders}<h2>Validation accuracy by training loss</h2>"
        f'<img alt="Curves" src="{source(png(_curves(study.runs)))}"></html>'
    )


def _curves(runs):
    fractions = sorted({run["fraction"] for run in runs})
    figure = new(9, 3.4 * len(fractions))
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
