"""Training state on disk: written whole or not at all, checked when read, the last two kept."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import tempfile

import numpy as np
from absl import logging

KEEP = 2


@contextlib.contextmanager
def locked(workdir):
    """Keeps other processes out of a workdir; the kernel lets go if this one dies.

    Raises:
        RuntimeError: If another process works there.
    """
    import fcntl

    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    with open(os.path.join(workdir, ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"Another process trains in {workdir}. Wait for it, or choose another workdir."
            ) from None
        except OSError as error:  # not every file system has locks
            logging.warning("%s cannot be locked (%s): do not train in it twice.", workdir, error)
        yield


def write_whole(path, content):
    """Writes bytes or text under a temporary name and renames; a failure leaves the old file."""
    path = pathlib.Path(path)
    content = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({os.strerror(error.errno or 0)}); what was there before "
            "is unharmed. Make room and run the same command again",
        ) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


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
    for stale in folder.glob(".step-*"):  # of a process that was killed while writing
        with contextlib.suppress(OSError):
            stale.unlink()
    body = io.BytesIO()
    np.savez(body, __meta__=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    body = body.getbuffer()
    digest = hashlib.sha256(body).hexdigest().encode()
    write_whole(folder / f"step-{step:09d}.ckpt", digest + bytes(body))
    for old in sorted(folder.glob("step-*.ckpt"))[:-KEEP]:
        old.unlink()


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
