"""Uploads of exports to Kaggle and Hugging Face."""

import importlib
import pathlib

from keras_effv2 import needs


def publish(path, to, handle, dry_run=True):
    """Uploads an export to Kaggle or Hugging Face, or shows what would be sent.

    Args:
        path: Folder that `export_hub` wrote.
        to: `"kaggle"` (kagglehub) or `"hf"` (huggingface_hub).
        handle: Name there, such as `"user/model/tensorFlow2/name"` or `"user/name"`.
        dry_run: Only list the files.

    Returns:
        A list of `(file, bytes)`.

    Raises:
        ValueError: If `to` is unknown.
        FileNotFoundError: If there is no export at `path`.
        ImportError: If the uploader is not installed.
        OSError: If the upload fails.
    """
    if to not in ("kaggle", "hf"):
        raise ValueError(f"`to` is 'kaggle' or 'hf'. Received: {to!r}.")
    folder = pathlib.Path(path)
    if not (folder / "saved_model.pb").exists():
        raise FileNotFoundError(
            f"{path} is no folder with a SavedModel. Make it with export_hub first."
        )
    files = [
        (str(f.relative_to(folder)), f.stat().st_size) for f in folder.rglob("*") if f.is_file()
    ]
    if dry_run:
        return sorted(files)
    with needs.naming("Publishing", extra="publish"):
        uploader = importlib.import_module("kagglehub" if to == "kaggle" else "huggingface_hub")
    try:
        if to == "kaggle":
            uploader.model_upload(handle, str(folder))
        else:
            uploader.create_repo(handle, exist_ok=True)
            uploader.upload_folder(repo_id=handle, folder_path=str(folder))
    except Exception as error:  # whatever the uploader of the day raises
        raise OSError(f"{handle} could not be uploaded: {error}. Are you logged in?") from error
    return sorted(files)
