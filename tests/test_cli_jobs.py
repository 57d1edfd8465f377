"""The command line as its user meets it: from pictures to a model and its exports."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import zipfile

import keras
import numpy as np
import pytest
from conftest import build_convnet, tiny_data
from PIL import Image

import keras_effv2 as kev
from keras_effv2 import cli, exporting, imagenet, layers
from keras_effv2.cli import predict


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures in one folder a class, with a damaged one among them."""
    root = tmp_path_factory.mktemp("photos")
    for part, split in (("train", tiny_data().train), ("val", tiny_data().validation)):
        for i, (picture, label) in enumerate(zip(split.pictures, split.labels, strict=True)):
            target = root / part / split.class_names[label]
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(target / f"{i}.png")
    (root / "train" / "red" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return root


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """An untrained network that knows the names of its classes."""
    model = build_convnet()
    pixels = layers.find_pixels(model)
    pixels.image_size, pixels.class_names = 32, tiny_data().class_names
    path = tmp_path_factory.mktemp("model") / "m.keras"
    model.save(path)
    return path


def run(capsys, *argv):
    code = cli.main([str(text) for text in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_from_pictures_to_exports(folder, model_file, tmp_path, capsys):
    workdir = tmp_path / "run"
    flags = [f"--data=folder:{folder}", f"--model_file={model_file}"]
    recipe = [
        "--recipe=finetune",
        "--recipe.epochs=6",
        "--recipe.batch_size=8",
        "--recipe.learning_rate=0.01",
        "--recipe.ema=0",
        "--recipe.flip=false",
    ]
    small = ["--recipe.crop_area=0.9,1"]
    code, out, err = run(
        capsys, "train", *flags, *recipe, *small, f"--workdir={workdir}", "--format=json"
    )
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["images"] == 10 and "torn.jpg" in summary["skipped_pictures"][0]
    for name in ("model.keras", "report.html", "metrics.csv", "history.png", "recipe.json"):
        assert (workdir / name).stat().st_size > 0, name
    assert json.loads((workdir / "recipe.json").read_text())["flip"] is False

    trained = f"--model_file={workdir / 'model.keras'}"
    code, out, err = run(capsys, "evaluate", trained, flags[0], "--format=json")
    assert code == 0 and json.loads(out)["top1"] == summary["top1"], err

    # of another folder all is judged, of its own what was held out
    for data, images in ((folder / "train", 48), (folder, 10)):
        code, out, err = run(capsys, "evaluate", trained, f"--data={data}", "--format=json")
        assert code == 0 and json.loads(out)["images"] == images, err
        assert json.loads(out)["split"] == "test"
    shutil.copytree(folder / "train", tmp_path / "whole")
    code, out, err = run(
        capsys,
        *("train", f"--data={tmp_path}/whole", flags[1], "--recipe=finetune"),
        *("--recipe.epochs=1", "--recipe.batch_size=8", f"--workdir={tmp_path}/part"),
    )
    part = f"--model_file={tmp_path}/part/model.keras"
    code, out, err = run(capsys, "evaluate", part, f"--data={tmp_path}/whole", "--format=json")
    assert code == 0 and json.loads(out)["images"] < 12, err
    # also by another name of the folder, or when a picture has come to it
    shutil.copytree(tmp_path / "whole", tmp_path / "moved")
    Image.new("RGB", (32, 32)).save(tmp_path / "whole" / "red" / "new.png")
    for data in ("whole", "moved"):
        code, out, err = run(capsys, "evaluate", part, f"--data={tmp_path}/{data}", "--format=json")
        assert code == 0 and json.loads(out)["images"] < 12, err

    photo = folder / "val" / "red" / "0.png"
    code, out, err = run(capsys, "predict", photo, trained, "--format=json", "--top=2")
    assert code == 0, err
    scores = {c["name"]: c["score"] for c in json.loads(out)[0]["classes"]}
    model = keras.models.load_model(workdir / "model.keras")
    pixels = np.asarray(Image.open(photo))[None].astype("float32")
    size = layers.find_pixels(model).image_size
    expected = model.predict(keras.ops.image.resize(pixels, (size, size)), verbose=0)[0]
    names = (workdir / "labels.txt").read_text().split()
    for name, score in scores.items():
        assert score == pytest.approx(expected[names.index(name)], abs=1e-4)

    for form, target in (("hub", "hub"), ("saved_model", "lean"), ("tflite", "m.tflite")):
        output = tmp_path / target
        code, out, err = run(
            capsys,
            "export",
            trained,
            f"--format={form}",
            f"--output={output}",
            *([] if form == "hub" else [f"--images={folder}/val"]),
        )
        assert code == 0 and output.exists(), err


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("predict {torn} --model_file={model}", 1, "torn.jpg is "),
        ("predict {photo} {none} --model_file={model}", 1, "none.jpg: No such file or directory."),
        ("predict {photo} --model_file={broken}", 1, "cannot be loaded:"),
        ("train --data=folder:{none} --workdir={work} --model_file={model}", 1, "none.jpg"),
        ("train --data=cifar --workdir={work}", 1, "No data set 'cifar': give 'digits', 'folder:"),
        ("evaluate --model_file={model} --data=digits", 1, "does not know the class"),
        (
            "predict {photo} {torn} --model_file={grey}",
            1,
            "takes inputs of shape (None, 8, 8, 1); pic",
        ),
        (
            "export --model_file={grey} --output={work} --format=onnx --images={empty}",
            1,
            "8, 8, 1); p",
        ),
        (
            "export --model_file={model} --output={work} --format=onnx --images={empty}",
            2,
            "holds no pictures",
        ),
    ],
)
def test_what_cannot_be_done_gets_a_sentence(
    command, code, message, folder, model_file, tmp_path, capsys
):
    places = {
        "none": tmp_path / "none.jpg",
        "torn": folder / "train" / "red" / "torn.jpg",
        "photo": folder / "val" / "red" / "0.png",
        "model": model_file,
        "work": tmp_path / "work",
        "empty": tmp_path,
        "broken": tmp_path / "broken.keras",
        "grey": tmp_path / "grey.keras",
    }
    layers_of_grey = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
    keras.Sequential(layers_of_grey).save(places["grey"])
    with zipfile.ZipFile(places["broken"], "w") as archive:
        archive.writestr("config.json", "{}")
    got, out, err = run(capsys, *command.format(**places).split())
    assert got == code, err
    assert message in err
    assert "Traceback" not in err and len(err.strip().splitlines()) <= (
        1 if "grey" in command else 2
    )
    assert not (tmp_path / "work").exists() or not any((tmp_path / "work").glob("*.keras"))


def test_predictions_as_a_table_and_in_folders(model_file, folder, tmp_path, capsys):
    """The table is read by pandas' rules (csv); of two pictures of one name both are there."""
    (tmp_path / "more").mkdir()
    first = sorted((folder / "val" / "red").iterdir())[0]
    shutil.copy(first, tmp_path / "more" / first.name)
    given = [folder / "val", tmp_path / "more", f"--model_file={model_file}", "--top=2"]
    outputs = [f"--csv={tmp_path}/table.csv", f"--sort_into={tmp_path}/sorted"]
    named = "--class_names=a/b,second,third, fourth"
    code, out, err = run(capsys, "predict", *given, *outputs, named, "--format=json")
    assert code == 0, err
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    said = json.loads(out)
    assert len(rows) == len(said) == 11
    assert list(rows[0]) == ["file", "said", "class", "score", "class 2", "score 2"]
    copies = [path for path in (tmp_path / "sorted").rglob("*.*") if path.is_file()]
    assert len(copies) == 11
    for row, result in zip(rows, said, strict=True):
        best = result["classes"][0]
        assert (row["file"], row["class"]) == (result["file"], best["name"])
        assert row["said"] == best["name"] and result["said"] == [best["name"]]
        assert float(row["score"]) == pytest.approx(best["score"], abs=1e-6)
        target = tmp_path / "sorted" / best["name"].replace("/", "_")
        content = pathlib.Path(result["file"]).read_bytes()
        assert content in [path.read_bytes() for path in target.iterdir()]
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    code, out, err = run(capsys, "predict", *given, f"--class_names={tmp_path}/names.txt")
    assert code == 2 and "has 3 names, the model 4 outputs" in err


def test_a_name_that_is_no_text_in_a_table(model_file, folder, tmp_path, capsys):
    """It is escaped as where it is printed."""
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(folder / "val" / "red" / "0.png", odd)
    command = ["predict", odd, f"--model_file={model_file}", f"--csv={tmp_path}/table.csv"]
    code, _, err = run(capsys, *command)
    assert code == 0, err
    table = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert table[1].startswith(f"{tmp_path}/caf\\udce9.png,")


def test_pictures_are_read_ahead_in_their_order(monkeypatch, capsys):
    """Not more of them than was asked for, and one that fails is named in its place."""
    begun, third = [], threading.Event()

    def read(model, path, image_size):
        begun.append(path)
        if path == 2:
            third.set()
        assert path or third.wait(60)  # the first is done only after the third has begun
        if path == 1:
            raise ValueError("1 is torn")
        return path * 10

    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(imagenet, "prepare_image", read)
    images = predict.readable(None, range(9), ahead=4)
    assert next(images) == (0, 0) and max(begun) <= 4
    assert list(images) == [(i, 10 * i) for i in range(2, 9)]
    assert "1 is torn." in capsys.readouterr().err


def test_what_a_model_is_not_sure_of_is_unknown(model_file, folder, tmp_path, capsys):
    """Its confidences of the first picture are about even: below the threshold, in all outputs."""
    model = keras.models.load_model(model_file)
    layers.find_pixels(model).unknown_below = 0.9
    model.save(tmp_path / "m.keras")
    photo = sorted((folder / "val" / "red").iterdir())[0]
    command = ["predict", photo, f"--model_file={tmp_path}/m.keras", "--top=1"]
    outputs = [f"--csv={tmp_path}/table.csv", f"--sort_into={tmp_path}/sorted"]
    code, out, err = run(capsys, *command, *outputs)
    assert code == 0 and out.splitlines()[1] == "  unknown" and len(out.splitlines()) == 3, err
    assert (tmp_path / "table.csv").read_text().splitlines()[1].split(",")[1] == "unknown"
    assert (tmp_path / "sorted" / "unknown" / photo.name).is_file()
    code, out, err = run(capsys, *command, "--format=json")
    assert json.loads(out)[0]["said"] == [] and len(json.loads(out)[0]["classes"]) == 1


def test_no_class_at_nan_per_cent(model_file, folder, tmp_path, capsys):
    """A model whose training diverged is refused, and JSON holds no NaN."""
    model = keras.models.load_model(model_file)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    model.save(tmp_path / "nan.keras")
    photo = folder / "val" / "red" / "0.png"
    for form in ("text", "json"):
        code, out, err = run(
            capsys, "predict", photo, f"--model_file={tmp_path}/nan.keras", f"--format={form}"
        )
        assert (
            code == 1 and "holds NaN or infinity" in err and "nan%" not in out and "NaN" not in out
        )


def test_names_of_any_kind_are_printed(folder, tmp_path, capsys):
    """Line breaks in names of classes and files, and a file name that is no UTF-8."""
    model = build_convnet()
    layers.find_pixels(model).class_names = ("re\nd", "gr\u2028een", "blue", "grey")
    model.save(tmp_path / "m.keras")
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9\n.png")
    shutil.copy(folder / "val" / "red" / "0.png", odd)
    command = ["predict", os.fsdecode(odd), f"--model_file={tmp_path}/m.keras"]
    code, out, err = run(capsys, *command)
    assert code == 0 and len(out.splitlines()) == 5, err
    assert "caf\\udce9" in out and "gr een" in out
    code, out, err = run(capsys, *command, "--format=json")
    assert code == 0 and json.loads(out)[0]["file"] == os.fsdecode(odd)


def test_home_is_replaced(folder, model_file, tmp_path, monkeypatch, capsys):
    """No shell expands `--model_file=~/m.keras`; no folder called ~ appears."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    shutil.copy(model_file, tmp_path / "m.keras")
    shutil.copy(folder / "val" / "red" / "0.png", tmp_path)
    code, out, err = run(capsys, "predict", "~/0.png", "--model_file=~/m.keras", "--top=1")
    assert code == 0, err
    arguments = ["--model_file=$HOME/m.keras", "--output=~/m.weights.h5"]
    code, out, err = run(capsys, "convert", *arguments)
    assert code == 0 and (tmp_path / "m.weights.h5").exists(), err
    assert not (folder / "~").exists()


def test_a_model_file_is_converted(tiny_effnet, tmp_path, capsys):
    model = tiny_effnet()
    model.save(tmp_path / "m.keras")
    output = tmp_path / "m.weights.h5"
    code, out, err = run(
        capsys, "convert", f"--model_file={tmp_path}/m.keras", f"--output={output}"
    )
    assert code == 0 and json.loads(out)["source"] == f"{tmp_path}/m.keras", err
    loaded = tiny_effnet(weights=str(output))
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pictures_of_every_class_quantise(model_file, tmp_path, monkeypatch):
    """Sorted by folder, the first 256 would be of one."""
    for name, colour in (("a", "black"), ("b", "white")):
        (tmp_path / name).mkdir()
        for i in range(300):
            Image.new("RGB", (2, 2), colour).save(tmp_path / name / f"{i}.png")
    seen = []
    monkeypatch.setattr(exporting, "export", lambda *_, images, **__: seen.append(images))
    command = ["export", f"--model_file={model_file}", "--format=tflite"]
    assert cli.main([*command, f"--output={tmp_path}/m.tflite", f"--images={tmp_path}"]) == 0
    assert len(seen[0]) <= 256 and 0.4 < (seen[0].mean((1, 2, 3)) > 128).mean() < 0.6


def test_lists_from_stdin_in_a_process_of_its_own(folder, model_file):
    photos = "\n".join(
        str(folder / "val" / name / f"{i}.png") for i, name in enumerate(("red", "green"))
    )
    command = [sys.executable, "-m", "keras_effv2", "predict", "-", "--model_file", str(model_file)]
    done = subprocess.run(command, input=photos + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "red/0.png\n" in done.stdout and "green/1.png\n" in done.stdout
    assert done.stdout.count("%") == 8


def test_what_a_model_file_names_runs_when_it_is_trusted(folder, tmp_path, capsys, monkeypatch):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    hub = kev.export_hub(keras.Model(inputs, keras.layers.Dense(2)(x)), tmp_path / "hub")
    model = keras.Sequential([inputs, kev.HubLayer(hub)])
    model.save(tmp_path / "x.keras")
    monkeypatch.setattr(kev.HubLayer, "trusted", set())
    command = ["predict", folder / "val" / "red" / "0.png", f"--model_file={tmp_path}/x.keras"]
    code, out, err = run(capsys, *command)
    assert code == 1 and f"to effv2 say --trust={hub}." in err
    code, out, err = run(capsys, *command, f"--trust={hub}")
    assert code == 1 and "takes pixels 0..1" in err and "Rescaling(1 / 255)" in err
    keras.Sequential([inputs, keras.layers.Rescaling(1 / 255), *model.layers]).save(
        tmp_path / "x.keras"
    )
    assert run(capsys, *command, f"--trust={hub}")[0] == 0
