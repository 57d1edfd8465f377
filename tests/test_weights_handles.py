"""Handles of published SavedModels, in caches made by hand and by fetchers that only take notes."""

import hashlib
import os
import sys
import types

import pytest

from keras_effv2 import weights

FLOWERS = "me/flowers/tensorFlow2/small"
B0 = "google/efficientnet-v2/tensorFlow2/imagenet1k-b0-feature-vector"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Every cache in a folder of the test, and no network."""
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "ours"))
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("TFHUB_CACHE_DIR", "KAGGLEHUB_CACHE", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for fetcher in ("tensorflow_hub", "kagglehub", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, fetcher, None)  # not installed: a cache needs none
    return tmp_path


def put(folder):
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"a graph")
    return str(folder)


def sha1(handle):
    return hashlib.sha1(handle.encode()).hexdigest()


@pytest.mark.parametrize("where", ["ours", "theirs"])
def test_addresses_are_found_where_tensorflow_hub_keeps_them(where, caches, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(caches / "theirs"))
    root = {"ours": caches / "ours/tfhub_cache_dir", "theirs": caches / "theirs"}[where]
    for handle in ("https://tfhub.dev/google/x/1", "https://some.where/x.tar.gz"):
        folder = put(root / sha1(handle))
        assert weights.resolve_hub(handle) == folder


@pytest.mark.parametrize("where", ["ours", "theirs", "default"])
def test_kaggle_handles_are_found_in_every_spelling(where, caches, monkeypatch):
    root = {
        "ours": caches / "ours/kagglehub_cache",
        "theirs": caches / "theirs",
        "default": caches / "home/.cache/kagglehub",
    }[where]
    if where == "theirs":
        monkeypatch.setenv("KAGGLEHUB_CACHE", str(root))
    folder = put(root / "models" / B0 / "2")
    (root / "models" / B0 / "2.complete").touch()
    for handle in (
        B0 + "/2",
        B0,
        f"https://www.kaggle.com/models/{B0}/2",
        "https://www.kaggle.com/models/google/efficientnet-v2/frameworks/TensorFlow2/variations/"
        "imagenet1k-b0-feature-vector/versions/2",
        "https://kaggle.com/models/google/efficientnet-v2/TensorFlow2/imagenet1k-b0-feature-vector/2",
        "https://tfhub.dev/google/imagenet/efficientnet_v2_imagenet1k_b0/feature_vector/2",
    ):
        assert weights.is_remote(handle)
        assert weights.resolve_hub(handle) == folder, handle


def test_without_a_version_the_newest_whole_one_is_taken(caches):
    root = caches / "ours/kagglehub_cache/models" / FLOWERS
    for version in ("9", "10", "11"):
        put(root / version)
    for version in ("9", "10"):  # 11 broke off
        (root / f"{version}.complete").touch()
    assert weights.resolve_hub(FLOWERS) == str(root / "10")
    assert weights.resolve_hub(FLOWERS + "/9") == str(root / "9")
    with pytest.raises(
        OSError, match="flowers/tensorFlow2/small/11 is in no cache.*OFFLINE is set"
    ):
        weights.resolve_hub(FLOWERS + "/11")


@pytest.mark.parametrize("where", ["ours", "HF_HUB_CACHE", "HF_HOME", "default"])
def test_hugging_face_handles(where, caches, monkeypatch):
    roots = {"ours": "ours/hf_hub_cache", "HF_HOME": "theirs/hub", "HF_HUB_CACHE": "theirs"}
    root = caches / roots.get(where, "home/.cache/huggingface/hub")
    if where.startswith("HF"):
        monkeypatch.setenv(where, str(caches / "theirs"))
    repository = root / "models--me--flowers"
    main, old = put(repository / "snapshots/c0ffee"), put(repository / "snapshots/0ld")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("c0ffee")
    assert weights.resolve_hub("hf://me/flowers") == main
    assert weights.resolve_hub("hf://me/flowers@0ld") == old


def test_folders_come_before_everything(caches, monkeypatch):
    monkeypatch.chdir(caches)
    put(caches / FLOWERS)
    assert not weights.is_remote(FLOWERS)
    assert weights.resolve_hub(FLOWERS) == FLOWERS


def test_what_is_no_handle_gets_the_list_of_forms(caches):
    for handle in ("flowers", "hf://flowers", "hf://../x/y", "me/../tensorFlow2/x/1", str(caches)):
        with pytest.raises(
            ValueError, match="no folder with a SavedModel and no handle.*hf://owner"
        ):
            weights.resolve_hub(handle)
    for handle in ("gs://bucket/x", "ram://x"):
        with pytest.raises(ValueError, match="cannot be read in place. Copy it"):
            weights.resolve_hub(handle)
    assert sorted(path.name for path in caches.iterdir()) == []


FETCHED = {
    FLOWERS + "/3": ("kagglehub", FLOWERS + "/3", "KAGGLEHUB_CACHE"),
    f"https://www.kaggle.com/models/{FLOWERS}": ("kagglehub", FLOWERS, "KAGGLEHUB_CACHE"),
    "hf://me/flowers": ("huggingface_hub", "me/flowers", None),
    "https://some.where/x.tar.gz": (
        "tensorflow_hub",
        "https://some.where/x.tar.gz",
        "TFHUB_CACHE_DIR",
    ),
}


@pytest.mark.parametrize("handle", FETCHED)
def test_what_no_cache_has_is_fetched_into_ours(handle, caches, monkeypatch):
    package, name, variable = FETCHED[handle]
    with pytest.raises(OSError, match="is in no cache"):
        weights.resolve_hub(handle)
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE")
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'keras_effv2\[hub\]'"):
        weights.resolve_hub(handle)
    asked = []

    def fetch(given, revision=None, cache_dir=None, local_files_only=False):
        asked.append((given, cache_dir or os.environ[variable]))
        return made

    module = types.SimpleNamespace(resolve=fetch, model_download=fetch, snapshot_download=fetch)
    monkeypatch.setitem(sys.modules, package, module)
    made = caches / "made"
    made.mkdir()
    with pytest.raises(OSError, match="holds no SavedModel"):
        weights.resolve_hub(handle)
    made = put(caches / "whole")
    assert weights.resolve_hub(handle) == made
    assert all(str(where).startswith(str(caches / "ours")) for _, where in asked)
    assert [given for given, _ in asked] == [name] * 2
    monkeypatch.setattr(module, "resolve", None)
    for key in ("model_download", "snapshot_download"):
        monkeypatch.setattr(module, key, None)
    with pytest.raises(OSError, match="could not be fetched"):
        weights.resolve_hub(handle)
