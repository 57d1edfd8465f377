"""Training state on disk: written whole or not at all, checked when read, the last two kept.

In a store, where a write that dies may leave a part under the final name, a checkpoint counts once
its manifest, `step-N.sha256`, stands beside it.

Keras' `BackupAndRestore` begins a broken epoch again, loses the seeds of
dropout and does not notice a torn file.
"""

import contextlib
import errno
import hashlib
import io
import json
import os

import numpy as np
from absl import logging

from keras_effv2 import files, stores

KEEP = 2
OWNER = ".owner.json"  # of a workdir in a store, which has no locks


@contextlib.contextmanager
def locked(workdir):
    """Keeps other processes out of a workdir; the kernel, or the owner's file, lets go if this dies.

    A workdir that is made for it and stays empty, because the run is refused, is removed again.

    Args:
        workdir: What `files.place` gives.

    Raises:
        RuntimeError: If another process works there.
    """
    if isinstance(workdir, stores.Stored):
        try:
            with files.locked(workdir / OWNER):
                yield
        except BlockingIOError as error:
            raise RuntimeError(f"{workdir} is in use: {error.strerror}.") from None
        return
    lock = workdir / ".lock"
    new = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(lock, wait=False))
            except BlockingIOError:
                dead = f" If it has died, delete {lock}." if files.LOCKS_STAY else ""
                raise RuntimeError(
                    f"Another process trains in {workdir}. Wait for it, or choose another workdir."
                    f"{dead}"
                ) from None
            if not os.access(workdir, os.W_OK):
                refusal = "This folder may not be written to. Give another workdir"
                raise PermissionError(errno.EACCES, refusal, str(workdir))
            yield
    finally:
        if new and workdir.exists() and {*workdir.iterdir()} <= {lock}:
            lock.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()


def save(folder, step, arrays, meta):
    """Writes a checkpoint.

    Args:
        folder: Folder of the checkpoints, as `files.place` gives it.
        step: Optimizer steps done; names the file.
        arrays: Name -> NumPy array.
        meta: What JSON can hold.

    Raises:
        BlockingIOError: If another run has taken the workdir, in a store, over.
    """
    stored = isinstance(folder, stores.Stored)
    if stored:
        stores.still_mine(folder.parent / OWNER)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*step-*"):  # of a process that was killed while writing
        with contextlib.suppress(OSError):
            stale.unlink()
    arrays = {"__meta__": np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays}
    path = folder / f"step-{step:09d}.ckpt"
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        digest = _fill(file, arrays)
    if stored:
        files.write_whole(_manifest(path), digest)
    # those of later steps are torn, else the run would have gone on from there
    kept = sorted(path for path in _found(folder) if _step(path) <= step)[-KEEP:]
    for path in folder.glob("step-*.ckpt"):
        if path not in kept:
            path.unlink()
            _manifest(path).unlink(missing_ok=True)


def _fill(file, arrays):
    """Writes arrays behind the sha256 of what follows; gives that in hexadecimal."""
    file.write(bytes(64))
    stream = _Hashed(file)
    np.savez(stream, **arrays)
    digest = stream.sha256.hexdigest().encode()
    file.seek(0)
    file.write(digest)
    return digest


class _Hashed(io.RawIOBase):
    """A file that can be written to and has no way back, with the sha256 of what was written."""

    def __init__(self, file):
        super().__init__()
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, part):
        self.sha256.update(part)
        return self._file.write(part)


def _manifest(path):
    return path.parent / f"{path.stem}.sha256"


def _found(folder):
    """The checkpoints that count."""
    found = folder.glob("step-*.ckpt")
    if isinstance(folder, stores.Stored):
        manifests = {path.stem for path in folder.glob("step-*.sha256")}
        return [path for path in found if path.stem in manifests]
    return found


def _step(path):
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def load_newest(folder):
    """Reads the newest whole checkpoint: `(arrays, meta)`, or None; torn ones are named.

    Args:
        folder: Folder of the checkpoints, as `files.place` gives it.
    """
    for path in sorted(_found(folder), reverse=True):
        content = path.read_bytes()
        body, said = memoryview(content)[64:], content[:64]
        digest = hashlib.sha256(body).hexdigest().encode()
        if digest != said or (
            isinstance(path, stores.Stored) and _manifest(path).read_bytes() != digest
        ):
            logging.warning("%s is torn; falling back to the checkpoint before.", path)
            continue
        with np.load(io.BytesIO(body)) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads(arrays.pop("__meta__").tobytes())
    return None
