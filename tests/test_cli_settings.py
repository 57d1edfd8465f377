"""Recipes and phases that flags change."""

import pytest

import keras_effv2 as kev
from keras_effv2.cli import settings


def test_recipe_fields_keep_types_and_phases_their_parts():
    """A fraction where the row has a whole number; fewer epochs than phases keep the last."""
    recipe = settings.recipe("digits", ["warmup_epochs=0.5", "epochs=2"], "EfficientNetV2B0")
    assert recipe.warmup_epochs == 0.5
    assert [phase.image_size for phase in recipe.phases] == [48, 56]
    for epochs in (3, 4, 5, 9, 40):
        phases = settings.recipe("digits", [f"epochs={epochs}"], "EfficientNetV2B0").phases
        assert phases[-1].stop_epoch == epochs and phases[-1].image_size == 56
        assert all(phase.stop_epoch > phase.start_epoch for phase in phases)
        assert len(phases) == min(4, epochs)


def test_phases_can_be_planned_by_flags():
    """`--ramp.image_size=96,192` is `ramp(image_size=(96, 192))`; the rest stays the recipe's."""
    recipe = settings.recipe("digits", ["epochs=8"], "EfficientNetV2B0")
    assert settings.ramped(recipe, []) is recipe
    phases = settings.ramped(
        recipe, ["image_size=96,192", "randaugment=5,15", "dropout=0.1"]
    ).phases
    assert phases == kev.ramp(
        8,
        4,
        image_size=(96, 192),
        randaugment=(5, 15),
        dropout=(0.1, 0.1),
        drop_path=(recipe.phases[0].drop_path, recipe.phases[-1].drop_path),
    )
    assert [
        p.image_size for p in settings.ramped(recipe, ["phases=2", "multiple_of=8"]).phases
    ] == [
        32,
        56,
    ]
    single = settings.recipe("imagenet1k", ["epochs=4"], "EfficientNetV2B0")
    sizes = [phase.image_size for phase in settings.ramped(single, ["image_size=96,192"]).phases]
    assert sizes == [96, 128, 160, 192]


def test_weights_of_classes():
    recipe = settings.recipe("digits", ["class_weight=1=2,7=0.5"], "EfficientNetV2B0")
    assert recipe.class_weight == {"1": 2.0, "7": 0.5}
    assert settings.class_weight("a=b=2") == {"a=b": 2.0}
    for text in ("balanced", "rose=0", "rose=-1", "rose=nan", "=2", "rose=1,", ""):
        with pytest.raises(settings.UsageError, match="auto, none, or NAME=WEIGHT,NAME=WEIGHT"):
            settings.class_weight(text)
