"""The trials: every worker takes up what was lost, draws what is new, waits for what others do."""

import threading

from absl import logging

from keras_effv2 import files
from keras_effv2.searching import display, records
from keras_effv2.searching.processes import Stopped


class Workers:
    """Threads that do trials until there are as many as were asked for.

    What was begun and what is done stand in the folders of the trials, so that workers of other
    processes and machines that share the workdir join in, and whoever dies leaves its trial to others.

    Args:
        plan: The `Plan` of the search.
        engine: Draws networks.
        runner: Trains them.
    """

    def __init__(self, plan, engine, runner):
        self.plan, self.engine, self.runner = plan, engine, runner
        self.claiming = threading.Lock()
        self.mine = set()  # names that threads of this process work on
        self.display = None

    def run(self, baseline, runs):
        """Does all trials.

        Args:
            baseline: Result of the baseline, by which the time is estimated.
            runs: Trainings after the trials.
        """
        plan = self.plan
        done = records.results(plan.workdir)
        left = plan.trials - len(done)
        if left <= 0:
            return
        logging.info("%s", display.estimate(baseline, left, plan.workers, runs))
        self.display = display.Display(plan.trials, done, plan.progress)
        try:
            self.runner.in_threads([self._work] * plan.workers)
        finally:
            self.display.close()

    def _work(self, slot):
        while True:
            claimed = self._claim()
            if claimed == "done":
                return
            if claimed == "wait":
                if self.runner.pause.wait(0.5):
                    raise Stopped
                continue
            folder, notes, variant, drawn = claimed
            try:
                with files.locked(folder / ".claim", wait=False):
                    where, prune = self.runner.place(slot), self.plan.pruner is not None
                    job = self.plan.job(where, folder, variant, notes=notes, prune=prune)
                    result = self.runner.train(job, self.plan.data)
            except BlockingIOError:
                continue  # another process was quicker
            finally:
                self.mine.discard(variant.name)
            self.engine.tell(result, drawn)
            with files.locked(self.plan.workdir / ".table.lock"):
                records.write_table(self.plan.workdir)
            self.display.finished(result)

    def _claim(self):
        """The next trial: `(folder, notes, variant, trial of the study)`, or "wait", or "done"."""
        plan = self.plan
        with self.claiming, files.locked(plan.workdir / ".claims.lock"):
            begun = records.begun(plan.workdir)
            unfinished = [trial for trial in begun if records.result(trial[0]) is None]
            for folder, notes in unfinished:
                if folder.name not in self.mine and _is_free(folder):
                    variant = plan.space.variant(plan.space.rows(notes["values"]))
                    self.mine.add(variant.name)
                    return folder, notes, variant, None
            if len(begun) >= plan.trials:
                return "wait" if unfinished else "done"
            taken = {folder.name for folder, _ in begun} | {plan.baseline.name}
            # the lowest that is free: a trial whose folder was removed is drawn again
            number = min({*range(len(begun) + 1)} - {notes["number"] for _, notes in begun})
            values, variant, drawn = self.engine.draw(number, taken)
            notes = {"number": number, "values": values}
            self.mine.add(variant.name)
            return records.begin(plan.workdir, notes, variant), notes, variant, drawn


def _is_free(folder):
    """Whether no living process works in a trial's folder."""
    try:
        with files.locked(folder / ".claim", wait=False):
            return True
    except BlockingIOError:
        return False
