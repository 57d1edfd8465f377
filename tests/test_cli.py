"""The command line as its user meets it: in order, then with everything wrong."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import tiny_data
from PIL import Image

import keras_effv2 as kev
from keras_effv2 import cli, doctor, exporting, layers


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
    from conftest import build_convnet

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


def test_what_effv2_says_of_itself(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"  {name} " in out for name in cli.COMMANDS)
    for name in cli.COMMANDS:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0 and out.startswith(f"usage: effv2 {name} ")
    code, out, _ = run(capsys, "models", "--format=json")
    assert {row["name"] for row in json.loads(out)} > {"EfficientNetV2XL", "CoAtNet7"}
    code, out, _ = run(capsys, "doctor", "--format=json")
    assert any(row["name"] == "tensorflow" and row["ok"] for row in json.loads(out))
    code, out, _ = run(capsys, "export", "--help")
    assert "--quantize: <float16|int8>: " in out
    _, out, _ = run(capsys, "train", "--help")
    assert "  ema: Decay of the moving average" in out
    assert "  image_size: (first, last) side in pixels" in out and "_field" not in out


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("", 2, ""),
        ("fly", 2, "there is no command 'fly'. Commands: models, predict"),
        ("predict", 2, "no pictures: give files, folders, globs"),
        ("predict x.jpg --model=B0", 2, "there is no model 'B0'; models: EfficientNetV2B0"),
        ("predict x.jpg --modle=B0", 2, "Unknown command line flag 'modle'"),
        ("predict {none} --model_file={model}", 1, "none.jpg: No such file or directory."),
        ("predict {torn} --model_file={model}", 1, "torn.jpg is "),
        ("predict {photo} --model_file=no.keras", 1, "There is no model file no.keras."),
        (
            "predict {photo} --model_file={cut}",
            1,
            "cut.keras is no whole .keras file. It may be cut",
        ),
        ("predict {photo} --weights=best", 1, "has no weights 'best'. Known tags: imagenet,"),
        ("predict {photo} --model=CoAtNet0", 2, "no weights of CoAtNet0 were ever released"),
        ("predict {photo} --model_file={model} --weights=x", 2, "has weights of its own"),
        ("predict {photo} --top=0", 2, "--top=0: 0 is not a positive integer"),
        ("train --data=digits", 2, "--workdir is missing"),
        ("train --workdir={work}", 2, "--data is missing"),
        ("train --data=digits --workdir={work} --model=B0", 2, "there is no model 'B0'; models"),
        ("train --data=digits --workdir={work} --recipe=x", 2, "Recipes: "),
        (
            "train --data=digits --workdir={work} --recipe.epochs=many",
            2,
            "--recipe.epochs is a int",
        ),
        (
            "train --data=digits --workdir={work} --recipe.crop_area=1",
            2,
            "--recipe.crop_area is a tuple; received '1'",
        ),
        (
            "train --data=digits --workdir={work} --recipe.speed=1",
            2,
            "has no field 'speed'; fields",
        ),
        ("train --data=digits --workdir={work} --ramp.size=1", 2, "ramp has no argument 'size'"),
        (
            "train --data=digits --workdir={work} --ramp.phases=2,3",
            2,
            "--ramp.phases is a whole number; received '2,3'",
        ),
        (
            "train --data=digits --workdir={work} --ramp.image_size=large",
            2,
            "--ramp.image_size is one number or FIRST,LAST; received 'large'",
        ),
        (
            "train --data=digits --workdir={work} --ramp.multiple_of=0",
            2,
            "is 1 or more. Received: 0",
        ),
        (
            "train --data=digits --workdir={work} --ramp.dropout=0,2",
            2,
            "`dropout` is a pair (first, last) of numbers in [0, 1)",
        ),
        ("train --data=folder:{none} --workdir={work} --model_file={model}", 1, "none.jpg"),
        (
            "train --data=cifar --workdir={work}",
            1,
            "No data set 'cifar': give 'digits', 'folder:PATH'",
        ),
        ("finetune --data=digits", 2, "--workdir is missing"),
        (
            "finetune --data=digits --workdir={work} --flip false",
            2,
            "'false' belongs to no flag; write --flag=value, and --noflag for no",
        ),
        ("finetune --data=digits --workdir={work} --image_size=-5", 2, "--image_size=-5"),
        ("finetune --data=digits --workdir={work} --epochs=0", 2, "--epochs=0"),
        ("evaluate --model_file={model} --data=digits more", 2, "'more' belongs to no flag"),
        (
            "export --model_file={model} --output={work} --quantize=int8",
            2,
            "--quantize goes with --format=tflite; received --format=hub",
        ),
        (
            "export --model_file={model} --output={work} --format=onnx --images={empty}",
            2,
            "holds no pictures",
        ),
        ("evaluate --model_file={model} --data=digits", 1, "does not know the class"),
        ("export --model_file={model}", 2, "--output is missing"),
        ("export --model_file={model} --output={work} --publish=hf", 2, "--publish needs --handle"),
        ("convert --model=CoAtNet0", 2, "--weights (or --model_file) and --output are needed"),
        ("benchmark --measure=beauty", 1, "beauty"),
    ],
)
def test_misuse_gets_a_sentence(command, code, message, folder, model_file, tmp_path, capsys):
    places = {
        "none": tmp_path / "none.jpg",
        "torn": folder / "train" / "red" / "torn.jpg",
        "photo": folder / "val" / "red" / "0.png",
        "model": model_file,
        "work": tmp_path / "work",
        "empty": tmp_path,
        "cut": tmp_path / "cut.keras",
    }
    places["cut"].write_bytes(model_file.read_bytes()[:2000])
    got, out, err = run(capsys, *command.format(**places).split())
    assert got == code, err
    assert message in err + ("" if message else out)
    assert "Traceback" not in err and len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "work").exists() or not any((tmp_path / "work").glob("*.keras"))


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


def test_released_weights_have_learnt_from_no_run(tmp_path, monkeypatch):
    """Not even of the run in whose folder `effv2 evaluate --weights=imagenet` is called."""
    (tmp_path / "summary.json").write_text('{"data": "folder:mine"}')
    monkeypatch.chdir(tmp_path)
    assert cli._learnt_from("imagenet") == set()
    (tmp_path / "model.keras").touch()
    assert cli._learnt_from("model.keras") == {"folder:mine"}


def test_lists_from_stdin_in_a_process_of_its_own(folder, model_file):
    photos = "\n".join(
        str(folder / "val" / name / f"{i}.png") for i, name in enumerate(("red", "green"))
    )
    command = [sys.executable, "-m", "keras_effv2", "predict", "-", "--model_file", str(model_file)]
    done = subprocess.run(command, input=photos + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "red/0.png\n" in done.stdout and "green/1.png\n" in done.stdout
    assert done.stdout.count("%") == 8


def test_recipe_fields_keep_types_and_phases_their_parts():
    """A fraction where the row has a whole number; fewer epochs than phases keep the last."""
    recipe = cli._recipe("digits", ["warmup_epochs=0.5", "epochs=2"], "EfficientNetV2B0")
    assert recipe.warmup_epochs == 0.5
    assert [phase.image_size for phase in recipe.phases] == [48, 56]
    for epochs in (3, 4, 5, 9, 40):
        phases = cli._recipe("digits", [f"epochs={epochs}"], "EfficientNetV2B0").phases
        assert phases[-1].stop_epoch == epochs and phases[-1].image_size == 56
        assert all(phase.stop_epoch > phase.start_epoch for phase in phases)
        assert len(phases) == min(4, epochs)


def test_phases_can_be_planned_by_flags():
    """`--ramp.image_size=96,192` is `ramp(image_size=(96, 192))`; the rest stays the recipe's."""
    recipe = cli._recipe("digits", ["epochs=8"], "EfficientNetV2B0")
    assert cli._ramped(recipe, []) is recipe
    phases = cli._ramped(recipe, ["image_size=96,192", "randaugment=5,15", "dropout=0.1"]).phases
    assert phases == kev.ramp(
        8,
        4,
        image_size=(96, 192),
        randaugment=(5, 15),
        dropout=(0.1, 0.1),
        drop_path=(recipe.phases[0].drop_path, recipe.phases[-1].drop_path),
    )
    assert [p.image_size for p in cli._ramped(recipe, ["phases=2", "multiple_of=8"]).phases] == [
        32,
        56,
    ]
    single = cli._recipe("imagenet1k", ["epochs=4"], "EfficientNetV2B0")
    sizes = [phase.image_size for phase in cli._ramped(single, ["image_size=96,192"]).phases]
    assert sizes == [96, 128, 160, 192]


def test_doctor_knows_what_to_do(monkeypatch, tmp_path):
    """Every trouble has its advice; nothing leaves the machine."""
    (tmp_path / "file").write_text("-")
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "HOSTS", (doctor.HOSTS[0], "http://127.0.0.1:9/hub"))
    monkeypatch.setitem(doctor.WANTED, "no_such_package", ("1", True))
    monkeypatch.setitem(doctor.WANTED, "pillow", ("999", True))
    found = {check.name: check for check in doctor.examine(online=True)}
    troubles = {
        "cache": "KERAS_EFFV2_HOME",
        "http://127.0.0.1:9": "KERAS_EFFV2_MIRROR",
        "http://127.0.0.1:9/hub": "Check proxy and network",
        "no_such_package": "pip install no_such_package",
        "pillow": "pip install -U 'pillow>=999'",
    }
    assert {name for name, check in found.items() if not check.ok} == set(troubles)
    for name, advice in troubles.items():
        assert advice in found[name].advice
    assert "cannot be reached" in doctor._host("http://no host/").found
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    assert "forbidden" in {c.name: c for c in doctor.examine(online=True)}["network"].found
