"""Makes the pictures of README and site, out of what anybody may look at: digits, and numbers.

    make demo
    python docs/pictures.py runs/demo

`report.png` is a photograph of the demo's report by headless Chromium, `history.png` its curves,
`ramp.png` digits as the phases of a training show them, `models.png` the chart of docs/models.json,
`browser.png` the page of examples/browser, where KERAS_EFFV2_ORT_WEB names the runtime.
"""

import argparse
import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import keras_effv2 as kev

IMAGES = pathlib.Path(__file__).parent / "images"
FAMILIES = (  # in the chart: name, colour, what belongs to it
    ("EfficientNetV2, ImageNet", "#1f77b4", lambda model, tag: "V2" in model and tag == "imagenet"),
    ("EfficientNetV2, 21k first", "#0b3c6f", lambda model, tag: "V2" in model),
    ("CoAtNet by timm, ImageNet", "#ff7f0e", lambda model, tag: "12k" not in tag),
    ("CoAtNet by timm, 12k first", "#a63603", lambda model, tag: True),
)
# points with a name; others stand so near to them that two names would hide each other
NAMED = {
    ("CoAtNetNanoRW", "imagenet"): "Nano",
    ("CoAtNet0RWBN", "imagenet"): "0",
    ("CoAtNet1RW", "imagenet"): "1",
    ("CoAtNet1RW2", "imagenet12k-ft1k"): "1",
    ("CoAtNet2RW", "imagenet-rmlp"): "2",
    ("CoAtNet2RW", "imagenet12k-ft1k"): "2",
    ("CoAtNet2RW", "imagenet12k-ft1k-rmlp-384"): "2, 384 px",
}


def chart(table):
    """Published accuracy over measured time, the size of a point its parameters."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    left = [row for row in table["rows"] if row["top1"]]
    for name, colour, belongs in FAMILIES:
        mine = [row for row in left if belongs(row["model"], row["weights"])]
        left = [row for row in left if row not in mine]
        axes.scatter(
            [row["milliseconds"] for row in mine],
            [row["top1"] for row in mine],
            [row["parameters"] / 5e5 for row in mine],
            color=colour,
            alpha=0.75,
            label=name,
            linewidths=0,
        )
        for row in mine:
            short = row["model"].removeprefix("EfficientNetV2")
            text = NAMED.get((row["model"], row["weights"]), "" if "CoAt" in short else short)
            aside = 4 + (row["parameters"] / 5e5) ** 0.5 / 2
            left_of = "px" in text or text == "B3" or (text == "S" and row["top1"] > 84)
            axes.annotate(
                text,
                (row["milliseconds"], row["top1"]),
                (-aside if left_of else aside, -3),
                textcoords="offset points",
                ha="right" if left_of else "left",
                fontsize=8,
                color=colour,
            )
    axes.set_xscale("log")
    ticks = (10, 20, 50, 100, 200, 500, 1000)
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xlim(10, 1600)
    axes.minorticks_off()
    axes.set_xlabel("milliseconds a picture on one core (measured)")
    axes.set_ylabel("ImageNet top 1, per cent (published)")
    axes.grid(alpha=0.25)
    legend = axes.legend(loc="lower right", fontsize=8)
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    figure.savefig(IMAGES / "models.png", dpi=120)


def ramp():
    """What phases do to pictures: larger, and changed more."""
    phases = kev.ramp(8, 4, image_size=(32, 128), randaugment=(2, 15), multiple_of=32)
    whole = kev.augment.Augment(crop_area=(0.9, 1.0), flip=False)
    digits = kev.data.load("digits").train
    kev.augment.preview(digits, phases, IMAGES / "ramp.png", columns=7, augment=whole)


def photograph(page, path, width=1000, height=5000):
    """A page as headless Chromium shows it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("report.png needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as home:
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={home}",
                f"--window-size={width},{height}",
                f"--screenshot={path}",
                "--virtual-time-budget=20000",
                page,
            ],
            check=True,
            capture_output=True,
        )


def browser(run):
    """The page of examples/browser with the demo's network and a digit."""
    runtime = os.environ.get("KERAS_EFFV2_ORT_WEB")  # node_modules/onnxruntime-web/dist
    if runtime is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copy(IMAGES.parents[1] / "examples" / "browser" / "index.html", folder)
        shutil.copy(run / "labels.txt", folder)
        shutil.copytree(runtime, folder / "ort")
        kev.export(keras.saving.load_model(run / "model.keras"), folder / "model.onnx", "onnx")
        digit = kev.data.load("digits").test.pictures[3]
        Image.fromarray(digit).resize((56, 56), Image.BILINEAR).save(folder / "photo.png")
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page = f"http://127.0.0.1:{server.server_port}/?size=56&ort=ort/&photo=photo.png"
            photograph(page, IMAGES / "browser.png", 640, 640)
            server.shutdown()


def two_columns(path):
    """A long page cut at the gap that is nearest to its middle, its second half beside the first."""
    image = Image.open(path).convert("RGB")
    dark = np.flatnonzero((np.asarray(image) < 250).any((1, 2)))
    gaps = [(a, b) for a, b in zip(dark, dark[1:]) if b - a > 40]
    above, below = min(gaps, key=lambda gap: abs(gap[0] - dark[-1] * 0.56))
    height = max(above, dark[-1] - below + dark[0]) + 40
    both = Image.new("RGB", (2 * image.width, int(height)), "white")
    both.paste(image.crop((0, 0, image.width, int(above) + 10)), (0, 0))
    second = image.crop((0, int(below) - 10, image.width, int(dark[-1]) + 10))
    both.paste(second, (image.width, int(dark[0])))
    both.save(path)


def lighten(path, width=None, colours=128):
    """Fewer pixels and colours, so that a page with the picture opens at once."""
    image = Image.open(path).convert("RGB")
    if width and image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
    image.quantize(colours).save(path, optimize=True)


def main(run):
    IMAGES.mkdir(exist_ok=True)
    chart(json.loads((IMAGES.parent / "models.json").read_text(encoding="utf-8")))
    ramp()
    photograph((run / "report.html").resolve().as_uri(), IMAGES / "report.png")
    two_columns(IMAGES / "report.png")
    browser(run)
    shutil.copy(run / "history.png", IMAGES / "history.png")
    for path in sorted(IMAGES.glob("*.png")):
        lighten(path, 900 if path.name == "ramp.png" else 1200)
        print(path.name, path.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="workdir of `make demo`")
    main(parser.parse_args().run)
