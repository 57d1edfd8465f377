"""Which files are whole pictures, and what is in them."""

import concurrent.futures
import hashlib
import io
import json
import os

import tensorflow as tf
import tqdm
from absl import logging

from keras_effv2 import photos, weights
from keras_effv2.files import open_regular, write_whole

# Above this many files contents are not hashed, and what is damaged is remembered.
MANY = 100_000
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


def read(path):
    """The content of a file."""
    with tf.io.gfile.GFile(path, "rb") if "://" in path else open_regular(path) as file:
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
