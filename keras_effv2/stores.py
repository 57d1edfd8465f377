"""Paths in stores that TensorFlow reads, such as `gs://bucket/run`: buckets are no file systems.

A store may have no rename and no locks, and a write that dies may leave a part. So a file is written
under its own name, its length is asked for afterwards, and who has to know whether it is whole keeps
a hash beside it.
"""

import contextlib
import dataclasses
import errno
import fnmatch
import io
import json
import os
import re
import socket
import threading
import time
import types
import uuid

from absl import logging

from keras_effv2 import errors, needs

BEAT, STALE = 10, 60  # seconds between signs of life, and without one until a run counts as dead
_PROCESS = uuid.uuid4().hex


def is_address(text):
    """Whether a path is the address of a store.

    >>> is_address("gs://bucket/run"), is_address("runs/mine")
    (True, False)
    """
    return "://" in text


@dataclasses.dataclass(frozen=True, order=True)
class Stored:
    """A path in a store, with the methods of `pathlib.Path` that this package uses.

    It is no `os.PathLike`: nothing can take it for a local path by mistake. What TensorFlow raises
    becomes an `OSError` that names the path.

    Args:
        address: Such as `"gs://bucket/run"`.
    """

    address: str

    def __post_init__(self):
        scheme, rest = self.address.split("://", 1)
        rest = re.sub("/+", "/", rest).strip("/")
        object.__setattr__(self, "address", f"{scheme}://{rest}")

    def __str__(self):
        return self.address

    def __truediv__(self, name):
        return Stored(f"{self.address}/{name}")

    @property
    def name(self):
        """The last part."""
        return self.address.rsplit("/", 1)[-1]

    @property
    def suffix(self):
        """The end of the name from its last dot on."""
        return os.path.splitext(self.name)[1]

    @property
    def stem(self):
        """The name without `suffix`."""
        return os.path.splitext(self.name)[0]

    @property
    def parent(self):
        """The folder that it is in; of a bucket the bucket."""
        scheme, rest = self.address.split("://", 1)
        return Stored(f"{scheme}://{rest.rsplit('/', 1)[0]}")

    def resolve(self):
        """The same: a store has neither links nor a current folder."""
        return self

    def exists(self):
        """Whether there is something."""
        return self._ask("exists")

    def is_dir(self):
        """Whether it is a folder."""
        return self._ask("isdir")

    def is_file(self):
        """Whether it is there and no folder."""
        return self.exists() and not self.is_dir()

    def mkdir(self, parents=True, exist_ok=True):
        """Makes the folder and those above it."""
        self._ask("makedirs")

    def iterdir(self):
        """What the folder holds, hidden names too."""
        names = (name.strip("/") for name in self._ask("listdir"))
        found = [self / name for name in sorted(names) if name]
        if self.address.startswith("ram://"):  # which lists a.b/c as .b in a
            return [path for path in found if path.exists()]
        return found

    def glob(self, pattern):
        """Those in the folder whose name fits; none where there is no folder."""
        found = self.iterdir() if self.exists() else []
        return [path for path in found if fnmatch.fnmatchcase(path.name, pattern)]

    def unlink(self, missing_ok=False):
        """Removes a file."""
        try:
            self._ask("remove")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self):
        """Removes a folder and what is in it, if it is there."""
        for child in self.iterdir() if self.exists() else ():
            child.remove_tree() if child.is_dir() else child.unlink()
        with contextlib.suppress(FileNotFoundError):  # where a folder is only the names in it
            self._ask("rmtree")

    def open(self):
        """The file to read bytes of any part, as Python's `open` gives it."""
        return io.BufferedReader(_Reading(self))

    def read_bytes(self):
        """All bytes of the file."""
        with self.open() as file:
            return file.read()

    def read_text(self, encoding="utf-8"):
        """The file as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content):
        """Writes the file and sees that it has come in full."""
        with told(self):
            with _written(self) as file:
                file.write(bytes(content))
            if _gfile().stat(self.address).length != len(content):
                raise OSError(errno.EIO, "The store has not kept all of it", self.address)

    def blocks(self):
        """The bytes of the file, 16 MiB at a time."""
        with told(self), _gfile().GFile(self.address, "rb") as file:
            while block := file.read(1 << 24):
                yield block

    def fetch(self, copy, but=()):
        """Copies the file, or the folder with all in it `but` these, to a local `pathlib.Path`."""
        if self.is_dir():
            copy.mkdir()
            for child in (child for child in self.iterdir() if child.name not in but):
                child.fetch(copy / child.name)
        else:
            with open(copy, "wb") as file:
                file.writelines(self.blocks())

    def send(self, local):
        """Copies a local file, or a folder with all that is in it, here, and compares.

        The file that makes a SavedModel of a folder comes last.

        Raises:
            OSError: If it could not be written, or reads differently.
        """
        if local.is_dir():
            for child in sorted(local.iterdir(), key=lambda path: path.name == "saved_model.pb"):
                (self / child.name).send(child)
            return
        with told(self), open(local, "rb") as source:
            with _written(self) as file:
                file.write(b"")  # TensorFlow makes the file with the first of them
                while block := source.read(1 << 24):
                    file.write(block)
            source.seek(0)
            if any(block != source.read(len(block)) for block in self.blocks()) or source.read(1):
                raise OSError(errno.EIO, "What was written reads differently", self.address)

    def stat(self):
        """What the store knows of a file: bytes as `st_size`, and `st_mtime`, 0 where it does not."""
        found = self._ask("stat")
        return types.SimpleNamespace(st_size=found.length, st_mtime=found.mtime_nsec / 1e9)

    def _ask(self, function, *arguments):
        with told(self):
            return getattr(_gfile(), function)(self.address, *arguments)


def _written(path):
    """A file of TensorFlow's to write anew."""
    path.parent.mkdir()
    if path.address.startswith("ram://"):  # which appends to what there is
        path.unlink(missing_ok=True)
    return _gfile().GFile(path.address, "wb")


class _Reading(io.RawIOBase):
    """A file of TensorFlow's as one of Python's."""

    def __init__(self, path):
        path.stat()  # what is not there is said now, not when it is read
        self.path, self.file = path, _gfile().GFile(path.address, "rb")

    def readable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        with told(self.path):
            content = self.file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self):
        with told(self.path):
            return self.file.read()

    def seek(self, offset, whence=os.SEEK_SET):
        with told(self.path):
            self.file.seek(offset, whence)
            return self.file.tell()

    def tell(self):
        with told(self.path):
            return self.file.tell()

    def close(self):
        self.file.close()
        super().close()


def _gfile():
    """TensorFlow's functions for files; the only place that asks for them."""
    with needs.naming("A path in a store"):
        import tensorflow as tf

    return tf.io.gfile


def opened(address, what):
    """A path in a store that TensorFlow here knows.

    Raises:
        ValueError: If it does not know that kind of store.
    """
    scheme = address.split("://", 1)[0]
    known = sorted(set(_gfile().get_registered_schemes()) - {"", "file"})
    if scheme not in known:
        raise ValueError(
            f"{what} is a local path or in a store that TensorFlow here knows "
            f"({', '.join(f'{name}://' for name in known)}). Received: {address}. Mount the "
            f"{scheme}:// store as a folder, or copy what you need."
        )
    return Stored(address)


@contextlib.contextmanager
def told(path):
    """Within the block: what TensorFlow raises becomes the `OSError` of Python."""
    import tensorflow as tf

    codes = {
        tf.errors.NotFoundError: errno.ENOENT,
        tf.errors.PermissionDeniedError: errno.EACCES,
        tf.errors.UnauthenticatedError: errno.EACCES,
        tf.errors.ResourceExhaustedError: errno.ENOSPC,
    }
    try:
        yield
    except tf.errors.OpError as error:
        message = errors.first_line(error)[:300]
        raise OSError(codes.get(type(error), errno.EIO), message, str(path)) from error


@contextlib.contextmanager
def owned(path):
    """Keeps other runs out while the block runs: a file that says who, and that he is alive.

    Args:
        path: The `Stored` file. It is rewritten every 10 s; one that is older than 60 s is of a run
            that has died, and is taken over. The clocks of the machines have to agree.

    Raises:
        BlockingIOError: If a run that is alive has it; says who, and what to do.
    """
    owner = _owner(path)
    age = time.time() - owner["beat"] if owner else STALE
    if age < STALE:
        raise BlockingIOError(
            errno.EAGAIN,
            f"Process {owner['pid']} on {owner['host']} works there; its last sign of life is "
            f"{max(0, age):.0f} s old. If it has died, run this again in {STALE - age:.0f} s, or "
            f"delete {path}",
        )
    if owner:
        logging.warning("%s: process %s on %s has died.", path, owner["pid"], owner["host"])
    _beat(path)
    still_mine(path)  # of two that come at once the last writer has it
    done = threading.Event()
    thread = threading.Thread(target=_beats, args=(path, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if (_owner(path) or {}).get("run") == _PROCESS:
            path.unlink(missing_ok=True)


def _beats(path, done):
    """Signs of life until the work is done; a store that is away for a while ends nothing."""
    while not done.wait(BEAT):
        try:
            still_mine(path)
            _beat(path)
        except BlockingIOError as error:
            logging.error("%s", error.strerror)
            return
        except OSError as error:
            logging.warning("No sign of life could be written: %s", error)


def _beat(path):
    said = {"host": socket.gethostname(), "pid": os.getpid(), "run": _PROCESS, "beat": time.time()}
    path.write_bytes(json.dumps(said).encode())


def still_mine(path):
    """Raises `BlockingIOError` if another run has taken over, as after a long sleep of this one."""
    owner = _owner(path)
    if owner and owner["run"] != _PROCESS:
        raise BlockingIOError(
            errno.EAGAIN, f"Process {owner['pid']} on {owner['host']} has taken {path} over"
        )


def _owner(path):
    """Who an owner file names; None if there is none, or half of one."""
    try:
        owner = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return owner if isinstance(owner, dict) and {"host", "pid", "run", "beat"} <= {*owner} else None
