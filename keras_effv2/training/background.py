"""One job at a time, done by a thread while the training goes on."""

import threading

from absl import logging

MOMENT = 0.05  # seconds that a job is waited for at once: short ones need not run beside anything


class Background:
    """Runs one job at a time beside its caller; at the end of its block the last one is done.

    What a job raises, the next `start` or `wait` raises, or the end of the block.
    """

    def __init__(self):
        self._thread = self._error = None

    def start(self, job, *arguments):
        """Starts a job when the one before is done."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job, arguments), daemon=True)
        self._thread.start()
        self._thread.join(MOMENT)
        if not self._thread.is_alive():
            self.wait()

    def wait(self):
        """Waits until the last job is done."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, job, arguments):
        try:
            job(*arguments)
        except BaseException as error:  # whatever it is, for the caller
            self._error = error

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            logging.warning("%s", error)  # what ended the block says more
