"""The study of layouts: what is read off the curves, and one that trains."""

import dataclasses

import pytest
from conftest import tiny_coatnet_row, tiny_data
from test_searching import RECIPE

import keras_effv2 as kev
from keras_effv2 import searching
from keras_effv2.searching import layouts_report


def run(name, curve, fraction=1.0, seed=0, reason=None):
    keys = ("loss", "val_accuracy", "accuracy")
    rows = [dict(zip(keys, values)) for values in curve]
    return {"layout": name, "fraction": fraction, "seed": seed, "curve": rows, "reason": reason}


def test_curves_are_read_at_equal_training_loss():
    curve = [(2.0, 0.2, 0.1), (1.0, 0.4, 0.5), (0.5, 0.5, 0.8)]
    rows = run("CCCC", curve)["curve"]
    assert layouts_report.at_loss(rows, 1.25) == pytest.approx(0.35)
    assert layouts_report.at_loss(rows, 0.5) == pytest.approx(0.5)
    assert layouts_report.at_loss(rows, 0.1) is None
    # the second fits faster, and at equal loss it is five points worse everywhere
    faster = run("CTTT", [(2.0, 0.15, 0.1), (0.5, 0.45, 0.9), (0.2, 0.5, 0.95)])
    found = layouts_report.generalisation([run("CCCC", curve), faster])
    assert found["CCCC"] - found["CTTT"] == pytest.approx(0.05, abs=0.02)
    assert layouts_report.capacity([run("CCCC", curve), faster]) == {"CCCC": 0.8, "CTTT": 0.95}
    broken = run("CTTT", curve, reason="diverged")
    assert set(layouts_report.generalisation([run("CCCC", curve), broken])) == {"CCCC"}


def test_pairs_beside_the_papers_orders():
    """8 pairs each: all but the one (two) that the paper does not order."""
    scores = {"CCCC": 5, "CCCT": 4, "CCTT": 3, "CTTT": 2, "ViT_REL": 1}
    for what in ("generalisation", "capacity"):
        found = layouts_report.pairs(scores, layouts_report.PAPER[what])
        assert len(found) == 9
    found = layouts_report.pairs(scores, layouts_report.PAPER["generalisation"])
    assert all(same for *_, same in found)
    found = layouts_report.pairs(scores, layouts_report.PAPER["capacity"])
    assert sum(same for *_, same in found) == 2  # CCTT and CTTT over ViT_REL alone


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"image_size": 48}, ["multiple of 32 from 64", "48"]),
        ({"fractions": (0.0, 1.0)}, ["(0, 1]"]),
        ({"seeds": 0}, ["`seeds`"]),
        ({"names": ("CCCC", "TTTT")}, ["ViT_REL, CCCC"]),
        ({"base": "EfficientNetV2B0"}, ["CoAtNet0 to CoAtNet5"]),
    ],
)
def test_what_cannot_be_studied(changes, words, tmp_path):
    with pytest.raises(ValueError) as error:
        searching.layouts(tiny_data(), tmp_path, **changes)
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
    assert "CCCC over ViT_REL" in page and "data:image/png" in page
    assert len((tmp_path / "s" / "layouts.csv").read_text().splitlines()) == 3
    before = (tmp_path / "s" / "runs" / "CCCC-0.5-0" / "result.json").stat().st_mtime_ns
    kev.layouts(colours, tmp_path / "s", names=names, **arguments)
    assert (tmp_path / "s" / "runs" / "CCCC-0.5-0" / "result.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds another study; changed: recipe"):
        other = dataclasses.replace(RECIPE, learning_rate=0.1)
        kev.layouts(colours, tmp_path / "s", names=names, **{**arguments, "recipe": other})
