"""A process for every training: nothing leaks, and what dies takes nothing along.

The processes are forks of a server that has TensorFlow loaded but has run none of it: its threads
would not survive the fork. They end when this process does, however it ends.
"""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading

PRELOADED = ("tensorflow", "keras", "keras_effv2", "keras_effv2.searching.trial")


class Stopped(Exception):
    """The search was asked to stop."""


class Children:
    """The processes that this one has started."""

    def __init__(self):
        if multiprocessing.parent_process() is not None:
            raise RuntimeError(
                "A search starts processes, and each of them reads your script again: put the call "
                "under `if __name__ == '__main__':`."
            )
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        self._context = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(list(PRELOADED))
        self._alive = set()
        self._lock = threading.Lock()
        self.stopped = False

    def call(self, function, log, *arguments):
        """Calls a function in a process of its own; returns its exit code when it has ended.

        Args:
            function: A function of a module.
            log: Path of the file that takes what the process prints.
            *arguments: Of the function; they are pickled.

        Raises:
            Stopped: If `stop` was called before.
        """
        with self._lock:
            if self.stopped:
                raise Stopped
            process = self._context.Process(
                target=_enter, args=(function, str(log), arguments), daemon=True
            )
            process.start()
            self._alive.add(process)
        process.join()
        with self._lock:
            self._alive.discard(process)
        return process.exitcode

    def stop(self):
        """Asks all processes to save and end; starts no more."""
        with self._lock:
            self.stopped = True
            for process in self._alive:
                process.terminate()


def _enter(function, log, arguments):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(log, "a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    function(*arguments)
    sys.stdout.flush()


def _end_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
