"""The README says what is true: its code runs, its table is the program's, its commands exist."""

import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
from absl import flags
from conftest import build_convnet, tiny_data
from PIL import Image

import keras_effv2 as kev
from keras_effv2 import cli, layers, models
from keras_effv2.cli import app, settings

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, page=ROOT / "README.md"):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_python_runs(tmp_path, monkeypatch):
    """Blocks share names, as a reader who types them one after the other has it."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["model"].count_params() == 5_932_122  # B0 of the paper with ten classes


def test_model_table_is_the_programs(capsys):
    assert cli.main(["models", "--format=markdown"]) == 0
    table = capsys.readouterr().out
    assert (
        f"<!-- models: effv2 models --format=markdown -->\n{table}<!-- end of models -->" in README
    )


def commands():
    texts = [README, *(path.read_text() for path in ROOT.glob("docs/*.md"))]
    texts += [path.read_text() for path in ROOT.glob("examples/*.md")]
    found = {line for text in texts for line in re.findall(r"^effv2 .*", text, re.MULTILINE)}
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_commands_have_these_flags(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("runs/search").mkdir(parents=True)  # the winner of a search that the pages name
    kev.save_variant(kev.scale("EfficientNetV2B0", 1), "runs/search/winner.json")
    _, name, *rest = shlex.split(command, comments=True)
    values = flags.FlagValues()
    app.load(name).define(values)
    values(["effv2", *map(settings.undotted, rest)])


def test_commands_run(tmp_path, monkeypatch, capsys):
    """One after the other in a fresh folder, with small networks and few epochs."""
    monkeypatch.chdir(tmp_path)

    def build(weights=None, classes=4, **_):
        return build_convnet()

    monkeypatch.setattr(models, "builder", lambda name: build)
    for name in ("EfficientNetV2B0", "EfficientNetV2S"):
        monkeypatch.setattr(kev, name, build)
    pictures = tiny_data().train
    for i, (label, pixels) in enumerate(zip(pictures.labels, pictures.pictures, strict=True)):
        folder = pathlib.Path("photos", pictures.class_names[label])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    shutil.copytree("photos", "more")
    for name in ("photo.jpg", "new.jpg"):
        shutil.copy("photos/red/0.jpg", name)
    ran = re.findall(r"^effv2 .*", README, re.MULTILINE)
    for command in ran:
        small = re.sub("--recipe.epochs=90", "--recipe.epochs=4", command)
        small = re.sub("--recipe.batch_size=64", "--recipe.batch_size=16", small)
        code = cli.main(shlex.split(small, comments=True)[1:])
        assert code == 0 or "doctor" in command, (command, capsys.readouterr().err)
    files = ("mine.tflite", "phases.png", "runs/more/report.html", "runs/s/model.keras")
    for file in (*files, "runs/mine/hub/saved_model.pb", "runs/mine/labels.txt"):
        assert pathlib.Path(file).stat().st_size, file
    sizes = pathlib.Path("runs/s/metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[2] for row in sizes] == ["128", "171", "213", "256"]


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        assert set(re.findall(r"\bmake (\w+)", text)) <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_files_that_are_named_exist():
    for name in re.findall(r"`((?:keras_effv2|examples|docs|weights|benchmarks)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name


def test_one_model_five_doors(tmp_path, monkeypatch):
    """The page's code on a small network; it compares the doors itself."""
    model = build_convnet()
    pixels = layers.find_pixels(model)
    pixels.image_size, pixels.class_names = 64, ("daisy", "dandelion", "rose", "tulip")
    model.save(tmp_path / "model.keras")
    photo = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype="uint8")
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python", ROOT / "docs" / "doors.md"):
        exec(compile(block, "doors.md", "exec"), names)
    assert len(names["answers"]) == 6
