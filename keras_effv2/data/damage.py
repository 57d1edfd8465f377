"""Which files are whole pictures, and what is in them."""

import concurrent.futures
import hashlib
import io
import json
import os
import zlib

import tensorflow as tf
import tqdm
from absl import logging

from keras_effv2 import photos, weights
from keras_effv2.files import open_regular, write_whole

# Above this many files contents are not hashed, and what is damaged is remembered.
MANY = 100_000
_PNG = b"\x89PNG\r\n\x1a\n"
UNKNOWN = ""  # the hash of a whole picture that was not read

_USUAL = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes with a known white


def examine(files):
    """Reads files to see whether they can be used as pictures.

    Returns:
        Dictionary from every file to the sha256 of its content in hexadecimal, `UNKNOWN` if there
        are very many, or None for a file that cannot be used. Of very many files those that cannot
        are found once and kept.
    """
    with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as threads:
        if len(files) <= MANY:
            return _hashes(files, threads)
        kept = weights.home() / "checked" / f"{_state_of(files, threads)}.json"
        if kept.exists():  # those that were damaged, which may have been a passing trouble
            suspects = json.loads(kept.read_text(encoding="utf-8"))
            return {**dict.fromkeys(files, UNKNOWN), **_hashes(suspects, threads)}
        logging.info("Reading %d pictures once; which are damaged is kept in %s.", len(files), kept)
        hashes = _hashes(files, threads)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(sorted(file for file in files if hashes[file] is None)))
    except OSError as error:
        logging.warning("Which pictures are damaged cannot be kept: %s", error)
    return {file: found and UNKNOWN for file, found in hashes.items()}


def _hashes(files, threads):
    checks = _each(hash_picture, files, threads)
    return dict(tqdm.tqdm(checks, "checking pictures", len(files), delay=5, disable=None))


def _state_of(files, threads):
    """A hash that changes when a file does."""
    digest = hashlib.sha256()
    for file, state in _each(_stat, files, threads):
        digest.update(f"{file}\0{state}\0".encode())
    return digest.hexdigest()[:32]


def _each(function, files, threads):
    """Yields the files, each with the function's answer; handed out in parts, to save memory."""
    for start in range(0, len(files), 1000):
        part = files[start : start + 1000]
        yield from zip(part, threads.map(function, part), strict=True)


def _stat(file):
    try:
        state = tf.io.gfile.stat(file)
        return state.length, state.mtime_nsec
    except tf.errors.OpError:  # a link to nowhere
        return None


def is_whole(content):
    r"""Whether the bytes of a file are a picture to its end, as far as this is cheap to know.

    A JPEG has its first and last mark, the parts of a PNG have their checksums; others are decoded.

    Example:

    >>> is_whole(b"\xff\xd8 ... \xff\xd9"), is_whole(b"\xff\xd8 ...")
    (True, False)
    """
    if content[:2] == b"\xff\xd8":
        return b"\xff\xd9" in content[-64:]  # some cameras write a little behind it
    if content[:8] == _PNG:
        return _is_whole_png(content)
    try:
        photos.read_image(content)
        return True
    except ValueError:
        return False


def _is_whole_png(content):
    at = len(_PNG)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        part = content[at + 4 : at + 8 + length]
        if zlib.crc32(part).to_bytes(4, "big") != content[at + 8 + length : at + 12 + length]:
            return False
        if part[:4] == b"IEND":
            return True
        at += 12 + length
    return False


def opened(path):
    """A file to read bytes of, local or of a bucket."""
    return tf.io.gfile.GFile(path, "rb") if "://" in path else open_regular(path)


def read(path):
    """The content of a file."""
    with opened(path) as file:
        return file.read()


def hash_picture(path):
    """sha256 of a picture that can be read to its end, at an eighth of its size where JPEG allows.

    Returns:
        The hash in hexadecimal, or None if it cannot be read.
    """
    from PIL import Image

    try:
        content = read(path)
        with photos.open_picture(io.BytesIO(content)) as image:
            if image.width * image.height > photos.MAX_PIXELS:
                return None
            image.draft("RGB", (32, 32))
            image.load()
            if image.mode not in _USUAL:
                photos.read_image(content)
        return hashlib.sha256(content).hexdigest()
    except (*photos.DAMAGE, ValueError, Image.DecompressionBombError):
        return None
    except tf.errors.OpError:  # no right to read it
        return None
