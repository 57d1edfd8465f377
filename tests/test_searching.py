"""The pieces of a search: reward, step time, fronts, drawing, refusals."""

import dataclasses
import time

import numpy as np
import pytest
from conftest import tiny_data

from keras_effv2 import recipes, searching, timing
from keras_effv2.searching import analysis, records
from keras_effv2.searching.engine import Engine, refuse_nfs
from keras_effv2.space import SPACES, Space

TINY = SPACES["tiny"]


# ----------------------------------------------------------------------------- reward, step time


def test_reward_by_hand():
    assert searching.reward(0.8, 2.0, 1.0) == pytest.approx(0.7621, abs=5e-5)
    assert searching.reward(0.8, 1.0, 2.0) == pytest.approx(0.7727, abs=5e-5)
    assert searching.reward(0.8, 2.0, 2.0) == pytest.approx(0.7362, abs=5e-5)


def test_constant_factors_do_not_change_the_order():
    random = np.random.default_rng(0)
    rows = random.uniform(0.2, 4.0, (50, 3))
    plain = [searching.reward(a, s, p) for a, s, p in rows]
    scaled = [searching.reward(a, 7 * s, p / 3) for a, s, p in rows]
    assert (np.argsort(plain) == np.argsort(scaled)).all()


def busy(seconds):
    """Computes for so many seconds of processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_twice_the_work_reads_twice_the_time():
    ratio, _ = timing.paired_ratio(lambda: busy(0.02), lambda: busy(0.01), clock=time.process_time)
    assert 1.9 < ratio < 2.1
    ratio, spread = timing.paired_ratio(lambda: busy(0.01), lambda: busy(0.01))
    assert 0.9 < ratio < 1.1 and spread < 0.2


def test_both_sides_go_first_equally_often():
    order = []
    timing.paired_ratio(lambda: order.append("a"), lambda: order.append("b"), pairs=4, warmup=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba"


# -------------------------------------------------------------------------------------- analysis


def test_expected_best_by_hand():
    # the best of two draws out of 1, 2, 3: P(3) = 5/9, P(2) = 3/9, P(1) = 1/9
    assert analysis.expected_best([3, 1, 2], 2) == pytest.approx((15 + 6 + 1) / 9)
    assert analysis.expected_best([3, 1, 2], 1) == pytest.approx(2.0)
    assert analysis.expected_best([3, 1, 2], 100, quantile=0.5) == 3.0
    random = np.random.default_rng(0)
    values = random.normal(size=20)
    drawn = np.max(random.choice(values, (20_000, 5)), axis=1)
    assert analysis.expected_best(values, 5) == pytest.approx(drawn.mean(), abs=0.02)
    assert analysis.expected_best(values, 5, 0.9) == pytest.approx(np.quantile(drawn, 0.9))


def row(number, accuracy, ratio=1.0, size=1.0, reason=None, values=None):
    return {
        "number": number,
        "name": f"search-{number:08x}",
        "rows": "F1k3x1",
        "accuracy": accuracy,
        "step_time": ratio,
        "parameters": size,
        "reward": searching.reward(accuracy, ratio, size),
        "reason": reason,
        "values": values,
        "images": 100,
        "macs": 10**6,
        "seconds": 1.0,
    }


def test_the_front_and_what_hardly_mattered():
    rows = [row(0, 0.5, 1.0), row(1, 0.6, 2.0), row(2, 0.55, 3.0), row(3, 0.4, 0.5)]
    assert [r["number"] for r in analysis.front(rows)] == [3, 0, 1]
    same = [row(i, 0.9, ratio) for i, ratio in enumerate((0.5, 1.0, 2.0, 4.0))]
    found = analysis.correlations(same)
    assert found["accuracy"] is None and found["step_time"] == pytest.approx(-1.0)


def test_main_effects_are_means_of_rewards():
    rows = [row(i, a, values={"x": c}) for i, (a, c) in enumerate(((0.2, 3), (0.4, 3), (0.9, 5)))]
    found = analysis.effects(rows, {"x": (3, 5, 7)})["x"]
    assert found[3] == pytest.approx((0.3, 0.1, 2)) and found[5] == (0.9, None, 1)
    assert 7 not in found


def test_the_conclusion_is_of_the_last_comparison_alone():
    final = [
        {**row(0, a), "name": n} for n, a in (("w", 0.5), ("w", 0.52), ("b", 0.4), ("b", 0.41))
    ]
    reasons = (None, "diverged: x", "pruned after 2 of 4 epochs", "pruned after 3 of 4 epochs")
    trials = [row(number, 0.9, reason=reason) for number, reason in enumerate(reasons)]
    text = analysis.conclusion("w", "b", final, trials)
    assert "51.0%" in text and "40.5%" in text and "4 trials, 2 pruned, 1 without" in text
    worse = analysis.conclusion("b", "w", final, [row(0, 0.9)])
    assert worse.startswith("The search found nothing better than the baseline")
    assert "no accuracy to quote" in analysis.conclusion("w", "b", [], [row(0, 0.9)])
    killed = [{**row(0, 0.0, reason="killed 3 times"), "name": name} for name in "wb"]
    text = analysis.conclusion("w", "b", [*final, *killed], trials)
    assert "51.0%" in text and "40.5%" in text and "2 of the 6 trainings" in text


# --------------------------------------------------------------------------------------- drawing


def engine(tmp_path, sampler="random", seed=0, fits=lambda variant: None, space=TINY, storage=None):
    tmp_path.mkdir(exist_ok=True)
    return Engine(tmp_path, space, sampler, seed, storage, "study", fits)


def draws(drawer, count, worth=lambda values: 0.5):
    """Draws and tells so many networks; their names."""
    taken = []
    for number in range(count):
        values, variant, trial = drawer.draw(number, taken)
        assert TINY.values(variant.stages) == values
        taken.append(variant.name)
        result = {**row(number, worth(values), values=values), "name": variant.name}
        drawer.tell(result, trial)
    return taken


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_seed_draws_the_same_networks_and_none_twice(sampler, tmp_path):
    first = draws(engine(tmp_path / "a", sampler), 14)
    assert len(set(first)) == 14
    assert draws(engine(tmp_path / "b", sampler), 14) == first
    assert draws(engine(tmp_path / "c", sampler, seed=1), 3) != first[:3]


def test_what_does_not_fit_is_drawn_again(tmp_path):
    small = engine(
        tmp_path, "tpe", fits=lambda v: "large" if v.stages[0].block == "fused" else None
    )
    for number in range(12):
        values, variant, trial = small.draw(number, ())
        assert values["stage1_block"] == "mbconv"
        small.tell({**row(number, 0.5, values=values), "name": variant.name}, trial)
    never = engine(tmp_path / "never", fits=lambda variant: "large")
    with pytest.raises(RuntimeError, match="hardly a network left.*max_parameters"):
        never.draw(0, ())


def test_a_lost_study_is_made_again_from_results(tmp_path):
    results = []
    drawer = engine(tmp_path)
    for number in range(3):
        values, variant, _ = drawer.draw(number, ())
        results.append({**row(number, 0.5, values=values), "name": variant.name})
        drawer.tell(results[-1])
    assert len(drawer.study.trials) == 3
    drawer.remember(results)
    assert len(drawer.study.trials) == 3
    (tmp_path / "study.db").write_bytes(b"this is no database" * 100)
    again = engine(tmp_path)
    again.remember(results)
    assert [t.user_attrs["name"] for t in again.study.trials] == [r["name"] for r in results]
    assert (tmp_path / "study.broken").exists()


def test_a_full_disk_breaks_no_study(tmp_path):
    """SQLite says so when its file may have no page more."""
    sqlalchemy = pytest.importorskip("sqlalchemy")

    def full(connection, _):
        connection.execute("PRAGMA max_page_count = 1")

    told = "study.db could not be written .No space left.*what was trained is unharmed.*Make room"
    for action in (engine, lambda path: draws(engine(path), 200)):
        sqlalchemy.event.listen(sqlalchemy.Engine, "connect", full)
        try:
            with pytest.raises(OSError, match=told):
                action(tmp_path)
        finally:
            sqlalchemy.event.remove(sqlalchemy.Engine, "connect", full)
        draws(engine(tmp_path), 2)
    assert not (tmp_path / "study.broken").exists()


def test_a_database_that_is_not_there(tmp_path):
    with pytest.raises(RuntimeError, match="cannot be used"):
        engine(tmp_path, storage="sqlite:////nowhere/at/all/study.db")


def test_sqlite_on_nfs_is_refused(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "disk / ext4 rw 0 0\nserver:/x /shared nfs4 rw 0 0\nd /shared/fast ext4 rw 0 0\n"
    )
    refuse_nfs("sqlite:////home/me/study.db", mounts)
    refuse_nfs("sqlite:////shared/fast/study.db", mounts)
    refuse_nfs("postgresql+psycopg2://host/db", mounts)
    with pytest.raises(ValueError, match="/shared/runs/study.db lies on nfs4.*--storage=URL"):
        refuse_nfs("sqlite:////shared/runs/study.db", mounts)


@pytest.mark.slow
def test_tpe_beats_random_on_an_additive_reward(tmp_path):
    """24 choices with worths that add up; the mean true worth of the pick after 40 draws."""
    random = np.random.default_rng(0)
    worths = {
        name: dict(zip(choices, random.normal(0, 0.02, len(choices))))
        for name, choices in TINY.parameters().items()
    }

    def worth(values):
        return 0.5 + sum(worths[name][value] for name, value in values.items())

    def best(sampler, seed):
        drawer = engine(tmp_path / f"{sampler}{seed}", sampler, seed)
        found, taken = [], []
        for number in range(40):
            values, variant, trial = drawer.draw(number, taken)
            taken.append(variant.name)
            found.append(worth(values))
            drawer.tell({**row(number, found[-1], values=values), "name": variant.name}, trial)
        return max(found)

    wins = sum(best("tpe", seed) > best("random", seed) for seed in range(12))
    assert wins >= 9


# -------------------------------------------------------------------------------------- refusals


def small_space(**changes):
    """Five stages of eight channels, one layer each: 248,832 networks that build fast."""
    channels, strides = (8,) * 5, (1, 2, 2, 2, 2)
    rows = tuple(
        dataclasses.replace(r, channels=8, repeats=1, stride=s)
        for r, s in zip(TINY.baseline, strides, strict=True)
    )
    values = {"stem": 8, "top": 16, "layers": ((1,),) * 5, "image_size": 64, "baseline": rows}
    return Space("small8", channels, strides, **{**values, **changes})


RECIPE = recipes.rescale(recipes.get("search"), {"epochs": 2, "batch_size": 16, "flip": False})


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"space": "huge"}, ["'huge'", "tiny"]),
        ({"sampler": "grid"}, ["random, tpe, nsga2", "'grid'"]),
        ({"budget": "money"}, ["epochs, time", "'money'"]),
        ({"step_time": "guess"}, ["measured, macs"]),
        ({"trials": 0}, ["`trials`", "0"]),
        ({"workers": 1.5}, ["`workers`", "1.5"]),
        ({"pruner": "median"}, ["`pruner` is one of None, asha", "'median'"]),
        ({"pruner": "asha", "sampler": "nsga2"}, ["nsga2 draws by accuracy and step time apart"]),
        ({"trials": 10**6}, ["248832 networks"]),
        ({"exponents": -0.07}, ["two numbers up to 0", "-0.07"]),
        ({"exponents": (0.1, -0.05)}, ["two numbers up to 0", "0.1"]),
        ({"max_macs": -1}, ["`max_macs`", "-1"]),
        ({"final_epochs": -1}, ["`final_epochs`", "-1"]),
        ({"recipe": recipes.rescale(RECIPE, {"eval_size": 32})}, ["64 pixels", "32"]),
        ({"recipe": recipes.rescale(RECIPE, {"batch_size": 512})}, ["batch of 512"]),
    ],
)
def test_what_cannot_be_searched(arguments, words, tmp_path):
    arguments = {"space": small_space(), "recipe": RECIPE, **arguments}
    with pytest.raises(ValueError) as error:
        searching.search(tiny_data(), tmp_path / "s", **arguments)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "s").exists()


def test_data_without_validation(tmp_path):
    data = dataclasses.replace(tiny_data(), validation=None)
    with pytest.raises(ValueError, match="no validation split.*validation=0.1"):
        searching.search(data, tmp_path, space=small_space())


def test_without_optuna_one_sentence(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_effv2\[search\]'"):
        searching.search(tiny_data(), tmp_path, space=small_space(), recipe=RECIPE)


def test_a_torn_record_counts_as_absent(tmp_path):
    records.write(tmp_path / "result.json", {"reward": 1.0})
    assert records.read(tmp_path / "result.json") == {"reward": 1.0}
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text[: len(text) // 2])
    assert records.read(tmp_path / "result.json") is None
    assert records.read(tmp_path / "absent.json") is None


def test_what_others_put_beside_the_trials_is_none(tmp_path):
    """A file of the Finder's, records that somebody edited."""
    for name, begun in (("good", {"number": 3, "values": {}}), ("other", {}), ("list", [])):
        (tmp_path / "trials" / name).mkdir(parents=True)
        records.write(tmp_path / "trials" / name / "trial.json", begun)
    (tmp_path / "trials" / ".DS_Store").touch()
    folder = tmp_path / "trials" / "good"
    assert records.begun(tmp_path) == [(folder, {"number": 3, "values": {}})]
    whole = {
        **row(3, 0.5),
        **dict.fromkeys(("trainable_parameters", "macs", "epochs", "seconds"), 1),
    }
    for content in ({}, [], {k: v for k, v in whole.items() if k != "reward"}):
        records.write(folder / "result.json", content)
        assert records.result(folder) is None and records.results(tmp_path) == []
    records.write(folder / "result.json", whole)
    assert records.results(tmp_path) == [whole]


@pytest.mark.parametrize("left", [None, "{", "[]"])
def test_results_without_the_settings_they_were_made_by(left, tmp_path):
    (tmp_path / "baseline").mkdir()
    records.write(tmp_path / "baseline" / "result.json", {})
    if left:
        (tmp_path / "search.json").write_text(left)
    with pytest.raises(ValueError, match="holds trainings, but no whole search.json"):
        records.check_same(tmp_path / "search.json", {"seed": 1}, "another search")
