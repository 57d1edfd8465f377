"""The study of layouts: what is read off the curves, and one that trains."""

import dataclasses
import itertools

import keras
import pytest
from conftest import tiny_coatnet_row, tiny_data
from test_searching import RECIPE

import keras_effv2 as kev
from keras_effv2 import searching
from keras_effv2.models import coatnet
from keras_effv2.searching import layouts_report


def run(name, curve, fraction=1.0, seed=0, reason=None, steps=1000):
    """A training with epochs of equally many steps: (loss, validation accuracy, accuracy)."""
    keys = ("loss", "val_accuracy", "accuracy")
    rows = [dict(zip(keys, values)) for values in curve]
    told = {"layout": name, "fraction": fraction, "seed": seed, "reason": reason, "steps": steps}
    return {**told, "curve": rows}


def test_curves_are_read_at_equal_training_loss():
    curve = [(2.0, 0.2, 0.1), (1.0, 0.4, 0.5), (0.5, 0.5, 0.8)]
    rows = run("CCCC", curve)["curve"]
    assert layouts_report.at_loss(rows, 1.25) == pytest.approx(0.35)
    assert layouts_report.at_loss(rows, 0.5) == pytest.approx(0.5)
    assert layouts_report.at_loss(rows, 0.1) is None
    assert layouts_report.capacity([run("CCCC", curve)]) == {"CCCC": 0.8}


def lagging(name, slope, speed, fraction=1.0, seed=0, momentum=0.99):
    """A training of twenty epochs of 100 steps: its true validation accuracy is a line in its loss.

    What is measured mixes in 10 %, as moving averages do that forget the start in 100 steps.
    """
    curve = []
    for epoch in range(1, 21):
        loss = 2.0 * speed**epoch
        true = 0.9 - slope * loss
        start = momentum ** (100 * epoch)
        curve.append((loss, start * 0.1 + (1 - start) * true, 1 - loss / 2))
    return run(name, curve, fraction, seed, steps=2000)


def test_what_lags_at_the_start_is_left_out():
    """At every loss those that learn faster generalise better; at the start they seem to do worse."""
    runs = [
        lagging(name, slope, speed, fraction, seed)
        for name, slope, speed in (("CCCC", 0.1, 0.4), ("CCTT", 0.2, 0.95), ("ViT_REL", 0.3, 0.97))
        for fraction in (1.0, 0.1)
        for seed in (0, 1)
    ]
    found = layouts_report.generalisation(runs)
    loss = 2 * 0.97**20  # the end of the slower, which both come to after 500 steps
    assert found == {("CCTT", "ViT_REL"): pytest.approx((0.3 - 0.2) * loss, abs=1e-3)}
    # the first had the ends of the others before its averages had settled
    assert layouts_report.generalisation(runs[:1]) == {}
    broken = [*runs, run("CTTT", [(1.0, 0.9, 0.9)], reason="diverged")]
    assert layouts_report.generalisation(broken) == found
    early = [dict(r, steps=200) for r in runs]  # nothing has settled
    assert layouts_report.generalisation(early) == {}


def test_averages_have_settled_by_the_networks_own_momentum():
    model = coatnet.build(tiny_coatnet_row(), weights=None, classes=2)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert {round(5 / (1 - norm.momentum)) for norm in norms} == {layouts_report.SETTLED}


def test_pairs_beside_the_papers_orders():
    """Nine pairs each: all but the one that the paper does not order."""
    scores = {"CCCC": 5, "CCCT": 4, "CCTT": 3, "CTTT": 2, "ViT_REL": 1}
    two = {(a, b): scores[a] - scores[b] for a, b in itertools.combinations(scores, 2)}
    for what in ("generalisation", "capacity"):
        assert len(layouts_report.pairs(two, layouts_report.PAPER[what])) == 9
    found = layouts_report.pairs(two, layouts_report.PAPER["generalisation"])
    assert all(value > 0 for *_, value in found)
    found = layouts_report.pairs(two, layouts_report.PAPER["capacity"])
    assert sum(value > 0 for *_, value in found) == 2  # CCTT and CTTT over ViT_REL alone


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"image_size": 48}, ["multiple of 32 from 64", "48"]),
        ({"fractions": (0.0, 1.0)}, ["(0, 1]"]),
        ({"seeds": 0}, ["`seeds`"]),
        ({"names": ("CCCC", "TTTT")}, ["ViT_REL, CCCC"]),
        ({"base": "EfficientNetV2B0"}, ["CoAtNet0 to CoAtNet5"]),
        ({"workers": 0}, ["`workers`"]),
        ({"recipe": dataclasses.replace(RECIPE, precision="auto")}, ["one precision", "float32"]),
        ({"recipe": dataclasses.replace(RECIPE, batch_size=64)}, ["batch of 64"]),
    ],
)
def test_what_cannot_be_studied(changes, words, tmp_path):
    with pytest.raises(ValueError) as error:
        searching.layouts(tiny_data(), tmp_path, **{"recipe": RECIPE, **changes})
    for word in words:
        assert word in str(error.value)


@pytest.mark.slow
def test_a_study_of_two(tmp_path):
    colours = tiny_data(96, 32)
    arguments = {"base": tiny_coatnet_row(), "fractions": (0.5,), "seeds": 1, "recipe": RECIPE}
    names = ("CCCC", "ViT_REL")
    study = kev.layouts(colours, tmp_path / "s", names=names, **arguments)
    assert [(r["layout"], r["steps"], len(r["curve"])) for r in study.runs] == [
        ("CCCC", 12, 2),
        ("ViT_REL", 12, 2),
    ]
    assert set(study.capacity) == set(names)
    page = (tmp_path / "s" / "layouts.html").read_text()
    assert (
        "ViT_REL over CCCC" in page and layouts_report.NOTHING in page and "data:image/png" in page
    )
    assert len((tmp_path / "s" / "layouts.csv").read_text().splitlines()) == 3
    before = (tmp_path / "s" / "runs" / "CCCC-0.5-0" / "result.json").stat().st_mtime_ns
    kev.layouts(colours, tmp_path / "s", names=names, **arguments)
    assert (tmp_path / "s" / "runs" / "CCCC-0.5-0" / "result.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds another study; changed: recipe"):
        other = dataclasses.replace(RECIPE, learning_rate=0.1)
        kev.layouts(colours, tmp_path / "s", names=names, **{**arguments, "recipe": other})
