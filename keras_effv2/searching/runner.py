"""Trainings in processes of their own: some at a time, started again when they die, stopped kindly."""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import threading

from absl import logging

from keras_effv2 import variants
from keras_effv2.searching import records, trial
from keras_effv2.searching.processes import Children, Stopped
from keras_effv2.training import TERMINATED

DEATHS = 3  # of a process without a step of progress, before its training is given up


class Runner:
    """Runs jobs.

    Args:
        workdir: Folder of the search, a `pathlib.Path`.
        workers: Jobs at a time.
    """

    def __init__(self, workdir, workers):
        self.workdir, self.workers = workdir, workers
        self.children = Children()
        self.pause = threading.Event()  # set when all threads have to end
        self.gpus, self.device = 0, ""

    def probe(self):
        """Finds out what this machine trains on."""
        path, log = self.workdir / ".device.json", self.workdir / ".probe.txt"
        path.unlink(missing_ok=True)
        code = self.children.call(trial.probe, log, path)
        found = records.read(path)
        if self.children.stopped:
            raise Stopped
        if found is None:
            raise RuntimeError(f"A process for trainings could not start: {_ended(code, log)}")
        self.device, self.gpus = found["device"], found["gpus"]
        if 0 < self.gpus < self.workers:
            raise ValueError(
                f"`workers` is at most the number of GPUs here, {self.gpus}: each takes one whole. "
                f"Received: workers={self.workers}."
            )

    def place(self, slot):
        """Where the job of a slot trains: a part of the processor, or a GPU of its own."""
        if self.workers == 1:
            return {"device": self.device}
        if self.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            gpu = visible.split(",")[slot] if visible else str(slot)
            return {"device": self.device, "gpu": gpu}
        return {"device": self.device, "threads": max(1, (os.cpu_count() or 1) // self.workers)}

    def train(self, job, data):
        """Trains until there is a result; a process that dies is started again where it was."""
        folder = pathlib.Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        deaths, step = 0, records.newest_step(folder)
        while True:
            result = records.result(folder)
            if result is not None:
                records.clean(folder, job.keep_models)
                return result
            (folder / "error.json").unlink(missing_ok=True)
            code = self.children.call(trial.run, log, job, data)
            if self.children.stopped:
                raise Stopped
            failed = records.read(folder / "error.json")
            if failed is not None:
                raise RuntimeError(f"{job.variant.name} failed, see {log}: {failed['error']}")
            if code > 0 and code != TERMINATED:
                raise RuntimeError(f"{job.variant.name} failed: {_ended(code, log)}")
            if code != 0:  # somebody ended that process, not this search
                logging.warning("The process of %s was killed (%d).", job.variant.name, abs(code))
                newest = records.newest_step(folder)
                deaths, step = (1 if newest > step else deaths + 1), newest
                if deaths >= DEATHS:
                    records.write(folder / "result.json", _given_up(job, data, abs(code)))

    def in_threads(self, tasks):
        """Does tasks, `workers` at a time, and returns what they return, in order.

        Args:
            tasks: Functions of a slot, 0 to `workers - 1`.
        """
        slots = list(range(self.workers))
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:

            def do(task):
                slot = slots.pop()
                try:
                    return task(slot)
                finally:
                    slots.append(slot)

            futures = [pool.submit(do, task) for task in tasks]
            try:
                waiting = set(futures)
                while waiting:
                    # with a timeout, so that signals are heard
                    done, waiting = concurrent.futures.wait(
                        waiting, timeout=0.5, return_when=concurrent.futures.FIRST_EXCEPTION
                    )
                    for future in done:
                        future.result()
                return [future.result() for future in futures]
            except BaseException:
                self.pause.set()
                self.children.stop()
                for future in futures:
                    future.cancel()
                raise

    @contextlib.contextmanager
    def signals(self):
        """SIGTERM and Ctrl-C stop the trainings, which save, before they mean what they mean."""
        asked, before = [], {}

        def ask(number, _):
            if signal.SIGINT == number and number in asked:
                raise KeyboardInterrupt
            asked.append(number)
            self.pause.set()
            self.children.stop()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, ask)
        try:
            yield
        except Stopped:
            logging.warning("Stopped; the same command goes on.")
            if asked and asked[-1] == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(TERMINATED) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ended(code, log):
    return (
        f"its process ended with code {code}, see {log}. (A script calls the search under "
        "`if __name__ == '__main__':`.)"
    )


def _given_up(job, data, number):
    """The result of a network whose process does not live."""
    classes = len(data.class_names)
    ours, base = (variants.model_info(v, classes=classes) for v in (job.variant, job.baseline))
    key = "trainable_parameters"
    return {
        **job.notes,
        "name": job.variant.name,
        "rows": records.one_line(job.variant.stages),
        "seed": job.recipe.seed,
        "step_time": ours["macs"] / base["macs"],
        "parameters": ours[key] / base[key],
        key: ours[key],
        "macs": ours["macs"],
        "epochs": job.recipe.epochs,
        "split": job.split,
        "accuracy": 0.0,
        "reward": 0.0,
        "reason": f"killed {DEATHS} times without progress, last with code {number}",
        "seconds": 0.0,
    }
