"""A finished run goes to Hugging Face or Kaggle, and is fetched again before that is called done."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import shutil
import tempfile
import time
import zipfile

from absl import logging

from keras_effv2 import errors, files, model_files, needs
from keras_effv2.exporting import formats, page, reusable
from keras_effv2.training import records
from keras_effv2.weights.download import is_offline
from keras_effv2.weights.handles import destination

_KAGGLE_LICENCES = {"apache-2.0": "Apache 2.0", "mit": "MIT", "cc0-1.0": "CC0: Public Domain"}
_OPTIONAL = ("hub/**", "model.tflite", "evaluation.json", "history.png")  # what may go, or not
_PATIENCE = 600  # seconds in which Kaggle has to serve what it was sent


@dataclasses.dataclass(frozen=True)
class Published:
    """What was sent, or would be.

    Attributes:
        files: Pairs `(name, bytes)`, sorted.
        page: Text of the README.md among them.
        address: Where it can be seen; None after a dry run.
    """

    files: tuple[tuple[str, int], ...]
    page: str
    address: str | None = None


@needs.naming("Publishing", extra="publish")
def publish(
    workdir: str | os.PathLike,
    to: str,
    *,
    licence: str = "apache-2.0",
    private: bool = False,
    dry_run: bool = False,
) -> Published:
    """Sends a finished run to Hugging Face or Kaggle, fetches it again and compares every byte.

    What goes: a README.md with the hub's metadata (licence, task, results with intervals, pictures
    used, limits), `model.keras` and, for `keras.saving.load_model("hf://...")`, the same unpacked,
    `hub/` for TF Hub, `model.tflite`, `labels.txt`, `evaluation.json` and `history.png`. What does
    not go: the report and the previews, which show pictures, the checkpoints, paths of your machine.

    Args:
        workdir: Folder of a finished run of `train` or `finetune`.
        to: `"hf:owner/name"`, or `"kaggle:owner/model/keras/variation"`.
        licence: The hub's identifier of the licence that you give. Released weights are Apache-2.0;
            that you may publish what was learnt from your pictures is for you to know.
        private: Whether a new repository of Hugging Face is to be private. New models of Kaggle are,
            until you change it there.
        dry_run: Make everything, send nothing.

    Returns:
        A `Published`.

    Raises:
        ValueError: If `to` is no such place.
        FileNotFoundError: If the workdir holds no finished run.
        ImportError: If a library is missing; says which.
        OSError: If the upload fails, or what is served is not what was sent.

    Example:

        publish("runs/mine", "hf:me/flowers", dry_run=True).files
    """
    where, handle = destination(to)
    importlib.import_module("huggingface_hub" if where == "hf" else "kagglehub")  # or say so now
    run = files.place(workdir, "The workdir")
    for name in ("model.keras", "summary.json", "labels.txt"):
        if not (run / name).is_file():
            raise FileNotFoundError(
                f"{run} holds no finished run: it lacks {name}. Give the workdir of effv2 "
                "finetune or train, and run that to its end."
            )
    if is_offline() and not dry_run:
        raise OSError("KERAS_EFFV2_OFFLINE is set and forbids publishing. Unset it.")
    with (
        tempfile.TemporaryDirectory() as temporary,
        files.fetched(run, but=("checkpoints", "tensorboard")) as run,
    ):
        folder = pathlib.Path(temporary, "sent")
        folder.mkdir()
        text = _collect(run, folder, to, licence)
        sent = tuple((name, (folder / name).stat().st_size) for name in _names(folder))
        if dry_run:
            return Published(sent, text)
        exchange = _hugging_face if where == "hf" else _kaggle
        address = exchange(handle, folder, pathlib.Path(temporary, "fetched"), licence, private)
    return Published(sent, text, address)


def _names(folder):
    """Names of all files below a folder, with `/`, but for what the hubs put there themselves."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    own = ((".cache",), (".gitattributes",))
    return sorted(path.as_posix() for path in found if path.parts[:1] not in own)


# ------------------------------------------------------------------------------------ what goes


def _collect(workdir, folder, to, licence):
    """Puts everything into a folder; returns the page's text."""
    model = model_files.load_keras(workdir / "model.keras")
    for name in ("model.keras", "labels.txt", "evaluation.json", "history.png"):
        if (workdir / name).exists():
            shutil.copyfile(workdir / name, folder / name)
    with zipfile.ZipFile(workdir / "model.keras") as archive:
        archive.extractall(folder)
    if records.is_exported(workdir):
        shutil.copytree(workdir / "hub", folder / "hub")
    else:
        reusable.export_hub(model, folder / "hub")
    try:
        formats.export(model, folder / "model.tflite", "tflite")
        (folder / "model.tflite.json").unlink()
    except RuntimeError as error:
        logging.warning("It goes without model.tflite: %s", error)
    text = page.page(workdir, model, _names(folder), to, licence)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


# --------------------------------------------------------------------------- to and fro, compared


def _differing(sent, fetched):
    """Names of files that are missing in `fetched` or have other bytes there."""
    return [
        name
        for name in _names(sent)
        if not (fetched / name).is_file()
        or files.digest(sent / name) != files.digest(fetched / name)
    ]


def _check(differing, address):
    if differing:
        raise OSError(
            f"What {address} serves is not what was sent: {', '.join(differing[:5])}"
            f"{' and more' if len(differing) > 5 else ''}. Look there, and publish again."
        )


def _hugging_face(handle, folder, fetched, licence, private):
    import huggingface_hub

    api = huggingface_hub.HfApi(os.environ.get("HF_ENDPOINT"), library_name="keras_effv2")
    address = f"{api.endpoint}/{handle}"
    with _said(address, "hf auth login"):
        api.create_repo(handle, private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=handle,
            folder_path=folder,
            commit_message="effv2 publish",
            delete_patterns=list(_OPTIONAL),  # of an older run, where this one has none
        )
        api.snapshot_download(handle, revision=commit.oid, local_dir=fetched)
    _check(_differing(folder, fetched), address)
    return address


def _kaggle(handle, folder, fetched, licence, private):
    import kagglehub

    owner, name, framework, variation = handle.split("/")
    address = f"https://www.kaggle.com/models/{owner}/{name}/{framework}/{variation}"
    with _said(address, "kagglehub.login()"):
        given = _KAGGLE_LICENCES.get(licence, licence)
        kagglehub.model_upload(handle, str(folder), license_name=given)
    until, differing = time.monotonic() + _PATIENCE, _names(folder)
    while differing and time.monotonic() < until:
        try:  # Kaggle unpacks what it was sent, and serves the version before it meanwhile
            found = kagglehub.model_download(handle, force_download=True)
            differing = _differing(folder, pathlib.Path(found))
        except Exception as error:  # whatever the library of the day raises
            logging.info("%s is not served yet (%s).", address, error)
        if differing:
            time.sleep(min(10, _PATIENCE / 10))
    _check(differing, address)
    return address


@contextlib.contextmanager
def _said(address, login):
    """Within the block: what a hub's library raises becomes one sentence."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # whatever the library of the day raises
        raise OSError(
            f"{address} could not be written or read again: {errors.first_line(error)}. Check the "
            f"network, and log in: {login}."
        ) from error
