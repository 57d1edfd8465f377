"""The files of a search. They are the truth: the study is made again from them when it is lost."""

import csv
import importlib.metadata
import io
import json
import pathlib

from absl import logging

from keras_effv2 import files, variants
from keras_effv2.variants.efficientnet_v2 import Stage

PRUNED = "pruned"  # how the reason of a trial begins that was ended because it fell behind
# what stays of a trial that is done
KEPT = ("trial.json", "variant.json", "result.json", "rungs.json", "metrics.csv", "log.txt")
COLUMNS = (
    "number",
    "name",
    "reward",
    "accuracy",
    "step_time",
    "parameters",
    "trainable_parameters",
    "macs",
    "epochs",
    "seconds",
    "rows",
    "reason",
)


def write(path, content):
    """Writes a dictionary as JSON, whole or not at all."""
    files.write_whole(path, json.dumps(content, indent=2) + "\n")


def read(path, keys=()):
    """Reads a dictionary; None if the file is absent, cut off, or lacks one of the keys."""
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # a stray file is no trial's folder
        return None
    except ValueError:
        content = None
    if isinstance(content, dict) and content.keys() >= set(keys):
        return content
    logging.warning("%s is cut off or damaged: what it told is done again.", path)
    return None


def check_same(path, ours, what, apart=()):
    """Refuses a folder whose file says other settings; writes the file in a fresh one.

    Args:
        path: The file.
        ours: Settings, a dictionary that JSON can hold.
        what: What such a folder holds, for the message.
        apart: Keys of dictionaries that may grow: only what both have is compared.
    """
    theirs = read(path)
    if theirs is None and any(path.parent.glob("*/**/result.json")):
        raise ValueError(
            f"{path.parent} holds trainings, but no whole {path.name} that says by which settings. "
            "Put it back, or choose another workdir."
        )
    changed = []
    for key, value in ours.items():
        before = value if theirs is None else theirs.get(key)
        if key in apart and isinstance(before, dict):
            shared = value.keys() & before.keys()
            before, value = ({name: rows[name] for name in shared} for rows in (before, value))
        if before != value:
            changed.append(f"{key}: {_short(before)} -> {_short(value)}")
    if changed:
        raise ValueError(
            f"{path.parent} holds {what}; changed: {'; '.join(changed)}. What was trained there "
            "cannot be compared with new trainings: use those settings, or another workdir."
        )
    if theirs is None:
        versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
        write(path, {**ours, "versions": versions})


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def begun(workdir):
    """All trials that were begun, in the order of their numbers: `(folder, its number and values)`."""
    folders = pathlib.Path(workdir, "trials").glob("*")
    found = [(folder, read(folder / "trial.json", ("number", "values"))) for folder in folders]
    found = [(folder, notes) for folder, notes in found if notes is not None]
    return sorted(found, key=lambda trial: trial[1]["number"])


def result(folder):
    """The result of a training; None if it has none."""
    return read(folder / "result.json", set(COLUMNS) - {"number"})  # trials alone have one


def results(workdir):
    """The results of all trials that are done, in the order of their numbers."""
    return [done for folder, _ in begun(workdir) if (done := result(folder))]


def begin(workdir, notes, variant):
    """Makes the folder of a trial; it counts as begun when `trial.json` is written.

    Args:
        workdir: Folder of the search.
        notes: Its `number` and the `values` that were drawn.
        variant: The network.
    """
    folder = pathlib.Path(workdir, "trials", variant.name)
    folder.mkdir(parents=True, exist_ok=True)
    variants.save_variant(variant, folder / "variant.json")
    write(folder / "trial.json", notes)
    return folder


def newest_step(folder):
    """The step of the newest checkpoint of an unfinished training, or -1."""
    steps = [int(p.stem.split("-")[1]) for p in (folder / "checkpoints").glob("step-*.ckpt")]
    return max(steps, default=-1)


def clean(folder, keep_models):
    """Removes what a finished trial no longer needs."""
    kept = (*KEPT, "model.keras", "labels.txt", "recipe.json") if keep_models else KEPT
    for path in folder.iterdir():
        if path.name in kept or path.name.startswith("."):
            continue
        if path.is_dir():
            files.remove_tree(path)
        else:
            path.unlink()


def write_table(workdir):
    """Writes `trials.csv`, best first."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(best_first(results(workdir)))
    files.write_whole(pathlib.Path(workdir, "trials.csv"), table.getvalue())


def best_first(rows):
    """Rows by reward; of equal ones the earlier first."""
    return sorted(rows, key=lambda row: (-row["reward"], row["number"]))


def one_line(stages):
    """A network in a line: `F4k3x2` is two layers of fused blocks, expansion 4, kernel 3.

    Example:

    >>> from keras_effv2.space import SPACES
    >>> one_line(SPACES["tiny"].baseline)
    'F1k3x1 F4k3x2 M4k3x2 M6k3x2 M6k3x2'
    """
    return " ".join(
        f"{s.block[0].upper()}{s.expansion}k{s.kernel}x{s.repeats}"
        if isinstance(s, Stage)
        else f"{s.block[0].upper()}x{s.repeats}"  # CoAtNet's have neither
        for s in stages
    )
