"""What a search shows while it runs, and the sentence before it starts."""

import sys
import time

import tqdm
from absl import logging


def estimate(baseline, trials, workers, runs):
    """How long it will take, from the baseline's training that was just made.

    Args:
        baseline: Its result.
        trials: Trainings that are left.
        workers: How many train at a time.
        runs: Trainings after the trials, to confirm and to compare.
    """
    # the baseline is not timed against itself; a trial traces two networks more
    tracing = max(baseline["tracing_seconds"], 0.0)
    one = baseline["seconds"] + 2 * tracing
    text = (
        f"A trial takes about {one:.0f} s, of which {3 * tracing:.0f} s are tracing; {trials} "
        f"trials {_duration(one * trials / workers)}, {runs} trainings after them "
        f"{_duration(baseline['seconds'] * runs / workers)}."
    )
    if 3 * tracing > one / 3:
        text += " More epochs would cost little: much of a trial is tracing."
    return text


class Display:
    """A bar with trials done of all, the best so far and the time to the end.

    Args:
        total: Trials in all.
        done: Results that are there already.
        show: Whether to draw a bar on stderr; lines go to the log in any case.
    """

    def __init__(self, total, done, show):
        self.best = max(done, key=lambda row: row["reward"], default=None)
        self.started, self.count = time.perf_counter(), 0
        self.total, self.done = total, len(done)
        self.bar = tqdm.tqdm(
            total=total,
            initial=len(done),
            unit="trial",
            file=sys.stderr,
            dynamic_ncols=True,
            disable=None if show else True,
        )
        self._show()

    def finished(self, result):
        """Notes a trial that is done."""
        self.count += 1
        self.done += 1
        if self.best is None or result["reward"] > self.best["reward"]:
            self.best = result
        each = (time.perf_counter() - self.started) / self.count
        left = _duration(each * max(0, self.total - self.done))
        logging.info(
            "trial %d/%d: %s; reward %.4f, top 1 %.1f%%, step %.2f, size %.2f%s; best %.4f; %s left",
            self.done,
            self.total,
            result["rows"],
            result["reward"],
            100 * result["accuracy"],
            result["step_time"],
            result["parameters"],
            f" ({result['reason']})" if result["reason"] else "",
            self.best["reward"],
            left,
        )
        self.bar.update()
        self._show()

    def _show(self):
        if self.best is not None:
            self.bar.set_postfix_str(f"best {self.best['reward']:.4f}: {self.best['rows']}")

    def close(self):
        """Leaves the bar as it is."""
        self.bar.close()


def _duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
