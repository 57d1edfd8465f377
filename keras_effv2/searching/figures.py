"""The figures of a search's report."""

import numpy as np

from keras_effv2.evaluation.figures import new
from keras_effv2.searching import analysis


def pareto(result):
    """Accuracy against step time, the front drawn, baseline and winner marked."""
    figure = new(8, 5)
    axis = figure.subplots()
    rows = analysis.with_result(result.trials)
    times, accuracies = ([row[key] for row in rows] for key in ("step_time", "accuracy"))
    sizes = [row["parameters"] for row in rows]
    points = axis.scatter(times, accuracies, c=sizes, cmap="viridis", s=28, zorder=3)
    figure.colorbar(points, ax=axis, label="parameters / the baseline's")
    best = analysis.front(rows)
    axis.step(
        [row["step_time"] for row in best],
        [row["accuracy"] for row in best],
        where="post",
        color="0.5",
        label="front",
    )
    for name, others in analysis.by_network(analysis.with_result(result.confirmed)).items():
        own = [row for row in rows if row["name"] == name]
        values = [row["accuracy"] for row in [*own, *others]]
        axis.vlines(own[0]["step_time"], min(values), max(values), color="0.3", zorder=2)
    base = result.baseline
    axis.scatter(1.0, base["accuracy"], marker="s", s=90, color="tab:red", label="baseline")
    for row in rows:
        if row["name"] == result.best.name:
            axis.scatter(
                row["step_time"],
                row["accuracy"],
                marker="*",
                s=220,
                color="tab:orange",
                edgecolor="black",
                zorder=4,
                label="winner",
            )
    axis.set_xscale("log")
    ticks = [
        t
        for t in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8)
        if min(times) / 1.3 <= t <= max(times) * 1.3
    ]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set(xlabel="time of a training step / the baseline's", ylabel="validation accuracy")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def running_best(trials):
    """Reward by trial with the best so far, and what random draws would have reached."""
    figure = new(8, 4)
    axis = figure.subplots()
    rows = sorted(trials, key=lambda row: row["number"])
    rewards = [row["reward"] for row in rows]
    count = np.arange(1, len(rows) + 1)
    low, high = ([analysis.expected_best(rewards, n, q) for n in count] for q in (0.1, 0.9))
    axis.fill_between(count, low, high, color="tab:blue", alpha=0.15, label="best of n draws, 80 %")
    mean = [analysis.expected_best(rewards, n) for n in count]
    axis.plot(count, mean, color="tab:blue", ls="--", label="best of n draws, expected")
    axis.plot(count, rewards, "o", color="0.6", ms=4, label="trial")
    axis.step(
        count, np.maximum.accumulate(rewards), where="post", color="black", label="best so far"
    )
    axis.set(xlabel="trial", ylabel="reward")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


def main_effects(trials, parameters):
    """Mean reward of every choice, a panel a kind of choice, a group of bars a stage."""
    found = analysis.effects(trials, parameters)
    kinds = list(dict.fromkeys(name.split("_", 1)[1] for name in parameters))
    figure = new(9, 2.3 * len(kinds))
    axes = np.ravel(figure.subplots(len(kinds), 1, squeeze=False))
    for axis, kind in zip(axes, kinds):
        names = [name for name in parameters if name.endswith(f"_{kind}")]
        choices = list(dict.fromkeys(c for name in names for c in parameters[name]))
        width = 0.8 / len(choices)
        for i, choice in enumerate(choices):
            cells = [(s, found[n].get(choice)) for s, n in enumerate(names, start=1)]
            cells = [(s, cell) for s, cell in cells if cell is not None]
            axis.errorbar(
                [s + (i - (len(choices) - 1) / 2) * width for s, _ in cells],
                [cell[0] for _, cell in cells],
                yerr=[cell[1] or 0 for _, cell in cells],
                fmt="o",
                capsize=3,
                label=str(choice),
            )
        axis.set_xticks(range(1, len(names) + 1), [f"stage {s}" for s in range(1, len(names) + 1)])
        axis.set(ylabel="mean reward", title=kind)
        axis.grid(alpha=0.3, axis="y")
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
