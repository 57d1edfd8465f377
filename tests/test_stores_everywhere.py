"""Every flag and argument that takes a path: an address of a store works, or is refused in a sentence.

Whichever it is, no folder called `ram:` appears here.
"""

import io
import os
import pathlib
import re
import shlex
import shutil

import keras
import numpy as np
import pytest
import train_tiny
from absl import flags
from conftest import tiny_data
from PIL import Image

import keras_effv2 as kev
from keras_effv2 import (  # noqa: F401  what the table calls
    augment,
    cli,
    data,
    demo,
    imagenet,
    model_files,
    space,
    stores,
    training,
    variants,
    weights,
)
from keras_effv2.cli import app
from keras_effv2.cli.flags import _Path
from keras_effv2.phases import Phase

pytestmark = pytest.mark.usefixtures("stores_without_rename")
WORKS = None


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run, its exports, photos, tables and rows in a store."""
    folder = tmp_path_factory.mktemp("made")
    training.train(
        train_tiny.build, tiny_data(), train_tiny.PLAINEST, folder / "run", progress=False
    )
    model = keras.models.load_model(folder / "run" / "model.keras")
    model.save_weights(folder / "w.weights.h5")
    kev.export_hub(model, folder / "hub", "feature_vector")
    shutil.make_archive(folder / "hub", "gztar", folder / "hub")
    picture, names = io.BytesIO(), tiny_data().class_names
    Image.fromarray(tiny_data().train.pictures[0]).save(picture, "PNG")
    for name in names:
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(6):
            (folder / "photos" / name / f"{i}.png").write_bytes(picture.getvalue() + bytes([i]))
    rows = [f"photos/{name}/{i}.png,{name}" for name in names for i in range(6)]
    (folder / "table.csv").write_text("\n".join(["file,label", *rows]))
    (folder / "names.txt").write_text("\n".join(names))
    kev.save_variant(variants.find("EfficientNetV2B0"), folder / "row.json")
    there = stores.Stored(f"ram://{folder}")
    there.send(folder)
    return there


@pytest.fixture(scope="module")
def here(store):
    return pathlib.Path("/", str(store).removeprefix("ram://"))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty working directory that has to stay empty."""
    monkeypatch.chdir(tmp_path)
    yield
    assert os.listdir(tmp_path) == []


# {s}: the store. What is there afterwards, or words of the refusal
COMMANDS = [
    ("predict {s}/photos/red --model_file={s}/run", WORKS),
    ("predict {s}/photos/red/*.png --model_file={s}/run/model.keras", WORKS),
    ("predict {s}/photos/red --model_file={s}/run --csv={s}/made/t.csv", "made/t.csv"),
    ("predict {s}/photos/red --model_file={s}/run --csv={s}/photos", "is a folder; give a file"),
    ("predict {s}/photos/red --model_file={s}/run --class_names={s}/names.txt", WORKS),
    (
        "predict {s}/photos/red --model_file={s}/run --class_names={s}/no.txt",
        "has 1 names, the model 4",
    ),
    ("evaluate --data=folder:{s}/photos --model_file={s}/run --report_dir={s}/r", "r/report.html"),
    ("evaluate --data=csv:{s}/table.csv --model_file={s}/run", WORKS),
    ("evaluate --data={s}/photos --model_file={s}/run", WORKS),
    ("evaluate --data=folder:{s}/no --model=B0", "There is no folder ram://"),
    ("evaluate --data=csv:{s}/no --model=B0", "There is no table ram://"),
    ("evaluate --data=tfrecord:{s}/no --model=B0", "There is no folder ram://"),
    ("evaluate --data=webdataset:{s}/no --model=B0", "There is no folder ram://"),
    (
        "evaluate --data=cars:{s}/photos --model_file={s}/run",
        "Copy it here: its archive is unpacked",
    ),
    ("evaluate --data=hf:{s}/photos --model=B0", "hf:NAME is the name of a set, no address."),
    ("evaluate --data=tfds:{s}/photos --model=B0", "What lies in a store is folder:ADDRESS, csv:"),
    ("export --model_file={s}/run/model.keras --output={s}/made/h", "made/h/saved_model.pb"),
    (
        "export --model_file={s}/run/model.keras --output={s}/made/m.tflite --format=tflite "
        "--images={s}/photos",
        "made/m.tflite",
    ),
    ("export --model=B0 --output={s}/hub", "exists. Remove it, or choose another path."),
    ("export --model=B0 --output=x --format=onnx --images={s}/no", "/no is no folder"),
    (
        "convert --model_file={s}/run/model.keras --output={s}/made/x.weights.h5",
        "made/x.weights.h5",
    ),
    ("publish --workdir={s}/no --to=hf:a/b --dry_run", "holds no finished run"),
    ("scale --model={s}/row.json --step=1 --output={s}/made/row.json", "made/row.json"),
    ("train --data=folder:{s}/photos --preview={s}/made/p.png", "made/p.png"),
    ("train --data=folder:{s}/photos --preview={s}/photos", "is a folder; give a file"),
    ("train --data=folder:{s}/no --workdir={s}/made/run", "There is no folder ram://"),
    (
        "finetune --data=folder:{s}/no --workdir={s}/w --weights={s}/w.weights.h5",
        "is no folder ram:",
    ),
    (
        "finetune --data=folder:{s}/photos --workdir={s}/w --weights={s}/no.h5",
        "no weights file ram:",
    ),
    (
        "search --data=folder:{s}/photos --workdir={s}/search",
        "Give a folder here, or one that mach",
    ),
    ("search --data=folder:{s}/no --workdir=w", "There is no folder ram://"),
    ("search --data=folder:{s}/no --workdir=w --space={s}/no.json", "There is no file ram://"),
    (
        "layouts --data=folder:{s}/photos --workdir={s}/study",
        "Give a folder here, or one that mach",
    ),
    ("layouts --data=folder:{s}/no --workdir=w --base={s}/row.json", "Received: EfficientNetV2B0"),
    ("layouts --data=folder:{s}/no --workdir=w", "There is no folder ram://"),
]


@pytest.mark.parametrize(("command", "result"), COMMANDS, ids=[row[0] for row in COMMANDS])
def test_flags(command, result, store, nowhere, capsys):
    code = cli.main(shlex.split(command.format(s=store)))
    _, said = capsys.readouterr()
    if result is WORKS or "/" in result and " " not in result:
        assert code == 0, said
        assert (store / (result or "")).exists()
    else:
        assert code in (1, 2) and result in said
        assert said.startswith("effv2 ") and len(said.splitlines()) == 1


def test_pictures_are_sorted_into_a_store(store, nowhere, tmp_path):
    """Byte for byte, twice the second time; one photo from here, the others from a store."""
    photo = tmp_path.parent / f"{tmp_path.name}.png"
    photo.write_bytes((store / "photos/red/0.png").read_bytes())
    command = (
        f"predict {store}/photos/red {photo} --model_file={store}/run --sort_into={store}/sorted"
    )
    for count in (1, 2):
        assert cli.main(shlex.split(command)) == 0
        (folder,) = (store / "sorted").iterdir()  # one picture, one class
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert len(found) == 7 * count
        for i in range(6):
            assert found[f"{i}.png"] == (store / f"photos/red/{i}.png").read_bytes()
    assert found[f"{photo.stem}-2.png"] == photo.read_bytes()


def test_every_flag_of_a_path_stands_in_the_table():
    """A new one has to say what it does with a store; NAME.json of a row is read by one function."""
    covered = {
        (row[0].split()[0], flag)
        for row in COMMANDS
        for flag in re.findall("--([a-z_]+)=[^ ]*{s}", row[0])
    }
    covered.add(("predict", "sort_into"))
    alike = {flag for _, flag in covered} & {
        "model_file",
        "weights",
        "model",
        "class_names",
        "data",
    }
    for name in cli.COMMANDS:
        values = flags.FlagValues()
        app.load(name).define(values)
        takes = {flag for flag in values if isinstance(values[flag].parser, _Path)}
        assert {flag for flag in takes - alike if (name, flag) not in covered} == set(), name


# an expression with `s`, the store; what is there afterwards, or the words of the refusal
FUNCTIONS = [
    ("data.load(f'folder:{s}/photos').train.class_counts()", WORKS),
    ("data.load(s / 'photos').train.class_counts()", WORKS),
    ("data.Split(['a', 'b'], [0, 1], [f'{s}/photos/red/0.png'] * 2)", WORKS),
    ("augment.preview(data.load(f'folder:{s}/photos').train, PHASES, f'{s}/m/p.png')", "m/p.png"),
    ("imagenet.read_image(f'{s}/photos/red/0.png')", WORKS),
    ("imagenet.prepare_image(model, f'{s}/photos/red/0.png')", WORKS),
    ("imagenet.prepare_image(model, f'{s}/no.png')", "ram://"),
    ("model_files.load_model(f'{s}/run')", WORKS),
    ("kev.HubLayer(f'{s}/hub')", "is remote, and a SavedModel is a program. Give its `sha256`"),
    ("kev.HubLayer(f'{s}/no', trust=True)", "There is no SavedModel ram://"),
    ("kev.HubLayer('s3://b/hub', trust=True)", "in a store that TensorFlow here knows"),
    ("kev.export(model, f'{s}/m/saved')", "m/saved/saved_model.pb"),
    ("kev.export_hub(model, f'{s}/m/hub.tar.gz')", "m/hub.tar.gz"),
    ("kev.publish(f'{s}/no', 'hf:a/b')", "holds no finished run"),
    ("kev.load_variant(f'{s}/row.json')", WORKS),
    ("kev.save_variant(kev.load_variant(f'{s}/row.json'), f'{s}/m/row.json')", "m/row.json"),
    ("kev.model_info(f'{s}/row.json')", WORKS),
    ("kev.scale(f'{s}/row.json', 1)", WORKS),
    ("kev.unseen(f'folder:{s}/photos', f'{s}/run/model.keras')", WORKS),
    ("kev.evaluate(model, DATA, f'{s}/m/report', split='validation')", "m/report/report.html"),
    ("kev.search(DATA, f'{s}/search', space='tiny')", "Give a folder here, or one that machines"),
    ("kev.layouts(DATA, f'{s}/study')", "Give a folder here, or one that machines share"),
    ("weights.convert(model, f'{s}/m/x.weights.h5', tag='x', source='x')", "m/x.weights.h5"),
    ("space.find(f'{s}/no.json')", "There is no file ram://"),
    ("demo.main(f'{s}/demo')", "Another process reads from it: give a folder here"),
]


@pytest.mark.parametrize(("code", "result"), FUNCTIONS, ids=[row[0] for row in FUNCTIONS])
def test_functions(code, result, store, nowhere):
    names = {"s": store, "model": train_tiny.build(), "DATA": tiny_data(), "PHASES": [Phase(0, 1)]}
    if result is WORKS or "/" in result and " " not in result and "ram:" not in result:
        eval(code, globals(), names)
        assert (store / (result or "")).exists()
    else:
        with pytest.raises((ValueError, OSError), match=re.escape(result)) as raised:
            eval(code, globals(), names)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["hub", "hub.tar.gz"])
def test_a_hub_layer_out_of_a_store(name, store, here, nowhere, images):
    """The same as of the folder that was sent there; a saved model names the address."""
    ours = kev.HubLayer(str(here / "hub"))
    theirs = kev.HubLayer(f"{store}/{name}", sha256=ours.hash)
    assert theirs.get_config()["handle"] == f"{store}/{name}"
    np.testing.assert_array_equal(theirs(images / 255), ours(images / 255))
    with pytest.raises(ValueError, match="it is not the SavedModel that was meant"):
        kev.HubLayer(f"{store}/{name}", sha256="0" * 64)
