"""A plan that fits into a time: by arithmetic on a machine whose speed is given; and it ends in time."""

import dataclasses
import functools
import sys
import time

import keras
import pytest
from conftest import tiny_data, tiny_efficientnet_row

from keras_effv2 import finetuning, models, recipes, variants
from keras_effv2.finetuning import time_limit
from keras_effv2.models import efficientnet_v2
from keras_effv2.phases import ramp

COUNTS = (1800, 200, 500)
SPEED = (0.005, 12.0)  # seconds a picture of 224 pixels, and of solving the head


def planned(side=None, count=None, **given):
    given = {"image_size": side, "epochs": count, **given}
    return finetuning.plan("EfficientNetV2B0", COUNTS[0], accelerator=False, **given)


def costs(recipe):
    return time_limit.cost(recipe, SPEED, 224, COUNTS)


def test_the_cost_is_counted_by_pixels():
    """One size of 224: 4 forward passes a picture and epoch; the head, validation and test once."""
    recipe = dataclasses.replace(planned(224, 3), phases=())
    recipe = recipes.resolved(recipe, 224)
    passes = 4 * 1800 * 3 + 1800 + 5 * 200 + 500
    assert costs(recipe) == pytest.approx(time_limit.AROUND + 12 + 0.005 * passes)
    half = recipes.resolved(dataclasses.replace(recipe, phases=()), 112)
    assert costs(half) == pytest.approx(time_limit.AROUND + 12 + 0.005 * passes / 4)


def test_more_time_buys_larger_pictures_then_more_epochs():
    """Every plan fits, and the next larger one would not."""
    seen = []
    for minutes in (2, 3, 4, 6, 10, 60):
        recipe, said = time_limit.within(planned, 60 * minutes, SPEED, 224, COUNTS)
        side = recipe.phases[-1].image_size
        assert costs(recipe) <= 60 * minutes and f"{recipe.epochs} epochs at {side} pixels" in said
        if recipe.epochs < 11:
            assert costs(planned(side, recipe.epochs + 1)) > 60 * minutes
            assert "min would buy 11 epochs at 224 pixels" in said
        seen.append((side, recipe.epochs))
    assert seen == sorted(seen, key=lambda plan: (plan[0], plan[1])) and seen[-1] == (224, 11)
    assert "more time would not change the plan" in said
    with pytest.raises(ValueError, match="In 48 s not even one epoch of 96 pixels can be done"):
        time_limit.within(planned, 48, SPEED, 224, COUNTS)


def test_what_is_given_stays():
    def fixed(side=None, count=None):
        return planned(128 or side, count)

    recipe, _ = time_limit.within(fixed, 110, SPEED, 224, COUNTS)
    assert recipe.phases[-1].image_size == 128 and recipe.epochs < 11

    def short(side=None, count=None):
        return planned(side, 2 if count else 2)

    recipe, _ = time_limit.within(short, 120, SPEED, 224, COUNTS)
    assert recipe.epochs == 2
    with pytest.raises(ValueError, match="`time_limit` is a time such as .* Received: 'soon'."):
        time_limit.seconds_of("soon")


def test_more_time_buys_a_larger_network():
    """On a machine whose time goes by multiply-adds."""
    timed = []

    def plan(name):
        return finetuning.plan(name, COUNTS[0], accelerator=False)

    def measure(name, side, batch):
        timed.append(name)
        return variants.model_info(name, side)["macs"] * 7e-12, 12.0

    def needed(name):
        recipe = plan(name)
        side = recipe.phases[-1].image_size
        return time_limit.cost(recipe, measure(name, side, 32), side, COUNTS)

    chosen = [time_limit.largest(plan, 60 * n, measure, COUNTS) for n in (1, 10, 20, 30, 200)]
    names = [name for name, _ in chosen]
    assert names == sorted(names, key=list(variants.efficientnet_v2.VARIANTS).index)
    assert names[0] == "EfficientNetV2B0" and "is the smallest" in chosen[0][1]
    for minutes, name in zip((10, 20, 30), names[1:]):
        assert needed(name) <= 60 * minutes, (minutes, name)
        larger = list(variants.efficientnet_v2.VARIANTS)
        larger = larger[larger.index(name) + 1]
        assert needed(larger) > 60 * minutes and larger in chosen[names.index(name)][1]
    timed.clear()
    time_limit.largest(plan, 60, measure, COUNTS)
    assert timed == ["EfficientNetV2B0"]  # those far too large are not


def test_batches_are_timed_in_the_precision_of_the_run(monkeypatch):
    seen = []

    def build(**given):
        seen.append(keras.config.dtype_policy().name)
        return efficientnet_v2.build(tiny_efficientnet_row(), **given)

    monkeypatch.setattr(models, "builder", lambda variant: build)
    for precision in ("float32", "mixed_bfloat16", "auto"):
        forward, head = time_limit.measured("EfficientNetV2B0", 32, 4, 100, 7, precision)
        assert 0 < forward < 1 and 0 < head < 100
    assert seen == ["float32", "mixed_bfloat16", "float32"]
    assert keras.config.dtype_policy().name == "float32"


def test_a_run_keeps_its_plan_and_ends_in_time(monkeypatch, tmp_path, caplog):
    """On a machine that turns out to be slower than it was when it was timed."""
    row = tiny_efficientnet_row(name="EfficientNetV2B0")
    monkeypatch.setitem(models.VARIANTS, "EfficientNetV2B0", row)
    efficientnet_v2.build(row, weights=None, classes=7).save_weights(tmp_path / "s.weights.h5")
    options = {"weights": str(tmp_path / "s.weights.h5"), "image_size": 32, "hub": False}
    run = functools.partial(finetuning.finetune, "EfficientNetV2B0", tiny_data(), tmp_path / "run")
    page = sys.modules["keras_effv2.finetuning.finetune"]  # the function has its file's name
    monkeypatch.setattr(page, "measured", lambda *_: (7.0, 0.0))  # two epochs take 56 min
    result, _ = run(time_limit="1h", **options)
    assert len(result.history) == 2
    monkeypatch.setattr(page, "measured", None)
    resumed, _ = run(time_limit="35s", **options)  # too short for two, but they are done
    assert resumed.steps == resumed.resumed_from == result.steps
    recipe = dataclasses.replace(planned(32, 5), phases=ramp(5, 1, image_size=32))
    limit = time_limit.TimeLimit(10 + time_limit.AFTER, recipe)
    limit.set_model(keras.Sequential())
    limit.model.stop_training = False
    limit.on_epoch_begin(0)
    limit.start = limit.begun = time.perf_counter() - 4  # an epoch of four seconds
    limit.on_epoch_end(0)
    assert not limit.model.stop_training
    limit.start = time.perf_counter() - 12
    limit.on_epoch_end(1)
    assert limit.model.stop_training and "ends the training after epoch 2 of 5" in caplog.text
    with pytest.raises(ValueError, match="says its epochs itself: leave `time_limit` out"):
        finetuning.finetune(
            "EfficientNetV2B0", tiny_data(), tmp_path / "x", recipe=recipe, time_limit="1m"
        )


def test_a_run_keeps_its_model(monkeypatch, tmp_path):
    row = tiny_efficientnet_row(name="EfficientNetV2B0")
    monkeypatch.setitem(models.VARIANTS, "EfficientNetV2B0", row)
    page = sys.modules["keras_effv2.finetuning.finetune"]
    monkeypatch.setattr(page, "largest", lambda *_: ("EfficientNetV2B0", "as it is"))
    monkeypatch.setattr(page, "measured", lambda *_: (0.0, 0.0))
    run = functools.partial(
        finetuning.finetune,
        "auto",
        tiny_data(),
        tmp_path / "run",
        epochs=1,
        image_size=32,
        hub=False,
    )
    result, _ = run(time_limit="1h")
    assert result.model.name == "efficientnetv2b0"
    monkeypatch.setattr(page, "largest", None)
    resumed, _ = run(time_limit="1h")
    assert resumed.resumed_from == result.steps
    for given in ({}, {"time_limit": "1h", "weights": None}):
        with pytest.raises(
            ValueError, match='"auto" is chosen by a time limit and starts from its'
        ):
            run(**given)
