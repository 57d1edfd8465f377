"""What the trials of a search say, as numbers: fronts, correlations, main effects, expectations."""

import itertools
import statistics

import numpy as np

from keras_effv2.searching import records

HARDLY = 0.3  # rank correlation of reward and accuracy below which accuracy hardly mattered


def front(rows):
    """The rows that no other beats in accuracy and in step time, fastest first.

    Example:

    >>> rows = [{"step_time": t, "accuracy": a} for t, a in ((1, 0.5), (2, 0.6), (3, 0.55))]
    >>> [row["step_time"] for row in front(rows)]
    [1, 2]
    """
    best, kept = -1.0, []
    for row in sorted(rows, key=lambda row: (row["step_time"], -row["accuracy"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            kept.append(row)
    return kept


def expected_best(rewards, count, quantile=None):
    """The best of `count` draws from these rewards: its mean, or a quantile of it.

    Example:

    >>> expected_best([0.0, 1.0], 2), expected_best([0.0, 1.0], 1, quantile=0.25)
    (0.75, 0.0)
    """
    ordered = np.sort(np.asarray(rewards, float))
    below = (np.arange(len(ordered) + 1) / len(ordered)) ** count
    if quantile is not None:
        return float(ordered[min(len(ordered) - 1, np.searchsorted(below[1:], quantile))])
    return float(ordered @ np.diff(below))


def correlations(rows):
    """Rank correlation of the reward with accuracy, step time and parameters; None if undefined."""
    from scipy.stats import spearmanr

    found = {}
    for key in ("accuracy", "step_time", "parameters"):
        pair = [row["reward"] for row in rows], [row[key] for row in rows]
        defined = len(rows) > 2 and all(len(set(values)) > 1 for values in pair)
        found[key] = float(spearmanr(*pair).statistic) if defined else None
    return found


def effects(rows, parameters):
    """Mean reward of every choice of every parameter: `{name: {choice: (mean, error, count)}}`.

    Args:
        rows: Results with the `values` that were drawn.
        parameters: Name -> choices, as `Space.parameters()`.
    """
    found = {}
    for name, choices in parameters.items():
        found[name] = {}
        for choice in choices:
            rewards = [row["reward"] for row in rows if row["values"][name] == choice]
            if rewards:
                error = statistics.stdev(rewards) / len(rewards) ** 0.5 if rewards[1:] else None
                found[name][choice] = (statistics.mean(rewards), error, len(rewards))
    return found


def by_network(rows):
    """Results of several seeds by network: `{name: rows}`, in the order they come in."""
    ordered = sorted(rows, key=lambda row: row["name"])
    groups = {name: list(g) for name, g in itertools.groupby(ordered, key=lambda r: r["name"])}
    return {row["name"]: groups[row["name"]] for row in rows}


def with_result(rows):
    """The rows of trainings that neither diverged nor were given up."""
    return [row for row in rows if row["reason"] is None]


def mean_accuracy(rows):
    """Mean and half range of the accuracies of some seeds."""
    accuracies = [row["accuracy"] for row in rows]
    return statistics.mean(accuracies), (max(accuracies) - min(accuracies)) / 2


def is_pruned(row):
    """Whether a trial was ended because it fell behind."""
    return (row["reason"] or "").startswith(records.PRUNED)


def conclusion(best, baseline, final, trials):
    """What came out, in a sentence, from the last comparison alone.

    Args:
        best: Name of the winner.
        baseline: Name of the baseline.
        final: Results of the last comparison.
        trials: Results of all trials.
    """
    pruned = sum(is_pruned(row) for row in trials)
    failed = sum(row["reason"] is not None for row in trials) - pruned
    counts = f"{len(trials)} trials, {pruned} pruned, {failed} without a result."
    told = with_result(final)
    groups = by_network(told)
    if len(told) < len(final):
        counts += (
            f" {len(final) - len(told)} of the {len(final)} trainings of the last comparison have no "
            "result and are not counted."
        )
    if best not in groups or baseline not in groups:
        return (
            f"{best} has the best reward of {counts} There was no last comparison of it and the "
            "baseline: this is no accuracy to quote."
        )
    (ours, spread), (theirs, other) = (mean_accuracy(groups[name]) for name in (best, baseline))
    row = groups[best][0]
    numbers = (
        f"{ours:.1%} (± {spread:.1%} over {len(groups[best])} seeds) on test; the baseline reaches "
        f"{theirs:.1%} (± {other:.1%}) in the same time. A step of it takes {row['step_time']:.0%} "
        f"of the baseline's time, it has {row['parameters']:.0%} of its parameters. {counts}"
    )
    if ours <= theirs:
        return f"The search found nothing better than the baseline: {best} reaches {numbers}"
    return f"{best} reaches {numbers}"
