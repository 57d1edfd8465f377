"""Files from the network: whole, with the right hash, or not at all."""

import contextlib
import errno
import http
import http.client
import os
import pathlib
import urllib.error
import urllib.parse
import urllib.request

import tqdm

from keras_effv2 import errors
from keras_effv2.files import digest, locked, write_whole
from keras_effv2.weights.table import STORAGE


def home():
    """The folder that keeps downloads: `KERAS_EFFV2_HOME`, else `~/.keras/keras_effv2`."""
    default = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras") / "keras_effv2"
    return pathlib.Path(os.environ.get("KERAS_EFFV2_HOME") or default).expanduser()


def is_offline():
    """Whether `KERAS_EFFV2_OFFLINE` forbids the network."""
    return os.environ.get("KERAS_EFFV2_OFFLINE", "") not in ("", "0")


def fetch(row, top, check):
    """Fetches a released file, or finds it in the cache; checks it either way, see `download`.

    Pooch, which does this for many packages, starts a broken download over and does not let two
    processes wait for each other; hence this page.

    Args:
        row: A `Row`.
        top: Whether the head is wanted; without, the smaller file is taken where there is one.
        check: Called with the path of a first download whose hash nobody published; raises
            `ValueError` if that is no checkpoint.

    Returns:
        Path of the file.
    """
    url, expected = row.url, row.hash
    if not top and row.url_notop:
        url, expected = row.url_notop, row.hash_notop
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    path, other = folder / url.rsplit("/", 1)[-1], mirror()
    remote = url.replace(STORAGE, other + "/") if other else url
    with locked(folder / f".{path.name}.lock"):
        if expected is None and _pin(path).exists():
            expected = "sha256:" + _pin(path).read_text(encoding="ascii").strip()
        if not path.exists():
            if is_offline():
                raise OSError(
                    f"{path.name} is not in the cache {folder} and KERAS_EFFV2_OFFLINE is set. "
                    f"Unset it, or put the file from {remote} there."
                )
            _fetch_whole(remote, path, expected)
        elif expected is not None:
            _check_hash(path, expected, remote)
        if row.hash is None and not _pin(path).exists():
            try:
                check(path)
            except ValueError as error:
                path.unlink()
                raise ValueError(f"{remote} sent no checkpoint; it was deleted. {error}") from error
            write_whole(_pin(path), digest(path))
    return path


def mirror():
    """The address that `KERAS_EFFV2_MIRROR` names instead of the releases' own servers, or None.

    Raises:
        ValueError: If it is no address.
    """
    address = os.environ.get("KERAS_EFFV2_MIRROR")
    if not address:
        return None
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https", "file") or not (parts.netloc or parts.path):
        raise ValueError(
            f"KERAS_EFFV2_MIRROR is an address such as https://host/path. Received: {address!r}."
        )
    return address.rstrip("/")


def _pin(path):
    return path.with_name(path.name + ".sha256")


def _fetch_whole(url, path, expected):
    """Brings a file under a temporary name, checks it and renames it.

    What arrived before a download broke off is kept, and the next one goes on behind it.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        size = _go_on(url, part)
    except (http.client.HTTPException, OSError) as error:
        if errors.is_full(error):
            part.unlink(missing_ok=True)
            raise OSError(
                errno.ENOSPC,
                f"No room in {path.parent} for {url}: make some, or point KERAS_EFFV2_HOME elsewhere",
            ) from error
        raise OSError(
            f"{url} could not be downloaded: {getattr(error, 'reason', error)}. Check the network, "
            f"set KERAS_EFFV2_MIRROR, or put the file into {path.parent}."
        ) from error
    received = part.stat().st_size
    if size and received != size:
        raise OSError(
            f"The download of {url} broke off after {received} of {size} bytes. Run it again: it "
            "goes on from there."
        )
    if expected is not None:
        _check_hash(part, expected, url)
    os.replace(part, path)


def _go_on(url, part):
    """Appends what is missing of a file to what is there; returns its whole size, 0 if unknown."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        reply = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # it is as long as the file, or longer: begin anew
        return _go_on(url, part)
    with reply:
        goes_on = getattr(reply, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
        there = there if goes_on else 0  # a server that knows no ranges sends all of it
        rest = int(reply.headers.get("Content-Length") or 0)
        size = there + rest if rest else 0
        name = url.rsplit("/", 1)[-1]
        bar = tqdm.tqdm(
            total=size or None, initial=there, desc=name, unit="B", unit_scale=True, disable=None
        )
        with bar, open(part, "ab" if goes_on else "wb") as file:
            with contextlib.suppress(http.client.IncompleteRead):
                while block := reply.read(1 << 20):
                    file.write(block)
                    bar.update(len(block))
    return size


def _check_hash(path, expected, url):
    kind, value = expected.split(":")
    found = digest(path, kind)
    if found != value:
        os.remove(path)
        whose = "of the file that was released"
        if kind == "sha256":  # none was published
            whose = f"of the first download, which {_pin(home() / url.rsplit('/', 1)[-1])} keeps"
        raise ValueError(
            f"{url} has {kind} {found}, expected {value}, {whose}. The copy was deleted; try again, "
            "or ask who serves it."
        )
