"""The part of a data set that a model was not trained on, however its path is written."""

import json
import os

import numpy as np
import pytest
from conftest import dense, tiny_data
from PIL import Image

import keras_effv2 as kev
from keras_effv2 import data, recipes, training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of pictures without splits, `photos`, and a run that was trained on it, `run`."""
    folder, colours = tmp_path_factory.mktemp("unseen"), tiny_data().train
    for i, (picture, label) in enumerate(zip(colours.pictures, colours.labels, strict=True)):
        own = folder / "photos" / colours.class_names[label]
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(own / f"{i}.png")
    recipe = recipes.Recipe("tiny", "tests", 1, 8, 1e-3)
    photos = data.load(f"folder:{folder}/photos")
    training.train(lambda: dense(4), photos, recipe, folder / "run", "one", progress=False)
    return folder


@pytest.mark.parametrize("path", ["photos", "photos/", "./photos", "run/../photos", "link"])
def test_it_was_held_out(path, run, monkeypatch):
    monkeypatch.chdir(run)
    if path == "link" and not os.path.exists("link"):
        os.symlink("photos", "link")
    parts = kev.unseen(f"folder:{path}", "run/model.keras")
    trained = data.load(f"folder:{run}/photos").train
    assert len(parts.test) + len(parts.validation) + len(trained) == 48 and len(parts.test) > 3
    names = {os.path.basename(file) for file in trained.pictures}
    assert not names & {os.path.basename(file) for file in parts.test.pictures}


def test_of_another_data_set_it_is_all(run, monkeypatch):
    monkeypatch.chdir(run)
    for model in (None, "imagenet", "photos/red/0.png"):
        assert len(kev.unseen("folder:photos", model).test) == 48
    assert len(kev.unseen("digits", "run/model.keras").test) == 1797


def test_what_lies_beside_a_model_may_be_junk(run, monkeypatch, caplog):
    monkeypatch.chdir(run)
    kept = (run / "run" / "summary.json").read_text()
    (run / "run" / "summary.json").write_text("{junk")
    assert len(kev.unseen("folder:photos", "run/model.keras").test) < 48  # by its fingerprint
    assert "summary.json is no JSON file" in caplog.text
    (run / "run" / "summary.json").write_text(kept)


def test_pictures_that_were_added_since_are_told(run, monkeypatch, caplog):
    """By the path alone: which pictures were trained on is not known."""
    monkeypatch.chdir(run)
    recipe = json.loads((run / "run" / "recipe.json").read_text())
    (run / "run" / "recipe.json").write_text(json.dumps({**recipe, "training data": "other"}))
    parts = kev.unseen("folder:photos", "run/model.keras")
    assert 0 < len(parts.test) < 48 and "may have been trained on" in caplog.text
    (run / "run" / "recipe.json").write_text(json.dumps(recipe))
    assert isinstance(parts.test.labels, np.ndarray)


@pytest.mark.parametrize("many, warned", [(45, False), (50, True)])
def test_unequal_classes_are_told(many, warned, tmp_path, caplog):
    """From ten to one on, with the counts of the training pictures."""
    for name, count in (("many", many), ("few", 6)):
        (tmp_path / name).mkdir()
        for i in range(count):
            picture = np.random.default_rng((count, i)).integers(0, 256, (8, 8, 3), "uint8")
            Image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    found = data.load(f"folder:{tmp_path}")
    high, low = np.bincount(found.train.labels)[::-1].tolist()
    told = f"{high} training pictures of many and {low} of few" in caplog.text
    assert told == warned == (high >= 10 * low)
