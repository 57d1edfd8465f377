"""Handles of published SavedModels: TF Hub, Kaggle, Hugging Face. The caches come first.

| handle | found in the caches of | fetched by |
| --- | --- | --- |
| `https://tfhub.dev/...`, any other `https://....tar.gz` | tensorflow_hub, kagglehub | tensorflow_hub |
| `owner/model/tensorFlow2/variation[/version]`, `https://www.kaggle.com/models/...` | the same | kagglehub |
| `hf://owner/repository[@revision]` | huggingface_hub | huggingface_hub |
| a folder | itself | |
"""

import contextlib
import hashlib
import os
import pathlib
import re

from keras_effv2 import errors, needs
from keras_effv2.stores import is_address
from keras_effv2.weights.download import home, is_offline

_KAGGLE = re.compile(
    r"(?:https?://(?:www\.)?kaggle\.com/models/)?(?P<owner>[\w-]+)/(?P<model>[\w-][\w.-]*)/"
    r"(?:frameworks/)?tensorflow(?P<framework>[12])/(?:variations/)?(?P<variation>[\w-][\w.-]*)"
    r"(?:/(?:versions/)?(?P<version>\d+))?/?",
    re.IGNORECASE,
)
_HUGGING_FACE = re.compile(
    r"hf://(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w-][\w./-]*))?/?"
)
# the models of this package have moved from tfhub.dev to Kaggle
_TF_HUB = re.compile(
    r"https?://tfhub\.dev/google/imagenet/efficientnet_v2_(?P<name>\w+)/(?P<kind>\w+)/(?P<version>\d+)"
)


def is_remote(handle):
    """Whether a handle names something elsewhere: an address, or a Kaggle handle.

    Example:

    >>> is_remote("google/efficientnet-v2/tensorFlow2/imagenet1k-b0-feature-vector/2")
    True
    >>> is_remote("exports/flowers")
    False
    """
    return is_address(handle) or bool(_KAGGLE.fullmatch(handle) and not os.path.exists(handle))


def resolve_hub(handle):
    """The local folder of a SavedModel: out of a cache, or fetched into one.

    Caches are those under `KERAS_EFFV2_HOME`, and those of `tensorflow_hub`, `kagglehub` and
    `huggingface_hub` where their own variables (`TFHUB_CACHE_DIR`, `KAGGLEHUB_CACHE`, `HF_HUB_CACHE`,
    `HF_HOME`) or defaults say.

    Args:
        handle: As the table above shows.

    Returns:
        Path of a folder with `saved_model.pb`.

    Raises:
        ValueError: If the handle is of no known form.
        ImportError: If the package that fetches it is not installed.
        OSError: If it cannot be fetched, or is in no cache and `KERAS_EFFV2_OFFLINE` is set.
    """
    if os.path.exists(os.path.join(handle, "saved_model.pb")):
        return handle
    if not is_remote(handle) or (handle.startswith("hf:") and not _HUGGING_FACE.fullmatch(handle)):
        raise ValueError(
            f"{handle} is no folder with a SavedModel and no handle of one. Handles are "
            "https://tfhub.dev/..., owner/model/tensorFlow2/variation/version (Kaggle), "
            "https://www.kaggle.com/models/..., hf://owner/repository, https://....tar.gz."
        )
    if not handle.startswith(("http://", "https://", "hf://")) and is_address(handle):
        raise ValueError(f"{handle} cannot be read in place. Copy it into a local folder first.")
    for folder in _cached(handle):
        if found := _saved_model_in(folder):
            return found
    if is_offline():
        raise OSError(
            f"{handle} is in no cache (looked under {home()} and in the caches of tensorflow_hub, "
            "kagglehub and huggingface_hub) and KERAS_EFFV2_OFFLINE is set. Unset it."
        )
    fetch = _fetch_tf_hub
    if _kaggle(handle):
        fetch = _fetch_kaggle
    elif handle.startswith("hf://"):
        fetch = _fetch_hugging_face
    return _checked(handle, _fetched(handle, fetch))


def resolve_repository(handle):
    """The local folder of a Hugging Face repository, with all its files: cached, or fetched.

    Args:
        handle: `hf://owner/repository` or `hf://owner/repository@revision`.

    Raises:
        ValueError: If the handle is of another form.
        ImportError: If huggingface_hub is not installed.
        OSError: If it cannot be fetched, or is in no cache and `KERAS_EFFV2_OFFLINE` is set.
    """
    if not _HUGGING_FACE.fullmatch(handle):
        raise ValueError(f"{handle} is not of the form hf://owner/repository or ...@revision.")
    return _fetched(handle, _fetch_hugging_face)


def _kaggle(handle):
    """The parts of what kagglehub calls this handle, or None."""
    match = _TF_HUB.fullmatch(handle)
    if match:
        variation = f"{match['name']}-{match['kind']}".replace("_", "-").lower()
        return ("google", "efficientnet-v2", "tensorFlow2", variation, match["version"])
    match = _KAGGLE.fullmatch(handle)
    if not match:
        return None
    framework = f"tensorFlow{match['framework']}"
    return (match["owner"], match["model"], framework, match["variation"], match["version"])


_DESTINATIONS = {
    "hf": (re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*"), "hf:me/flowers"),
    "kaggle": (
        re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*/(keras|tensorFlow2)/[\w-][\w.-]*", re.IGNORECASE),
        "kaggle:me/flowers/keras/b0",
    ),
}


def destination(to):
    """Where a model can be published: `("hf" or "kaggle", its handle there)`.

    Raises:
        ValueError: If there is no such place; shows what they look like.

    Example:

    >>> destination("hf:me/flowers")
    ('hf', 'me/flowers')
    """
    where, _, handle = to.partition(":")
    pattern, _ = _DESTINATIONS.get(where, (None, None))
    if pattern is None or not pattern.fullmatch(handle.removeprefix("//")):
        known = " or ".join(example for _, example in _DESTINATIONS.values())
        raise ValueError(f"A place to publish is such as {known}. Received: {to!r}.")
    return where, handle.removeprefix("//")


# ---------------------------------------------------------------------------------------- caches


def _cached(handle):
    """The folders that may hold a handle's SavedModel."""
    name = hashlib.sha1(handle.encode()).hexdigest()  # as tensorflow_hub names it
    for cache in _caches("TFHUB_CACHE_DIR"):
        yield cache / name
    parts = _kaggle(handle)
    if parts:
        for cache in _caches("KAGGLEHUB_CACHE", "~/.cache/kagglehub"):
            yield from _kaggle_versions(cache.joinpath("models", *parts[:4]), parts[4])
    match = _HUGGING_FACE.fullmatch(handle)
    if match:
        repository = "models--" + match["repository"].replace("/", "--")
        face = pathlib.Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
        for cache in _caches("HF_HUB_CACHE", face):
            revision = match["revision"] or "main"
            reference = cache / repository / "refs" / revision
            if reference.is_file():
                revision = reference.read_text(encoding="ascii").strip()
            yield cache / repository / "snapshots" / revision


def _caches(variable, default=None):
    """Ours, and that of the package that the variable or the default belongs to."""
    yield home() / variable.lower()
    theirs = os.environ.get(variable) or default
    if theirs:
        yield pathlib.Path(theirs).expanduser()


def _kaggle_versions(folder, version):
    """What kagglehub has marked as complete, the newest first."""
    numbers = [version] if version else []
    if not version and folder.is_dir():
        found = (path.stem for path in folder.glob("*.complete"))
        numbers = sorted((n for n in found if n.isdigit()), key=int, reverse=True)
    for number in numbers:
        if (folder / f"{number}.complete").exists():
            yield folder / number


# --------------------------------------------------------------------------------------- network


def _fetched(handle, fetch):
    try:
        with needs.naming(f"Fetching {handle}"):
            return fetch(handle)
    except ImportError:
        raise
    except Exception as error:  # whatever the resolver of the day raises
        raise OSError(f"{handle} could not be fetched: {errors.first_line(error)}.") from error


def _fetch_kaggle(handle):
    import kagglehub

    with kept_at_home("KAGGLEHUB_CACHE"):
        return kagglehub.model_download("/".join(filter(None, _kaggle(handle))))


def _fetch_hugging_face(handle):
    import huggingface_hub

    match = _HUGGING_FACE.fullmatch(handle)
    cache = os.environ.get("HF_HUB_CACHE") or home() / "hf_hub_cache"
    return huggingface_hub.snapshot_download(
        match["repository"],
        revision=match["revision"],
        cache_dir=cache,
        local_files_only=is_offline(),
    )


def _fetch_tf_hub(handle):
    import tensorflow_hub

    with kept_at_home("TFHUB_CACHE_DIR"):
        return tensorflow_hub.resolve(handle)


@contextlib.contextmanager
def kept_at_home(variable):
    """Within the block a package without a cache of the user's keeps what it fetches under ours."""
    if os.environ.get(variable):
        yield
        return
    os.environ[variable] = str(home() / variable.lower())
    try:
        yield
    finally:
        del os.environ[variable]


def _checked(handle, folder):
    found = _saved_model_in(folder)
    if not found:
        raise OSError(
            f"{handle} holds no SavedModel (saved_model.pb). It lies in {folder}: pass the folder in "
            "it that has one."
        )
    return found


def _saved_model_in(folder):
    """A folder, or what `effv2 publish` puts there as `hub`; None if neither is a SavedModel."""
    for found in (os.fspath(folder), os.path.join(folder, "hub")):
        if os.path.isfile(os.path.join(found, "saved_model.pb")):
            return found
    return None
