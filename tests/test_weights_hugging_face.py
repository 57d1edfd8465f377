"""Files of the Hugging Face hub, from a server on loopback that speaks as the hub does."""

import hashlib
import http.server
import multiprocessing
import os
import threading

import pytest

from keras_effv2.weights import hugging_face

REPOSITORY = "timm/tiny.sw_in1k"


class Hub(http.server.ThreadingHTTPServer):
    """Serves one file; `published` is the sha256 in its headers, `length` the size."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b"x" * 5000
        self.published = self.length = None
        self.hits = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()
        self.wfile.write(self.server.content)

    def answer(self):
        hub = self.server
        hub.hits.append((self.command, self.path, self.headers.get("authorization")))
        if hub.content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            hub.content = b""
            return self.end_headers()
        self.send_response(200)
        length = str(hub.length or len(hub.content))
        self.send_header("Content-Length", length)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("X-Linked-Size", length)
        sha256 = hub.published or hashlib.sha256(hub.content).hexdigest()
        self.send_header("X-Linked-ETag", f'"{sha256}"')
        self.send_header("ETag", f'"{sha256}"')
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub.constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_a_users_own")
    yield server
    server.shutdown()
    server.server_close()


def cached(tmp_path):
    """What the hub's cache holds, but for its empty files and marks."""
    return [p for p in (tmp_path / "hub").rglob("blobs/*") if p.is_file() and p.stat().st_size]


def test_a_file_comes_once_and_is_there_offline(hub, tmp_path, monkeypatch):
    path = hugging_face.fetch(REPOSITORY)
    assert path.read_bytes() == hub.content
    command, address, token = hub.hits[-1]
    assert (command, address) == ("GET", f"/{REPOSITORY}/resolve/main/model.safetensors")
    assert token == "Bearer hf_a_users_own"
    kept = tmp_path / "home" / "tiny.sw_in1k.safetensors.sha256"
    assert kept.read_text() == hashlib.sha256(hub.content).hexdigest()
    gets = [hit for hit in hub.hits if hit[0] == "GET"]
    assert hugging_face.fetch(REPOSITORY) == path
    assert [hit for hit in hub.hits if hit[0] == "GET"] == gets
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    hits = len(hub.hits)
    assert hugging_face.fetch(REPOSITORY) == path and len(hub.hits) == hits
    path.resolve().write_bytes(b"changed")
    with pytest.raises(ValueError, match="expected .*, which the hub publishes.*deleted"):
        hugging_face.fetch(REPOSITORY)
    with pytest.raises(OSError, match="KERAS_EFFV2_OFFLINE is set and the hub's cache lacks it"):
        hugging_face.fetch(REPOSITORY)


def test_another_hash_than_the_published_is_refused(hub, tmp_path):
    hub.published = hashlib.sha256(b"what was released").hexdigest()
    with pytest.raises(ValueError, match=f"expected {hub.published}, which the hub publishes"):
        hugging_face.fetch(REPOSITORY)
    assert cached(tmp_path) == []


def test_another_file_than_the_first_is_refused(hub, tmp_path):
    first = hugging_face.fetch(REPOSITORY)
    first.unlink()
    hub.content = b"y" * 5000  # which the hub vouches for
    with pytest.raises(ValueError, match="tiny.sw_in1k.safetensors.sha256 keeps of the first"):
        hugging_face.fetch(REPOSITORY)


@pytest.mark.parametrize("trouble", ["missing", "truncated"])
def test_a_failed_download_leaves_nothing(trouble, hub, tmp_path):
    hub.content = None if trouble == "missing" else b"x" * 5000
    hub.length = 9000 if trouble == "truncated" else None
    with pytest.raises(OSError, match=f"model.safetensors of {REPOSITORY} could not be fetched"):
        hugging_face.fetch(REPOSITORY)
    assert not [p for p in cached(tmp_path) if not p.name.endswith(".incomplete")]


def _fetch(queue, cache):
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_CACHE = cache
    queue.put(hugging_face.fetch(REPOSITORY).read_bytes())


def test_two_processes_fetch_once(hub, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    arguments = (queue, os.fspath(tmp_path / "hub"))
    workers = [context.Process(target=_fetch, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [hub.content] * 2
    for worker in workers:
        worker.join()
    assert len([hit for hit in hub.hits if hit[0] == "GET"]) == 1
