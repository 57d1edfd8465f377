"""Fine-tuning: what learns, the solved head, the plan, and the whole way on a tiny network."""

import dataclasses
import importlib
import json
import os
import shutil
import signal
import sys
import time

import finetune_tiny
import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from absl import logging
from conftest import mirrored, tiny_data

import keras_effv2 as kev
from keras_effv2 import cli, data, files, finetuning, layers, model_files, models, recipes, training
from keras_effv2.data import Split
from keras_effv2.evaluation import evaluate
from keras_effv2.exporting import publish, reusable
from keras_effv2.models import efficientnet_v2


def step(model):
    """One step on noise; the names of the weights that it changed."""
    before = [weight.numpy() for weight in model.weights]
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.train_on_batch(images, np.arange(8))
    changed = zip(before, model.weights, strict=True)
    return {weight.path for old, weight in changed if not np.array_equal(old, weight)}


@pytest.mark.parametrize("policy", finetuning.POLICIES)
def test_frozen_is_frozen(policy, tiny_effnet):
    """Statistics of batch normalisation too, and whatever was frozen before."""
    model = tiny_effnet(input_shape=(32, 32, 3), drop_path=0.0)
    model.trainable = False
    finetuning.freeze(model, policy)
    moved = step(model)
    everything = {weight.path for weight in model.weights if "seed" not in weight.path}
    norms = {path for path in everything if "_bn/" in path or "bn/" in path}
    expected = {
        "none": everything,
        "batch_norm": everything - norms,
        "backbone": {path for path in everything if "predictions" in path},
    }[policy]
    assert moved == expected


def test_freeze_refuses(tiny_effnet):
    with pytest.raises(ValueError, match="has no head; with policy='backbone'"):
        finetuning.freeze(tiny_effnet(include_top=False), "backbone")


def test_plan_fits_data_and_machine():
    few = finetuning.plan("EfficientNetV2B0", 100, accelerator=False)
    many = finetuning.plan("EfficientNetV2B0", 50_000, accelerator=True)
    assert few.epochs > many.epochs >= 4 and few.batch_size < many.batch_size
    for recipe in (few, many, finetuning.plan("CoAtNet1", 7, image_size=200, epochs=1)):
        assert all(phase.image_size % 32 == 0 for phase in recipe.phases)
        assert recipe.phases[-1].stop_epoch == recipe.epochs
    assert finetuning.plan("EfficientNetV2S", 1000, accelerator=True).phases[-1].image_size == 384
    assert finetuning.plan("EfficientNetV2S", 1000, accelerator=False).phases[-1].image_size == 224


@pytest.mark.parametrize("side, size", [(8, 128), (32, 128), (160, 160), (170, 160), (3000, 224)])
def test_pictures_are_scaled_to_a_sensible_size_on_processors(side, size):
    recipe = finetuning.plan("EfficientNetV2S", 1000, accelerator=False, picture_side=side)
    assert recipe.phases[-1].image_size == size
    recipe = finetuning.plan("EfficientNetV2S", 1000, accelerator=True, picture_side=side)
    assert recipe.phases[-1].image_size == 384


def test_the_estimate_is_of_this_machine():
    """A forward pass that sleeps 0.2 s: 4 x 0.2 s, 50 steps, 2 epochs at half the side and 2 at it."""

    class Sleep(keras.layers.Layer):
        def call(self, inputs):
            tf.numpy_function(lambda: time.sleep(0.2), [], [])
            return inputs

    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, Sleep()(inputs))
    recipe = dataclasses.replace(
        finetuning.plan("EfficientNetV2B0", 100, epochs=4),
        batch_size=2,
        phases=kev.ramp(4, 2, image_size=(32, 64)),
    )
    text = finetuning.estimate(model, tiny_data(count=100), recipe)
    minutes = 4 * 0.2 * 50 * (2 * 0.25 + 2) / 60
    assert "4 epochs of 100 pictures, batch 2, sizes 32, 64" in text
    one = finetuning.estimate(
        model,
        tiny_data(count=100),
        dataclasses.replace(recipe, epochs=1, phases=kev.ramp(1, 1, image_size=32)),
    )
    assert one.startswith("1 epoch of")
    assert f"about {round(minutes)} min" in text and "64 pixels (20" in text


class TwoLabels(Split):
    """Every picture is blue, too."""

    def eval_batches(self, **settings):
        batches = super().eval_batches(**settings)
        return batches.map(lambda x, y, mask: (x, tf.maximum(y, tf.one_hot(2, 4)), mask))


@pytest.fixture
def start(monkeypatch, tmp_path):
    """A tiny network under B0's name, and weights of another task: `(network, path)`."""
    row = train_tiny.shallow_row(name="EfficientNetV2B0")
    monkeypatch.setitem(models.VARIANTS, "EfficientNetV2B0", row)
    network = efficientnet_v2.build(row, weights=None, classes=7)
    network.save_weights(tmp_path / "start.weights.h5")
    return network, str(tmp_path / "start.weights.h5")


def test_the_whole_way(start, tmp_path, monkeypatch):
    """From weights of another task to a hub export; a second call resumes and finds it done."""
    network, path = start
    options = {"weights": path, "epochs": 2, "image_size": 32}
    colours = tiny_data(count=96)
    result, judged = finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "run", **options)
    assert judged.top1 >= 0.5 and result.resumed_from == 0
    stem = result.model.get_layer("stem_bn").moving_mean
    np.testing.assert_array_equal(stem, network.get_layer("stem_bn").moving_mean)
    served = tf.saved_model.load(str(tmp_path / "run" / "hub"))
    pictures = colours.validation.pictures.astype("float32")
    logits = served(pictures / 255, training=False).numpy()
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)  # once is enough
    np.testing.assert_array_equal(logits.argmax(1), judged.probabilities.argmax(1))
    again, same = finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "run", **options)
    assert again.resumed_from == again.steps == result.steps and same.top1 == judged.top1
    with pytest.raises(ValueError, match=r"from .*start.weights.h5, this is .* from None"):
        finetuning.finetune(
            "EfficientNetV2B0", colours, tmp_path / "run", **{**options, "weights": None}
        )
    with pytest.raises(ValueError, match="no model 'B9'. Models: EfficientNetV2B0"):
        finetuning.finetune("B9", colours, tmp_path / "other")
    # the run is begun anew in the same folder: its export is that of the new network
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    _, other = finetuning.finetune(
        "EfficientNetV2B0", colours, tmp_path / "run", **{**options, "epochs": 1}
    )
    served = tf.saved_model.load(str(tmp_path / "run" / "hub"))
    logits = served(pictures / 255, training=False).numpy()
    np.testing.assert_allclose(tf.nn.softmax(logits), other.probabilities, atol=1e-4)


@pytest.mark.slow
def test_in_a_store(start, tmp_path, monkeypatch):
    """Resumed, evaluated, exported and published from there; nothing is left in a folder here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)
    options = {"weights": start[1], "epochs": 1, "image_size": 32}
    before, workdir = {*tmp_path.iterdir()}, f"ram:/{tmp_path}/run"
    first, _ = finetuning.finetune("EfficientNetV2B0", tiny_data(), workdir, **options)
    again, judged = finetuning.finetune("EfficientNetV2B0", tiny_data(), workdir, **options)
    assert again.resumed_from == first.steps
    names = {path.name for path in files.place(workdir, "The workdir").iterdir()}
    assert names >= {"model.keras", "summary.json", "report.html", "hub", "tensorboard"}
    assert not names & {".owner.json", ".hub"}
    theirs = model_files.load_model(workdir)
    evaluation = evaluate(theirs, tiny_data(), image_size=32)
    assert evaluation.top1 == judged.top1
    sent = dict(publish(workdir, "hf:me/colours", dry_run=True).files)
    assert sent["model.keras"] and sent["hub/saved_model.pb"] and "model.tflite" in sent
    assert {*tmp_path.iterdir()} == before


def test_own_recipes(start, tmp_path):
    """Those without phases too; what a recipe says is not said twice."""
    recipe = recipes.Recipe("own", "tests", 1, 8, 1e-3, crop_area=(0.9, 1.0))
    recipe = dataclasses.replace(recipe, phases=(), eval_size=32)
    options = {"weights": start[1], "hub": False, "recipe": recipe}
    result, judged = finetuning.finetune(
        "EfficientNetV2B0", tiny_data(), tmp_path / "run", **options
    )
    assert result.steps == 6 and judged.images == 10
    with pytest.raises(ValueError, match="says epochs, sizes, batch, flip, class_weight and"):
        finetuning.finetune("EfficientNetV2B0", tiny_data(), tmp_path, epochs=3, **options)


def test_mixed_precision(start, tmp_path, monkeypatch):
    """The network computes in bfloat16, from the file's weights to the export."""
    monkeypatch.setattr(reusable, "verify", lambda *arguments: None)  # compared below
    options = {"weights": start[1], "epochs": 2, "image_size": 32, "precision": "mixed_bfloat16"}
    colours = tiny_data(count=96)
    result, judged = finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "run", **options)
    assert result.model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert judged.top1 >= 0.5 and judged.probabilities.dtype == np.float32
    served = tf.saved_model.load(str(tmp_path / "run" / "hub"))
    logits = served(colours.validation.pictures / np.float32(255), training=False).numpy()
    np.testing.assert_allclose(tf.nn.softmax(logits), judged.probabilities, atol=0.02)


def test_random_weights_are_told(start, tmp_path, caplog, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "info", lambda text, *values: said.append(text % values))
    options = {"weights": None, "epochs": 1, "image_size": 32, "hub": False}
    finetuning.finetune("EfficientNetV2B0", tiny_data(), tmp_path / "run", **options)
    assert any("min of training here" in text for text in said)
    assert "starts from random weights" in caplog.text
    assert "None were ever released" not in caplog.text


def test_classes_count_alike_unless_it_is_said_otherwise(start, tmp_path, monkeypatch):
    """Told in one line; part of what a run is; a class that is not there is refused before all."""
    said = []
    monkeypatch.setattr(logging, "info", lambda text, *values: said.append(text % values))
    options = {"weights": start[1], "epochs": 1, "image_size": 32, "hub": False}
    colours = tiny_data()
    keep = np.r_[
        np.flatnonzero(colours.train.labels != 2), np.flatnonzero(colours.train.labels == 2)[:3]
    ]
    colours = dataclasses.replace(colours, train=colours.train.select(np.sort(keep)))
    finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "run", **options)
    told = [text for text in said if "class_weight" in text]
    assert len(told) == 1 and "12 pictures of red, 3 of blue" in told[0]
    with pytest.raises(ValueError, match="class_weight: 'auto' -> 'none'"):
        finetuning.finetune(
            "EfficientNetV2B0", colours, tmp_path / "run", class_weight="none", **options
        )
    with pytest.raises(ValueError, match="class 'violet' that the data does not have"):
        finetuning.finetune(
            "EfficientNetV2B0", colours, tmp_path / "new", class_weight={"violet": 2}, **options
        )
    assert not (tmp_path / "new").exists()


def test_several_labels_are_refused(start, tmp_path):
    colours = tiny_data()
    train = TwoLabels(colours.class_names, colours.train.labels, colours.train.pictures)
    colours = dataclasses.replace(colours, train=train)
    with pytest.raises(ValueError, match="has one label a picture; one here has 2.*several=True"):
        finetuning.finetune(
            "EfficientNetV2B0", colours, tmp_path / "run", weights=start[1], image_size=32
        )


def test_several_labels_a_picture(start, tmp_path, capsys):
    """Red, green and blue, any of them: a sigmoid each, solved first; thresholds in the file."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 120, (120, 32, 32, 3), dtype="uint8")
    labels = rng.random((120, 3)) < 0.5
    pictures += (120 * labels[:, None, None]).astype("uint8")
    names, parts = ("red", "green", "blue"), (slice(72), slice(72, 96), slice(96, None))
    splits = [Split(names, labels[own], pictures[own], several=True) for own in parts]
    options = {"weights": start[1], "epochs": 2, "image_size": 32, "hub": False}
    collages = data.Data("collages", names, *splits)
    result, judged = finetuning.finetune("EfficientNetV2B0", collages, tmp_path / "run", **options)
    assert judged.mean_average_precision > 0.75  # guessing gives a half
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    kept = layers.find_pixels(model)
    assert kept.thresholds == [row[-1] for row in judged.labels_table]
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (recipe["loss"], recipe["class_weight"]) == ("sigmoid", "none")
    scores = model.predict(splits[2].pictures.astype("float32"), verbose=0)
    np.testing.assert_allclose(judged.probabilities, scores, atol=1e-4)
    keras.utils.save_img(tmp_path / "a.png", splits[2].pictures[0])
    command = ["predict", str(tmp_path / "a.png"), f"--model_file={tmp_path}/run/model.keras"]
    assert cli.main([*command, "--format=json"]) == 0
    said = json.loads(capsys.readouterr().out)[0]["said"]
    wanted = {
        name for name, score, least in zip(names, scores[0], kept.thresholds) if score >= least
    }
    assert set(said) == wanted
    with pytest.raises(ValueError, match="`unknown` goes with one label a picture"):
        finetuning.finetune("EfficientNetV2B0", collages, tmp_path / "no", unknown=0.1, **options)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="`image_size` is at least 32. Received: -5"):
        finetuning.plan("EfficientNetV2B0", 100, image_size=-5)


def test_interrupted_it_goes_on_without_solving_the_head_again(start, tmp_path, monkeypatch):
    options = {"weights": start[1], "epochs": 2, "image_size": 32, "batch_size": 8, "hub": False}
    colours = tiny_data()
    whole, _ = finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "whole", **options)
    train, die = training.train, train_tiny.Die(8, signal.SIGTERM)

    def dying(*arguments, callbacks=(), **others):
        return train(*arguments, callbacks=[*callbacks, die], progress=False, **others)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", dying)
        with pytest.raises(SystemExit):
            finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "run", **options)
    page = sys.modules["keras_effv2.finetuning.finetune"]  # the function has its file's name
    monkeypatch.setattr(page, "solve", None)
    result, _ = finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "run", **options)
    assert result.resumed_from == 8 and result.steps == whole.steps == 12
    for one, other in zip(result.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_replicas_share_a_batch(start, tmp_path):
    """100 pictures make batches of 12, which five replicas cannot share: they get 15."""
    assert finetuning.plan("EfficientNetV2B0", 100, replicas=5).batch_size == 15
    options = {"weights": start[1], "epochs": 1, "image_size": 32, "hub": False}
    result, judged = finetuning.finetune(
        "EfficientNetV2B0", tiny_data(), tmp_path / "run", strategy=mirrored(2), **options
    )
    assert result.steps == 48 // 6 and judged.images == 10


def test_a_handful_of_pictures(start, tmp_path):
    """Three a class, one in each split."""
    colours = tiny_data(count=4, validation=4)
    options = {"weights": start[1], "epochs": 1, "image_size": 32, "hub": False}
    result, judged = finetuning.finetune("EfficientNetV2B0", colours, tmp_path / "run", **options)
    assert result.steps == 2 and judged.images == 4


def test_an_export_is_known_by_its_model(tmp_path, monkeypatch):
    """Not by times: a workdir is copied, and clocks are set back."""
    page, made = importlib.import_module("keras_effv2.finetuning.finetune"), []

    def export(model, path):
        path.mkdir()
        (path / "saved_model.pb").write_text(model)
        made.append(model)

    monkeypatch.setattr(page, "export_hub", export)
    (tmp_path / "summary.json").write_text("{}")
    for model in ("one", "two"):
        (tmp_path / "model.keras").write_text(model)
        os.utime(tmp_path / "model.keras", (1, 1))
        page._export(model, tmp_path)
        os.utime(tmp_path / "hub" / "saved_model.pb", (0, 0))
        page._export(model, tmp_path)
        assert (tmp_path / "hub" / "saved_model.pb").read_text() == model
    assert made == ["one", "two"]


@pytest.mark.slow
def test_killed_wherever_it_is_it_ends_the_same(start, tmp_path):
    """As soon as it has solved the head, trained, written the model, judged, begun to export."""

    def process(name):
        return forked.Process(finetune_tiny.__file__, tmp_path / name, start[1])

    done = process("quiet").finish()
    assert done.returncode == 0, done.stderr[-3000:]
    for sign in (".doubts.json", "checkpoints/*.ckpt", "model.keras", "evaluation.json", "..hub.*"):
        doomed = process("run")
        while not [*(tmp_path / "run").glob(sign)]:
            time.sleep(0.002)
        assert doomed.kill(), sign
    done = process("run").finish()
    assert done.returncode == 0, done.stderr[-3000:]
    quiet, run = tmp_path / "quiet", tmp_path / "run"
    ours, theirs = (keras.models.load_model(path / "model.keras") for path in (run, quiet))
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    images = tiny_data().validation.pictures.astype("float32")[:, :32, :32] / 255
    served = [tf.saved_model.load(path / "hub")(images, training=False) for path in (run, quiet)]
    np.testing.assert_array_equal(*served)
    told = [json.loads((path / "summary.json").read_text())["calibration"] for path in (run, quiet)]
    assert told[0] == told[1]
    left = [{p.name for p in path.iterdir() if p.name != "tensorboard"} for path in (run, quiet)]
    assert left[0] == left[1]


def test_the_command(start, tmp_path, capsys):
    colours = tiny_data()
    for part, split in (("train", colours.train), ("val", colours.validation)):
        for i, (picture, label) in enumerate(zip(split.pictures, split.labels, strict=True)):
            folder = tmp_path / "photos" / part / split.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            keras.utils.save_img(folder / f"{i}.png", picture)
    (tmp_path / "photos" / "train" / "red" / "torn.jpg").write_bytes(b"no picture")
    (tmp_path / "photos" / "unknown").mkdir()
    for i in range(6):
        keras.utils.save_img(
            tmp_path / "photos" / "unknown" / f"{i}.png", colours.train.pictures[i]
        )
    command = ["finetune", f"--data={tmp_path}/photos", f"--workdir={tmp_path}/run"]
    settings = [f"--weights={start[1]}", "--epochs=2", "--image_size=64", "--noflip", "--nohub"]
    assert cli.main([*command, *settings]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["epochs", "pixels"] and lines[1].split()[:2] == ["1-1", "32"]
    assert "torn.jpg" in lines[3] and "of 10 pictures" in lines[4]
    assert f"report: {tmp_path}/run/report.html" in lines[5]
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["calibration"]
    kept = layers.find_pixels(keras.models.load_model(tmp_path / "run" / "model.keras"))
    assert kept.temperature == told["temperature"] and kept.unknown_below == told["unknown_below"]
    judged = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert judged["rejection"]["strangers"] == 3  # the other three chose the threshold
    model_file = tmp_path / "run" / "model.keras"
    asked = [f"--data={tmp_path}/photos", f"--model_file={model_file}", "--format=json"]
    assert cli.main(["evaluate", *asked]) == 0
    again = json.loads(capsys.readouterr().out)["rejection"]
    assert again["strangers"] == 3
    assert again["auroc"] == pytest.approx(judged["rejection"]["auroc"], abs=0.01)
    before = model_file.stat().st_mtime_ns
    assert cli.main([*command, *settings]) == 0  # nothing is left to do
    assert model_file.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["calibration"] == told
    capsys.readouterr()
    assert judged["calibration_error_before"] is not None
    table = (tmp_path / "run" / "doubtful.csv").read_text().splitlines()
    assert table[0] == "split,file,label,said,confidence"
    assert any(line.startswith(f"train,{tmp_path}/photos/train/") for line in table)
    assert cli.main([*command, "--model=VGG"]) == 2
    assert "there is no model 'VGG'" in capsys.readouterr().err


def test_what_cannot_be_leaves_nothing_behind(start, tmp_path):
    """Checked before the batch is allocated, the head solved or a folder made."""
    options = {"weights": start[1], "image_size": 32, "batch_size": 1_000_000}
    with pytest.raises(ValueError, match="batch of 1000000 is larger than .* 48 pictures"):
        finetuning.finetune("EfficientNetV2B0", tiny_data(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_head_that_it_solves_is_no_warning(start, tmp_path, caplog):
    options = {"weights": start[1], "epochs": 1, "image_size": 32, "hub": False}
    finetuning.finetune("EfficientNetV2B0", tiny_data(), tmp_path / "run", **options)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert not [text for text in warned if "has to be trained" in text]
