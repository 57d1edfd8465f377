"""The user sees our lines: what TensorFlow, Keras and absl tell of themselves is left out."""

import contextlib
import logging
import os
import pathlib
import subprocess
import sys

from absl import logging as absl_logging

from keras_effv2 import chatter

_PACKAGE = str(pathlib.Path(__file__).parent)


@contextlib.contextmanager
def own_lines(verbosity):
    """Prints the package's messages as they are, and of others only errors.

    Args:
        verbosity: -1: warnings only; 0: also what is being done; 1 and more: everything, of others
            too.
    """
    absl_logging.set_verbosity(verbosity)
    if verbosity > 0:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    handler = _Lines()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with _without_chatter():
            yield
    finally:
        root.removeHandler(handler)


class _Lines(logging.Handler):
    """A message a line; `WARNING:` before a warning, nothing before what is only told."""

    def emit(self, record):
        if record.levelno < logging.ERROR and not record.pathname.startswith(_PACKAGE):
            return
        level = f"{record.levelname}: " if record.levelno > logging.INFO else ""
        sys.stderr.write(f"{level}{record.getMessage()}\n")


@contextlib.contextmanager
def _without_chatter():
    """Sends what is written past Python, to file descriptor 2, through `chatter`."""
    its_own = sys.stderr is not None and sys.stderr is sys.__stderr__
    if "tensorflow" in sys.modules or not its_own:
        yield
        return
    terminal = os.dup(2)
    command = [sys.executable, "-IS", chatter.__file__]
    with (
        open(os.dup(terminal), "w", 1, sys.stderr.encoding, sys.stderr.errors) as python,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=terminal, start_new_session=True
        ) as filtering,
    ):
        os.dup2(filtering.stdin.fileno(), 2)
        sys.stderr = python
        try:
            yield
        finally:
            sys.stderr = sys.__stderr__
            os.dup2(terminal, 2)
            os.close(terminal)
            with contextlib.suppress(BrokenPipeError):
                # Closing is not enough: a child of ours may hold the pipe open for as long as it lives.
                os.write(filtering.stdin.fileno(), chatter.END)
