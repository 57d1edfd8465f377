"""Files of the Hugging Face hub, through its own library: its cache, resumption and tokens."""

import os
import pathlib

from absl import logging

from keras_effv2 import errors, needs
from keras_effv2.files import digest, locked, write_whole
from keras_effv2.weights.download import home, is_offline, mirror

FILE = "model.safetensors"  # what timm calls the weights in each of its repositories


def fetch(repository: str) -> pathlib.Path:
    """Brings the weights of a repository, or finds them in the hub's cache; checks them either way.

    The hub publishes the sha256 of a large file before its download, and its cache names the file
    so: what arrives under another is deleted. The sha256 of the first download is kept beside the
    other downloads and has to match ever after, whatever the hub publishes then. Two processes that
    want the same file wait for each other.

    Args:
        repository: `"owner/name"`.

    Returns:
        Path of the file in the hub's cache.

    Raises:
        ImportError: If `huggingface_hub` is not installed.
        OSError: If the network fails or offline mode is on and the file is not in the cache.
        ValueError: If its sha256 is another than the published or the kept one; it is deleted.
    """
    with needs.naming(f"Fetching {repository}", "or give the path of the file"):
        import huggingface_hub
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    pin = folder / f"{repository.rsplit('/', 1)[-1]}.safetensors.sha256"
    with locked(folder / f".{pin.name}.lock"):
        try:
            path = huggingface_hub.hf_hub_download(
                repository, FILE, endpoint=mirror(), local_files_only=is_offline()
            )
        except Exception as error:  # whatever the library of the day raises
            offline = (
                "KERAS_EFFV2_OFFLINE is set and the hub's cache lacks it: unset it"
                if is_offline()
                else "check the network, set KERAS_EFFV2_MIRROR"
            )
            raise OSError(
                f"{FILE} of {repository} could not be fetched: {offline}, or give the path of a "
                f"file you have ({type(error).__name__}: {errors.first_line(error)})."
            ) from error
        _check(pathlib.Path(path), pin, repository)
    return pathlib.Path(path)


def _check(path, pin, repository):
    """Compares a file with the sha256 that its cache is named after, and with the one kept."""
    found, blob = digest(path), pathlib.Path(os.path.realpath(path))
    wanted = {"the hub publishes": blob.name} if len(blob.name) == 64 else {}
    if pin.exists():
        wanted[f"{pin} keeps of the first download"] = pin.read_text(encoding="ascii").strip()
    for whose, value in wanted.items():
        if found != value:
            path.unlink()
            blob.unlink(missing_ok=True)
            raise ValueError(
                f"{repository} has sha256 {found}, expected {value}, which {whose}. The copy was "
                "deleted; try again, or ask who serves it."
            )
    if not wanted:
        logging.warning(
            "Nobody published a sha256 of %s: that of this download is kept.", repository
        )
    if not pin.exists():
        write_whole(pin, found)
