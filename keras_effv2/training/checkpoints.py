"""Training state on disk: written whole or not at all, checked when read, the last two kept.

Keras' `BackupAndRestore` begins a broken epoch again, loses the seeds of
dropout and does not notice a torn file.
"""

import contextlib
import hashlib
import io
import json
import pathlib

import numpy as np
from absl import logging

from keras_effv2 import files

KEEP = 2


@contextlib.contextmanager
def locked(workdir):
    """Keeps other processes out of a workdir; the kernel lets go if this one dies.

    A workdir that is made for it and stays empty, because the run is refused, is removed again.

    Raises:
        RuntimeError: If another process works there.
    """
    workdir = pathlib.Path(workdir)
    lock = workdir / ".lock"
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(lock, wait=False))
            except BlockingIOError:
                raise RuntimeError(
                    f"Another process trains in {workdir}. Wait for it, or choose another workdir."
                ) from None
            yield
    finally:
        if new and workdir.exists() and {*workdir.iterdir()} <= {lock}:
            lock.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()


def save(folder, step, arrays, meta):
    """Writes a checkpoint.

    Args:
        folder: Folder of the checkpoints.
        step: Optimizer steps done; names the file.
        arrays: Name -> NumPy array.
        meta: What JSON can hold.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*step-*"):  # of a process that was killed while writing
        with contextlib.suppress(OSError):
            stale.unlink()
    body = io.BytesIO()
    np.savez(body, __meta__=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    body = body.getbuffer()
    digest = hashlib.sha256(body).hexdigest().encode()
    files.write_whole(folder / f"step-{step:09d}.ckpt", digest + bytes(body))
    # those of later steps are torn, else the run would have gone on from there
    kept = sorted(path for path in folder.glob("step-*.ckpt") if _step(path) <= step)[-KEEP:]
    for path in folder.glob("step-*.ckpt"):
        if path not in kept:
            path.unlink()


def _step(path):
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def load_newest(folder):
    """Reads the newest whole checkpoint: `(arrays, meta)`, or None; torn ones are named."""
    for path in sorted(pathlib.Path(folder).glob("step-*.ckpt"), reverse=True):
        content = path.read_bytes()
        body = memoryview(content)[64:]
        if hashlib.sha256(body).hexdigest().encode() != content[:64]:
            logging.warning("%s is torn; falling back to the checkpoint before.", path)
            continue
        with np.load(io.BytesIO(body)) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads(arrays.pop("__meta__").tobytes())
    return None
