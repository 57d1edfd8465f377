"""What goes to Hugging Face and Kaggle, and that what they serve is what was sent."""

import json
import pathlib
import shutil
import sys

import huggingface_hub.constants
import kagglehub
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_convnet, tiny_data
from hub_server import served

import keras_effv2 as kev
from keras_effv2 import cli, evaluation, training
from keras_effv2.exporting import page, publishing
from keras_effv2.training import records

EXPECTED = {
    "README.md",
    "config.json",
    "evaluation.json",
    "history.png",
    "hub/saved_model.pb",
    "labels.txt",
    "metadata.json",
    "model.keras",
    "model.tflite",
    "model.weights.h5",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs on coloured noise, and its evaluation."""
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    recipe = kev.recipes.Recipe("tiny", "tests", 2, 16, 1e-3)
    data = tiny_data()
    result = training.train(build_convnet(), data, recipe, workdir, "one", progress=False)
    kev.evaluate(result.model, data, workdir, split="validation")
    (workdir / "start.json").write_text(
        json.dumps({"model": "CoAtNetNanoRW", "weights": "imagenet"})
    )
    kev.export_hub(result.model, workdir / "hub")
    records.tell_exported(workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "mine"))  # with times of the files


def told(run, place="hf:me/flowers", licence="apache-2.0"):
    """The page that goes with a run."""
    return page.page(run, keras.saving.load_model(run / "model.keras"), EXPECTED, place, licence)


def test_several_labels_a_picture_have_a_page_of_their_own(run):
    """Mean average precision instead of top 1, and from where on each label is said."""
    rng = np.random.default_rng(0)
    scores = rng.random((40, 4)).astype("float32")
    judged = evaluation.judge_several(scores, scores > 0.6, ("red", "green", "blue", "grey"))
    (run / "evaluation.json").write_text(json.dumps(judged.summary()))
    text = told(run)
    assert "mean average precision 100.0% on 40 pictures" in text and "| red |" in text
    assert (
        "mean_average_precision" in text and "top 1" not in text.split("## Use")[0].split("---")[-1]
    )


@pytest.fixture
def face(monkeypatch, tmp_path):
    """A hub, to which huggingface_hub and Keras go."""
    with served() as (hub, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
        known = huggingface_hub.constants  # read from the environment when it was imported
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(known, "ENDPOINT", address)
        monkeypatch.setattr(known, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(known, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(known, "HF_HUB_DISABLE_XET", True)
        yield hub


def test_hugging_face(run, face, tmp_path, capsys):
    dry = kev.publish(run, "hf:me/flowers", dry_run=True)
    assert not face.asked and dry.address is None
    names = {name for name, _ in dry.files}
    assert {name for name in names if not name.startswith("hub/")} | {
        "hub/saved_model.pb"
    } == EXPECTED
    command = ["publish", f"--workdir={run}", "--to=hf:me/flowers", "--private"]
    assert cli.main(command) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "Sent, fetched again and compared" in out and "/me/flowers" in out and face.private
    sizes = {name: len(content) for name, content in face.files.items()}
    assert sizes == dict(dry.files)
    assert face.files["model.keras"] == (run / "model.keras").read_bytes()
    # anybody's Keras, and TensorFlow alone
    model = keras.saving.load_model(run / "model.keras")
    theirs = keras.saving.load_model("hf://me/flowers")
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(
        theirs.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    layer = kev.HubLayer("hf://me/flowers", trust=True)
    assert layer.module.variables
    probabilities = tf.nn.softmax(layer(images / 255))
    np.testing.assert_allclose(probabilities, model(images), atol=1e-5)


def test_the_page_tells_what_the_files_say(run):
    text = told(run, licence="cc-by-4.0")
    card = huggingface_hub.ModelCard(text)
    found = json.loads((run / "evaluation.json").read_text())
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "keras"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.base_model == "timm/coatnet_nano_rw_224.sw_in1k"  # what start.json says
    top1 = card.data.eval_results[0]
    assert (top1.metric_type, top1.metric_value) == ("accuracy", found["top1"])
    assert top1.metric_args == {"images": 10, "interval_95": list(found["top1_interval"])}
    low, high = found["top1_interval"]
    for said in (
        f"{found['top1']:.1%} of 10 pictures of `validation`",
        f"({low:.1%} to {high:.1%})",
        "Classes: red, green, blue, grey.",
        "pictures: 48 train, 10 validation.",
        "from the weights `imagenet` (timm, Ross Wightman, Apache-2.0)",
        "10 test pictures are few",
        'keras.saving.load_model("hf://me/flowers")',
        "![accuracy and image size, epoch by epoch](history.png)",
    ):
        assert said in text, said
    assert str(run) not in text and str(run.parent) not in text
    assert 'model_download("me/flowers/keras/b0")' in told(run, "kaggle:me/flowers/keras/b0")
    model = keras.saving.load_model(run / "model.keras")
    kev.layers.find_pixels(model).unknown_below = 0.4
    text = page.page(run, model, EXPECTED, "hf:me/flowers", "mit")
    assert "less sure of than 40.0%" in text and "whatever is on the picture" not in text
    # several labels a picture
    several = {"split": "test", "images": 500, "mean_average_precision": 0.875, "micro_f1": 0.81}
    several |= {"labels_table": [{"label": "red", "images": 9, "f1": 0.5, "threshold": 0.3}]}
    (run / "evaluation.json").write_text(json.dumps(several))
    card = huggingface_hub.ModelCard(told(run))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_average_precision", 0.875)
    assert "87.5% on 500 pictures that it had not seen" in card.text
    assert "| red | 9 | 0.500 | 0.300 |" in card.text
    # before an evaluation, and of data that lies somewhere private
    (run / "evaluation.json").unlink()
    summary = json.loads((run / "summary.json").read_text())
    summary["data"] = "csv:/home/somebody/secret/table.csv?label=kind"
    (run / "summary.json").write_text(json.dumps(summary))
    text = told(run)
    assert "Not evaluated." in text and "secret" not in text and "`csv:table.csv`" in text


def test_the_page_claims_nothing_of_a_start_that_is_not_known(run):
    text = told(run, "kaggle:me/flowers/keras/b0")
    assert "kagglehub.model_download" in text
    assert "pip install 'keras_effv2[train,publish]'" in text  # kagglehub is among the second
    (run / "start.json").write_text(json.dumps({"model": "mine", "weights": None}))
    assert "2 epochs from random weights, recipe" in told(run)
    (run / "start.json").unlink()
    assert "2 epochs, recipe" in told(run)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("folder:/home/me/photos/", "folder:photos"),
        ("csv:~/tables/labels.csv?label=kind", "csv:labels.csv"),
        ("tfds:coco/2017:1.1.0?data_dir=/home/me", "tfds:coco/2017:1.1.0"),
        ("kaggle:owner/name/versions/2", "kaggle:owner/name/versions/2"),
        ("hf:owner/name:config", "hf:owner/name:config"),
        ("hf:./pictures/mine", "hf:mine"),
        ("hf:tests/data", "hf:data"),
        ("digits", "digits"),
        ("pictures of my own", "pictures of my own"),
    ],
)
def test_a_data_set_is_named_without_folders_of_a_machine(given, told, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    assert page._nameless(given) == told


def test_what_was_there_and_what_is_served(run, face):
    """An older export goes, other files stay; what comes back is compared."""
    face.commit(
        [
            {"key": "file", "value": {"path": path, "content": ""}}
            for path in ("hub/old", "history.png", "mine")
        ]
    )
    (run / "history.png").unlink(missing_ok=True)
    face.spoil = "labels.txt"
    with pytest.raises(OSError, match=r"serves is not what was sent: labels\.txt\. Look there"):
        kev.publish(run, "hf:me/flowers")
    assert not {"hub/old", "history.png"} & set(face.files) and "mine" in face.files
    face.closed = True
    with pytest.raises(OSError, match=r"could not be written.*log in: hf auth login\.$"):
        kev.publish(run, "hf:me/flowers")


def test_kaggle(run, tmp_path, monkeypatch):
    """kagglehub keeps its handles; its uploader and its resolver copy folders."""
    store, given, late = tmp_path / "kaggle", [], [1]

    def upload(handle, folder, license_name=None):
        given.append((str(kagglehub.handle.parse_model_handle(handle)), license_name))
        shutil.copytree(folder, store, dirs_exist_ok=True)

    class Copies:
        def is_supported(self, *arguments, **options):
            return True

        def __call__(self, handle, path=None, *, force_download=False, output_dir=None):
            assert force_download
            if late.pop() if late else False:  # the files are being processed
                raise kagglehub.exceptions.BackendError("not yet")
            return str(store), 1

    monkeypatch.setattr(kagglehub, "model_upload", upload)
    monkeypatch.setattr(kagglehub.registry.model_resolver, "_impls", [Copies()])
    monkeypatch.setattr(publishing, "_PATIENCE", 0.5)
    published = kev.publish(run, "kaggle:me/flowers/keras/b0")
    assert given == [("me/flowers/keras/b0", "Apache 2.0")]
    assert published.address == "https://www.kaggle.com/models/me/flowers/keras/b0"
    assert {name for name, _ in published.files} >= EXPECTED
    model = keras.saving.load_model(store / "model.keras")
    assert kev.class_names(model) == ["red", "green", "blue", "grey"]
    monkeypatch.setattr(kagglehub, "model_upload", lambda *given, **more: None)
    (store / "labels.txt").write_text("others")
    with pytest.raises(OSError, match="serves is not what was sent: labels.txt"):
        kev.publish(run, "kaggle:me/flowers/keras/b0")


def test_misuse(run, tmp_path, monkeypatch):
    for place in ("ftp:me/x", "hf:flowers", "me/flowers", "kaggle:me/flowers", "hf:../x"):
        with pytest.raises(
            ValueError, match="place to publish is such as hf:me/flowers or kaggle:me"
        ):
            kev.publish(run, place, dry_run=True)
    with pytest.raises(FileNotFoundError, match="holds no finished run: it lacks model.keras"):
        kev.publish(tmp_path, "hf:me/flowers", dry_run=True)
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    with pytest.raises(OSError, match="KERAS_EFFV2_OFFLINE is set and forbids"):
        kev.publish(run, "hf:me/flowers")
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE")
    for module, place in (("huggingface_hub", "hf:me/x"), ("kagglehub", "kaggle:me/x/keras/y")):
        with monkeypatch.context() as hidden:
            hidden.setitem(sys.modules, module, None)
            wanted = rf"needs {module}: pip install 'keras_effv2\[publish\]'"
            with pytest.raises(ImportError, match=wanted):
                kev.publish(run, place)
