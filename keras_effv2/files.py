"""Files of a user, here or in a store: written whole or not at all, locked, safely unpacked."""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib

import filelock
from absl import logging

from keras_effv2 import errors, stores


def expand(path):
    """A user's path with `~` and `$NAME` replaced, as a string.

    Example:

    >>> expand("photos/$UNKNOWN_NAME")
    'photos/$UNKNOWN_NAME'
    """
    path = str(path) if isinstance(path, stores.Stored) else os.fspath(path)
    return os.path.expandvars(os.path.expanduser(path))


def place(path, what):
    """A user's path: a local `pathlib.Path`, or a `stores.Stored` of the same methods.

    Args:
        path: A path; `~` and `$NAME` are replaced. `gs://BUCKET/...` and what else TensorFlow's
            file systems know is in a store.
        what: What the path is for, as a message begins: `"The workdir"`.

    Raises:
        ValueError: If it is the address of a store that TensorFlow here does not know.

    Example:

    >>> place("ram://run", "The workdir") / "model.keras"
    Stored(address='ram://run/model.keras')
    """
    text = expand(path)
    if stores.is_address(text):
        return stores.opened(text, what)
    if re.match("[a-z][a-z0-9]+:/", text):  # what pathlib makes of an address
        raise ValueError(
            f"{what} looks like an address with one slash: {text}. Give the address of a store as a "
            "string with two, not as a pathlib.Path."
        )
    return pathlib.Path(text)


NO_STORE = (
    "Give a folder here, or one that machines share: files are locked in it; copy it at the end."
)


def local(path, what, instead=NO_STORE):
    """A user's path as a local `pathlib.Path`, where a store does not do.

    Args:
        path: A path; `~` and `$NAME` are replaced.
        what: What the path is for, as a message begins: `"The workdir"`.
        instead: What to do, where it is an address.

    Raises:
        ValueError: If the path is the address of a store.
    """
    text = expand(path)
    if stores.is_address(text):
        raise ValueError(f"{what} is a local path. Received: {text}. {instead}")
    return place(text, what)


@contextlib.contextmanager
def fetched(path, but=()):
    """Gives a local path with what is at `path`: itself, or of a store a temporary copy.

    Args:
        path: What `place` gives.
        but: Names in the folder that are not wanted.
    """
    if not isinstance(path, stores.Stored):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)
        path.fetch(copy, but)
        yield copy


def copy(source, target):
    """Copies a file, both as `place` gives them, whole or not at all."""
    with fetched(source) as file, replacing(target) as temporary:
        shutil.copy2(file, temporary)


def remove_tree(path):
    """Removes a folder and what is in it, if it is there."""
    if isinstance(path, stores.Stored):
        path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


def exists(path):
    """Whether there is something at a user's path."""
    return place(path, "A path").exists()


def open_regular(path):
    """Opens a user's file to read bytes; a pipe or a device, which may never end, is refused.

    Args:
        path: A path; `~` and `$NAME` are replaced.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no regular file.
    """
    path = expand(path)
    if stores.is_address(path):
        return place(path, "A file").open()
    check_regular(path)
    return open(path, "rb")


def check_regular(path):
    """Refuses what is no regular file; errors as `open_regular`'s."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise ValueError(f"{path} is {what}, not a file. Give a file.")


def check_lines(labels):
    """Refuses labels that labels.txt cannot hold: it has one a line."""
    for name in labels:
        if len(f"{name}.".splitlines()) > 1:
            raise ValueError(
                f"The label {name!r} has a line break, and labels.txt has one label a line. Give "
                "labels without line breaks, or rename the class."
            )


def check_model_file(path):
    """Says what can be said of a `.keras` file, or another that is to be there, without Keras.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If a `.keras` file is not whole.
    """
    path = place(path, "A model file")
    if not path.exists():
        raise FileNotFoundError(f"There is no model file {path}.")
    if isinstance(path, stores.Stored) or path.is_dir():  # what it holds is seen when it is read
        return
    open_regular(path).close()  # what may not be read is to `is_zipfile` no zip file
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no whole .keras file. It may be cut off: get it again.")


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary path beside `path`, which takes its place when the block is done.

    A block that fails, or a process that dies in it, leaves what was at `path` before.

    Args:
        path: The file to write, a path in a folder that exists, or a link to such a file. In a store
            the temporary file is local; it is copied and compared, and a store that dies in it may
            keep a part.

    Yields:
        The `pathlib.Path` to write to; its name ends as that of `path`.

    Raises:
        OSError: If the file cannot be written; says so, and that the old one is unharmed.
    """
    if isinstance(path, stores.Stored):
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder, path.name)
            yield temporary
            path.send(temporary)
        return
    target = pathlib.Path(os.path.realpath(path))
    temporary = target.with_name(f".{os.getpid()}.{pathlib.Path(path).name}")
    try:
        with errors.writing(path, "what was there before is unharmed"):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def in_place(path):
    """A temporary folder that becomes `path` if the block ends well, and vanishes if not.

    Args:
        path: What `place` gives, where there is nothing yet; a `.tar.gz` holds what the folder holds.
            What is for a store is copied there and compared; where that fails, nothing is left.

    Raises:
        FileExistsError: If there is something at `path`.
        OSError: If it cannot be written; says so, and what to do.
    """
    check_free(path)
    if isinstance(path, stores.Stored):
        with tempfile.TemporaryDirectory() as work:
            copy = pathlib.Path(work, path.name)
            with in_place(copy) as folder:
                yield folder
            try:
                path.send(copy)
            except OSError:
                with contextlib.suppress(OSError):
                    path.remove_tree() if copy.is_dir() else path.unlink()
                raise
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        errors.writing(path, "nothing of it is left"),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work,
    ):
        folder = pathlib.Path(work) / "export"
        yield folder
        if path.name.endswith((".tar.gz", ".tgz")):
            archive = pathlib.Path(work) / "archive"
            with tarfile.open(archive, "w:gz") as tar:
                for child in sorted(folder.iterdir()):  # at the root, as TF Hub wants it
                    tar.add(child, arcname=child.name)
            os.replace(archive, path)
        elif folder.is_dir() or folder.is_file():
            os.replace(folder, path)
        else:
            raise RuntimeError(f"Nothing was written for {path}.")


def check_free(path):
    """Refuses a path at which there is something."""
    if path.exists():
        raise FileExistsError(f"{path} exists. Remove it, or choose another path.")


def _sync_folder(folder):
    """Makes a rename last through a power cut, where the system can sync folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder):
    """Removes what `replacing` left in a folder when a process was killed in it.

    Only where no other process writes, such as in a folder that is locked. In a store it leaves none.
    """
    if isinstance(folder, stores.Stored):
        return
    # .PROCESS.NAME; the second kind is that of earlier versions, .NAME.RANDOM
    left = re.compile(r"\.\d+\..+|\.[\w-]+\.(csv|html|json|png|txt)\.\w{8}")
    for path in pathlib.Path(folder).glob(".*"):
        if left.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_whole(path, content):
    """Writes bytes or text whole or not at all, see `replacing`."""
    content = content.encode() if isinstance(content, str) else content
    if isinstance(path, stores.Stored):
        path.write_bytes(content)
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


# where Python has no locks of the system's: a file that a killed process leaves goes on to lock
LOCKS_STAY = filelock.FileLock is filelock.SoftFileLock


@contextlib.contextmanager
def locked(path, wait=True):
    """Keeps other processes out while the block runs; the kernel lets go if this one dies.

    Args:
        path: The lock's own file; in a store that of `stores.owned`.
        wait: Whether to wait for the process that holds it.

    Raises:
        BlockingIOError: If another process holds it and `wait` is False.
    """
    if isinstance(path, stores.Stored):
        with stores.owned(path):
            yield
        return
    lock = filelock.FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BlockingIOError(errno.EAGAIN, "Another process holds the lock", str(path)) from None
    except (OSError, NotImplementedError) as error:  # not every file system has locks
        logging.warning("%s cannot be locked (%s): do not use it twice at a time.", path, error)
    try:
        yield
    finally:
        lock.release()


def digest(path, kind="sha256"):
    """The hash of a file's content, in hexadecimal digits."""
    if isinstance(path, stores.Stored):
        found = hashlib.new(kind)
        for block in path.blocks():
            found.update(block)
        return found.hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


MAX_FILES = 100_000  # Stanford Cars has 16,185
MAX_UNPACKED = 16 << 30  # bytes; the largest released archive holds about 2 GiB


def unpack(archive, folder):
    """Unpacks a .tgz of plain files; anything that could reach outside `folder` is refused.

    Raises:
        ValueError: If the archive is damaged, holds links or devices, leaves the folder, or unpacks
            to more than 16 GiB. Nothing outside `folder` is touched.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members, total = [], 0
            for member in tar:
                parts = pathlib.PurePosixPath(member.name)
                if parts.is_absolute() or ".." in parts.parts:
                    raise ValueError(f"{archive} wants to write to {member.name!r}; refused.")
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{archive} holds {member.name!r}, no plain file; refused.")
                total += member.size
                if total > MAX_UNPACKED or len(members) > MAX_FILES:
                    raise ValueError(
                        f"{archive} unpacks to more than 16 GiB or {MAX_FILES:,} files; refused."
                    )
                members.append(member)
            while tar.fileobj.read(1 << 20):  # to its end, where the checksum is
                pass
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if errors.is_full(error):
            raise OSError(errno.ENOSPC, f"No room in {folder} to unpack {archive}") from error
        raise ValueError(
            f"{archive} is a damaged archive ({error}). It may be cut off: get it again."
        ) from error
