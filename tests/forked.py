"""Scripts in processes of their own, which start in a tenth of a second instead of in five.

They are forks of a server that has TensorFlow loaded and has run none of it: what they do is what
`python SCRIPT` does.
"""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

PRELOADED = ["tensorflow", "keras", "keras_effv2.training", "keras_effv2.finetuning", "keras_effv2"]
ROOT = pathlib.Path(__file__).parents[1]


class Process:
    """A script that runs.

    Args:
        script: Path of the script.
        *arguments: Its arguments.
        folder: The folder that it runs in; default: this process's.
        **environment: Variables that it has beside this process's.
    """

    def __init__(self, script, *arguments, folder=None, **environment):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._said = [pathlib.Path(tempfile.mkdtemp()) / name for name in ("out", "err")]
        self._argv = [str(script), *map(str, arguments)]
        environment = {**os.environ, **environment}
        self._process = context.Process(
            target=_enter, args=(self._argv, folder or os.getcwd(), environment, self._said)
        )
        self._process.start()

    def kill(self):
        """Ends it by SIGKILL, unless it has ended; returns whether it was still running."""
        running = self._process.is_alive()
        self._process.kill()
        self._process.join()
        return running

    def finish(self, timeout=300):
        """Waits for its end; a `subprocess.CompletedProcess`."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._argv, timeout)
        return subprocess.CompletedProcess(self._argv, code, *(x.read_text() for x in self._said))


def run(script, *arguments, **options):
    """As `subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)`."""
    return Process(script, *arguments, **options).finish()


def _enter(argv, folder, environment, said):
    for stream, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    sys.path.insert(0, str(pathlib.Path(argv[0]).parent))
    sys.path.insert(1, str(ROOT))
    runpy.run_path(argv[0], run_name="__main__")
