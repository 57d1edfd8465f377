"""Which files are whole pictures, and what is in them."""

import concurrent.futures
import hashlib
import io
import os

import tqdm
from absl import logging

from keras_effv2 import photos
from keras_effv2.files import open_regular
from keras_effv2.stores import is_address

# Above this many files, of a store, damage is found while they are read, and contents are not hashed.
MANY, MANY_STORED = 100_000, 10_000
UNREAD = ""  # the hash of a file that was not read

_USUAL = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes with a known white


def are_many(files):
    """Whether files are too many to read them all before they are needed."""
    return len(files) > (MANY_STORED if files and is_address(files[0]) else MANY)


def examine(files, strict=False):
    """Reads files to see whether they can be used as pictures.

    Args:
        files: Paths.
        strict: Whether very many are read as well.

    Returns:
        Dictionary from every file to the sha256 of its content in hexadecimal, `UNREAD` if there
        are very many, or None for a file that cannot be used.
    """
    if are_many(files) and not strict:
        logging.info(
            "%d pictures are not read beforehand: those that are damaged will be named as they are "
            "met.",
            len(files),
        )
        return dict.fromkeys(files, UNREAD)
    with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as threads:
        checks = _each(hash_picture, files, threads)
        return dict(tqdm.tqdm(checks, "checking pictures", len(files), delay=5, disable=None))


def _each(function, files, threads):
    """Yields the files, each with the function's answer; handed out in parts, to save memory."""
    for start in range(0, len(files), 1000):
        part = files[start : start + 1000]
        yield from zip(part, threads.map(function, part), strict=True)


def warn_of(skipped):
    """Says how many pictures were left out, and names three."""
    if skipped:
        logging.warning(
            "%d damaged, unreadable or too large pictures are left out: %s%s",
            len(skipped),
            ", ".join(skipped[:3]),
            " ..." if len(skipped) > 3 else "",
        )


def read(path):
    """The content of a file."""
    with open_regular(path) as file:
        return file.read()


def hash_picture(path):
    """sha256 of a picture that can be used, in hexadecimal, or None."""
    content = read_or_none(path)
    return hashlib.sha256(content).hexdigest() if is_usable(content) else None


def read_or_none(path):
    """The content of a file, or None if there is none or it may not be read."""
    try:
        return read(path)
    except (OSError, ValueError):
        return None


def is_usable(content):
    r"""Whether the bytes of a file are a picture to its end; of a JPEG an eighth of its size is made.

    Example:

    >>> is_usable(b"\xff\xd8 ... \xff\xd9"), is_usable(None)
    (False, False)
    """
    from PIL import Image

    if not content:
        return False
    try:
        with photos.open_picture(io.BytesIO(content)) as image:
            if image.width * image.height > photos.MAX_PIXELS:
                return False
            image.draft("RGB", (32, 32))
            image.load()
            if image.mode not in _USUAL:
                photos.read_image(content)
        return True
    except (*photos.DAMAGE, ValueError, Image.DecompressionBombError):
        return False
