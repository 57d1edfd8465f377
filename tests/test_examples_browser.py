"""The page of examples/browser names a photo as the model does, in headless Chromium."""

import functools
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from conftest import build_convnet
from PIL import Image

import keras_effv2 as kev

PAGE = pathlib.Path(__file__).parents[1] / "examples" / "browser" / "index.html"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# npm install onnxruntime-web; the folder node_modules/onnxruntime-web/dist
RUNTIME = os.environ.get("KERAS_EFFV2_ORT_WEB")


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder with the page, and its address."""
    folder = tmp_path / "web"
    folder.mkdir()
    shutil.copy(PAGE, folder)
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def shown(address, home):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={home}", "--virtual-time-budget=30000", address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is absent")
@pytest.mark.skipif(not RUNTIME, reason="onnxruntime-web is absent: set KERAS_EFFV2_ORT_WEB")
def test_names_a_photo(served, tmp_path):
    folder, address = served
    model = build_convnet()
    model.layers[-1].bias.assign([0.1, 0.7, -0.4, 0.2])
    kev.export(model, folder / "model.onnx", "onnx")
    names = ["daisy", "<b>dandelion</b>", "rose", "tulip"]
    (folder / "labels.txt").write_text("\n".join(names) + "\n")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")
    Image.fromarray(pixels).save(folder / "photo.png")
    shutil.copytree(RUNTIME, folder / "ort")
    page = shown(f"{address}?size=64&ort=ort/&photo=photo.png", tmp_path / "home")
    told = re.findall(r"([\d.]+) % ([^<]+)</li>", page)
    scores = model.predict(pixels[None].astype("float32"), verbose=0)[0]
    order = np.argsort(-scores)
    escaped = [names[i].replace("<", "&lt;").replace(">", "&gt;") for i in order]
    assert [name for _, name in told] == escaped, page[-1500:]
    assert [float(score) for score, _ in told] == pytest.approx(100 * scores[order], abs=0.11)
    page = shown(f"{address}?size=64&ort=ort/&model=no.onnx", tmp_path / "home")
    assert "The model cannot be loaded: no.onnx: 404" in page


def test_page_is_short_and_asks_nobody_else():
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"cdn.jsdelivr.net"}
