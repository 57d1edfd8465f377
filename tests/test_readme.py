"""The README says what is true: its code runs, its table is the program's, its commands exist."""

import ast
import functools
import importlib
import inspect
import json
import pathlib
import re
import runpy
import shlex
import shutil
import tomllib

import numpy as np
import pytest
from absl import flags
from conftest import build_convnet, tiny_data, tiny_efficientnet_row
from PIL import Image
from said import sentences

import keras_effv2 as kev
from keras_effv2 import cli, layers, models
from keras_effv2.cli import app, settings

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, page=ROOT / "README.md"):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A fresh folder with photos; whatever network is asked for is a small one."""

    def build(weights=None, classes=4, **_):
        return build_convnet()

    def build_of_imagenet(classes=1000, **_):
        row = tiny_efficientnet_row()
        if classes == 4:
            return build_convnet()
        return kev.efficientnet_v2.build(row, weights=None, classes=classes)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "builder", lambda name: build)
    for name in ("EfficientNetV2B0", "EfficientNetV2S"):
        monkeypatch.setattr(kev, name, build_of_imagenet)
    pictures = tiny_data().train
    for i, (label, pixels) in enumerate(zip(pictures.labels, pictures.pictures, strict=True)):
        folder = pathlib.Path("photos", pictures.class_names[label])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    shutil.copytree("photos", "more")
    for name in ("photo.jpg", "new.jpg"):
        shutil.copy("photos/red/0.jpg", name)


def test_python_runs(small, monkeypatch, capsys):
    """Blocks share names, as a reader who types them one after the other has it."""
    short = functools.partial(kev.finetune, epochs=2, image_size=32, hub=False)
    monkeypatch.setattr(kev, "finetune", short)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert "same top 1" in capsys.readouterr().out  # of the export
    assert pathlib.Path("runs/python/report.html").exists()
    assert names["judged"].images == names["judged"].labels.size
    assert (names["larger"].image_size, len(names["layer"].trainable_weights) > 0) == (300, True)


@pytest.mark.parametrize("name", ["finetune", "progressive", "distributed", "migrate", "ship"])
def test_guides_run(name, small, monkeypatch, capsys):
    if name == "finetune":  # what the commands above its code have left
        pathlib.Path("runs/mine").mkdir(parents=True)
        model = build_convnet()
        layers.find_pixels(model).class_names = ("red", "green", "blue", "grey")
        model.save("runs/mine/model.keras")
    if name == "migrate":  # it compares with keras.applications
        monkeypatch.setattr(kev, "EfficientNetV2B0", kev.efficientnet_v2.EfficientNetV2B0)
    names = {"__name__": "__main__"}
    for block in blocks("python", ROOT / "docs" / "guides" / f"{name}.md"):
        exec(compile(block, name, "exec"), names)
    told = capsys.readouterr().out
    if name == "migrate":
        assert float(told) < 1e-6
    if name == "finetune":
        assert set(ast.literal_eval(told.splitlines()[0])) == {"red", "green", "blue", "grey"}


def test_troubleshooting_quotes_what_is_said():
    """Every heading that is code is a sentence of the sources; values are …."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [line[5:-1] for line in page.splitlines() if line.startswith("### `")]
    known = list(sentences())
    missing = [quote for quote in quoted if not any(quote in said for said in known)]
    assert len(quoted) >= 20 and not missing, missing


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    docs = ROOT / "docs"
    assert listed == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    api = "".join(path.read_text(encoding="utf-8") for path in (docs / "api").glob("*.md"))
    for name in re.findall(r"^::: ([\w.]+)", api, re.MULTILINE):
        module, _, value = name.rpartition(".")
        assert inspect.getdoc(getattr(importlib.import_module(module), value)), name


def test_reference_has_every_public_name():
    """Builders are rows of `build`; modules are where the names of others are."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs/api").glob("*.md"))
    told = {line.rpartition(".")[2] for line in re.findall(r"^::: .*", pages, re.MULTILINE)}
    names = {name for name in kev.__all__ if not inspect.ismodule(getattr(kev, name))}
    assert names - set(kev.list_models()) - {"__version__"} <= told


def test_model_tables_are_the_programs(capsys):
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert cli.main(["models", "--format=markdown"]) == 0
    table = capsys.readouterr().out
    assert f"<!-- models: effv2 models --format=markdown -->\n{table}<!-- end of models -->" in page
    measured = runpy.run_path(str(ROOT / "docs" / "tables.py"))["measured"]()
    assert f"{measured}<!-- end of measured -->" in page


def test_readmes_numbers_are_those_of_the_tables():
    """Published accuracy as weights/table.py has it, the rest as docs/models.json."""
    rows = json.loads((ROOT / "docs" / "models.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["model"], row["weights"]): row["top1"] for row in rows} == {
        (row.model, row.tag): row.top1
        for name in kev.list_models()
        for row in kev.list_weights(name)
        if row.top1 is not None and row.tag != "imagenet-automl"
    }
    known = {
        f"| {row['model']} | `{row['weights']}` | {row['image_size']} | {row['top1']:.1f} % "
        f"| {row['milliseconds']:.0f} | {row['megabytes']:.0f} | Apache-2.0 |"
        for row in rows
    }
    told = re.findall(r"^\| (?:Eff|CoAt)\w+ \| `.*", README, re.MULTILINE)
    assert len(told) == 5 and set(told) <= known
    assert f"All {len(rows)} checkpoints" in README
    assert len(README.splitlines()) <= 200


def test_version_is_one():
    number = kev.__version__
    assert re.search(rf"^version: {number}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## {number} \(\d", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_links_are_the_projects():
    """Absolute, as PyPI has no files beside the page; what they name exists."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    home, site = urls["Homepage"], urls["Documentation"]
    raw = home.replace("github.com", "raw.githubusercontent.com")
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith(site):
            page = link.removeprefix(site).rstrip("/") or "index"
            assert (ROOT / "docs" / f"{page}.md").exists(), link
        elif link.startswith((raw, f"{home}/blob")):
            file = re.sub(f"({raw}|{home}/blob)/main/", "", link)
            assert (ROOT / file).exists(), link
        else:
            assert link.startswith("https://"), link
    images = sorted((ROOT / "docs" / "images").glob("*"))
    assert images and max(path.stat().st_size for path in images) < 150_000


def commands():
    texts = [README, *(path.read_text() for path in ROOT.glob("docs/**/*.md"))]
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


def test_commands_run(small, capsys):
    """One after the other in a fresh folder, with small networks and few epochs."""
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
