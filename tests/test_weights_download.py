"""Downloads from a server on loopback, and every way in which they can go wrong."""

import errno
import hashlib
import http.server
import multiprocessing
import threading

import numpy as np
import pytest
from checkpoint_files import pack, write_automl, write_legacy

from keras_effv2 import weights


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on loopback, and a registry row that points to it."""
    files, hits = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            if self.path not in files:
                return self.send_error(404)
            content, length = files[self.path]
            start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
            if start >= length > 0:
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(length - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *_):
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE", raising=False)
    yield files, hits
    listener.shutdown()
    listener.server_close()


def row(content=None, name="w.h5"):
    digest = None if content is None else "md5:" + hashlib.md5(content).hexdigest()
    return weights.Row(
        "TinyEfficientNetV2", "tiny", 10, "128", "softmax", weights.STORAGE + name, digest
    )


def cached(tmp_path):
    """What a user finds in the cache."""
    return sorted(p.name for p in (tmp_path / "home").glob("[!.]*"))


def test_download_verify_and_cache(server, tmp_path, tiny_effnet, images, monkeypatch):
    files, hits = server
    model = tiny_effnet()
    write_legacy(model, tmp_path / "w.h5")
    content = (tmp_path / "w.h5").read_bytes()
    files["/w.h5"] = (content, len(content))
    monkeypatch.setitem(weights.CHECKPOINTS, ("TinyEfficientNetV2", "tiny"), row(content))
    for _ in range(2):
        np.testing.assert_array_equal(tiny_effnet(weights="tiny")(images), model(images))
    assert hits == ["/w.h5"] and cached(tmp_path) == ["w.h5"]
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    tiny_effnet(weights="tiny")
    (tmp_path / "home" / "w.h5").write_bytes(b"changed")
    with pytest.raises(ValueError, match="expected"):
        tiny_effnet(weights="tiny")
    with pytest.raises(OSError, match="KERAS_EFFV2_OFFLINE"):
        tiny_effnet(weights="tiny")


@pytest.mark.parametrize(
    "served, error, words",
    [
        ((b"evil", 4), ValueError, "expected"),
        ((b"half", 9), OSError, "broke off|could not"),
        (None, OSError, "could not be downloaded"),
    ],
)
def test_failed_downloads_leave_nothing(served, error, words, server, tmp_path, monkeypatch):
    if served:
        server[0]["/w.h5"] = served
    with pytest.raises(error, match=words):
        weights.download(row(b"good"))
    assert cached(tmp_path) == []


def test_a_broken_download_goes_on_where_it_was(server, tmp_path):
    content = bytes(range(256)) * 40
    server[0]["/w.h5"] = (content[:5000], len(content))
    with pytest.raises(OSError, match="broke off after 5000 of 10240 bytes.*goes on from there"):
        weights.download(row(content))
    server[0]["/w.h5"] = (bytes(5000) + content[5000:], len(content))  # the rest is all it takes
    assert weights.download(row(content)).read_bytes() == content


def test_first_download_is_trusted_and_pinned(server, tmp_path, tiny_effnet):
    write_legacy(tiny_effnet(), tmp_path / "w.h5")
    content = (tmp_path / "w.h5").read_bytes()
    server[0]["/w.h5"] = (b"<html>log in first</html>", 25)
    with pytest.raises(ValueError, match="sent no checkpoint; it was deleted.*web page"):
        weights.download(row())
    assert cached(tmp_path) == []  # rubbish is not what has to come ever after
    server[0]["/w.h5"] = (content, len(content))
    path = weights.download(row())
    assert path.stat().st_mode & 0o777 == 0o644
    path.unlink()
    server[0]["/w.h5"] = (b"two", 3)
    with pytest.raises(ValueError, match="first download, which .*home/w.h5.sha256 keeps"):
        weights.download(row())
    assert not path.exists()


def test_a_damaged_archive_is_not_kept(server, tmp_path, tiny_effnet):
    (tmp_path / "c").mkdir()
    write_automl(tiny_effnet(), tmp_path / "c" / "model")
    pack(tmp_path / "c", tmp_path / "w.tgz")
    content = bytearray((tmp_path / "w.tgz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    server[0]["/w.tgz"] = (bytes(content), len(content))
    with pytest.raises(ValueError, match="sent no checkpoint; it was deleted.*damaged archive"):
        weights.download(row(name="w.tgz"))
    assert cached(tmp_path) == []


def test_a_mirror_is_an_address(server, monkeypatch):
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", "myserver/x")
    with pytest.raises(ValueError, match="KERAS_EFFV2_MIRROR is an address.*'myserver/x'"):
        weights.download(row(b"good"))


def test_a_full_disk_is_told(server, tmp_path, monkeypatch):
    server[0]["/w.h5"] = (b"good", 4)

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".w.h5.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No room in .*home for http.*KERAS_EFFV2_HOME"):
        weights.download(row(b"good"))
    assert cached(tmp_path) == []

    def quota(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("urllib.request.urlopen", quota)
    with pytest.raises(OSError, match="No room in .*home for http.*KERAS_EFFV2_HOME"):
        weights.download(row(b"good"))


def test_killed_between_download_and_rename(server, tmp_path, monkeypatch):
    server[0]["/w.h5"] = (b"good", 4)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", die)
        with pytest.raises(KeyboardInterrupt):
            weights.download(row(b"good"))
    assert cached(tmp_path) == []
    assert weights.download(row(b"good")).read_bytes() == b"good"


def _download(queue):
    queue.put(weights.download(row(b"good" * 1000)).read_bytes())


def test_two_processes_download_once(server, tmp_path):
    server[0]["/w.h5"] = (b"good" * 1000, 4000)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_download, args=(queue,)) for _ in range(2)]
    for process in both:
        process.start()
    assert [queue.get(timeout=60) for _ in both] == [b"good" * 1000] * 2
    for process in both:
        process.join()
    assert server[1] == ["/w.h5"]
