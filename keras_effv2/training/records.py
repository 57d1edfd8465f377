"""What a run writes for people; nothing of devices."""

import contextlib
import csv
import io
import itertools
import json
import sys

import keras
import numpy as np
import tensorflow as tf
import tqdm
from absl import logging
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_effv2 import errors, files, stores
from keras_effv2.data import resolved
from keras_effv2.phases import STRENGTHS, phase_at, strengths
from keras_effv2.training.state import as_json


def row(progress, phase, learning_rate, images, seconds):
    """What is known of an epoch, a dictionary that JSON can hold.

    Args:
        progress: A `Progress` at the end of the epoch.
        phase: The epoch's `Phase`.
        learning_rate: Of the last step.
        images: Pictures trained on in this process.
        seconds: What they took.
    """
    return {
        "epoch": progress.epoch,
        "steps": progress.step,
        "image_size": phase.image_size,
        "batch_size": phase.batch_size,
        **strengths(phase),
        "learning_rate": learning_rate,
        **progress.means(),
        "seconds": seconds,
        "images_per_second": images / seconds,
    }


def line(row, epochs):
    """An epoch in a line of a log."""
    validation = f", validation {row['val_accuracy']:.1%}" if "val_accuracy" in row else ""
    return (
        f"epoch {row['epoch'] + 1}/{epochs}: {row['image_size']} px, loss {row['loss']:.3f}, "
        f"top 1 {row['accuracy']:.1%}{validation}, {row['images_per_second']:.0f} images/s"
    )


def bar(progress, phases, steps, shown):
    """A progress bar of an epoch on stderr; none if it is not to be shown or nobody looks."""
    phase = phase_at(phases, progress.epoch)
    own = strengths(phase).items()
    own = " ".join(f"{name} {value:.3g}" for name, value in own if value is not None)
    return tqdm.tqdm(
        total=steps,
        initial=progress.epoch_step,
        desc=(
            f"phase {phases.index(phase) + 1}/{len(phases)} "
            f"epoch {progress.epoch + 1}/{phases[-1].stop_epoch} {phase.image_size} px {own}"
        ),
        unit="step",
        file=sys.stderr,
        mininterval=0.5,
        disable=None if shown else True,
    )


def say(row, epochs, bar, shown):
    """Tells of an epoch: in the log, or on stderr where a bar is wanted and nobody looks."""
    if shown and bar.disable:
        sys.stderr.write(line(row, epochs) + "\n")
    else:
        logging.info("%s", line(row, epochs))


@contextlib.contextmanager
def curves(workdir):
    """Within the block: a function of a run's rows that writes metrics.csv and tensorboard/."""
    folder = workdir / "tensorboard"
    with _writing(folder):
        writer = tf.summary.create_file_writer(str(folder))

    def write(history):
        table = io.StringIO()
        columns = dict.fromkeys(key for row in history for key in row)
        rows = csv.DictWriter(table, list(columns), lineterminator="\n")
        rows.writeheader()
        rows.writerows(history)
        files.write_whole(workdir / "metrics.csv", table.getvalue())
        last = history[-1]
        with _writing(folder), writer.as_default():
            for name, value in last.items():
                if isinstance(value, (int, float)):
                    tf.summary.scalar(name, value, step=last["steps"])
            writer.flush()

    try:
        yield write
    finally:
        writer.close()


@contextlib.contextmanager
def _writing(folder):
    """Within the block: what TensorFlow cannot write into a run's folder is said in a sentence."""
    with errors.writing(folder, "the last checkpoint is unharmed"), stores.told(folder):
        yield


def write_results(workdir, model, data, recipe, progress):
    """Writes model.keras, labels.txt, summary.json and history.png, unless they stand there.

    What was done to a finished model since, such as its calibration, stays when the run is asked for
    again.
    """
    history = progress.history
    last = history[-1] if history else {}
    best = {"best_epoch": progress.best_epoch, "best_val_loss": progress.best_loss}
    best = best if np.isfinite(progress.best_loss) else {}
    summary = {
        "model": model.name,
        "data": data.name,
        "data_path": resolved(data.name),
        "pictures": {
            name: len(split)
            for name in ("train", "validation", "test")
            if (split := getattr(data, name)) is not None
        },
        "recipe": recipe.name,
        "steps": progress.step,
        "epochs": progress.epoch,
        "seconds": sum(row["seconds"] for row in history),
        "skipped_pictures": list(getattr(data.train, "skipped", ())),
        "steps_left_out": progress.left_out,
        **best,
        **{key: last.get(key) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
    }
    names = ("model.keras", "labels.txt", *(("history.png",) if history else ()))
    if says(workdir, summary) and all((workdir / name).exists() for name in names):
        return
    write_model(workdir, model)
    files.write_whole(workdir / "labels.txt", "\n".join(data.class_names) + "\n")
    files.write_whole(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    if history:
        files.write_whole(workdir / "history.png", _drawn(history))


def write_model(workdir, model):
    """Writes model.keras, without what it was trained by."""
    # a view that is not compiled: the optimizer's state is the checkpoints' business
    view = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    with files.replacing(workdir / "model.keras") as temporary:
        view.save(temporary)


def says(workdir, told):
    """Whether summary.json, the last file of a model's, says all of this."""
    try:
        known = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and known | as_json(told) == known


def tell(workdir, told):
    """Adds to what summary.json says."""
    path = workdir / "summary.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    files.write_whole(path, json.dumps(known | told, indent=2) + "\n")


def is_exported(workdir):
    """Whether hub/ was made of the model.keras that is there.

    By its hash: times are others when a workdir is copied or a clock is set back.
    """
    made = (workdir / "hub" / "saved_model.pb").exists()
    return made and says(workdir, _exported(workdir))


def tell_exported(workdir):
    """Notes that hub/ was made of model.keras."""
    tell(workdir, _exported(workdir))


def _exported(workdir):
    return {"hub_of": files.digest(workdir / "model.keras")}


def _drawn(history):
    """The curves of a run as a PNG."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    epochs = [row["epoch"] + 1 for row in history]
    for key, label in (("accuracy", "training"), ("val_accuracy", "validation")):
        if any(key in row for row in history):
            values = [row.get(key, np.nan) for row in history]
            top.plot(epochs, values, marker=".", label=label)
    top.set_ylabel("top-1 accuracy")
    top.legend()
    top.grid(alpha=0.3)
    bottom.step(epochs, [row["image_size"] for row in history], where="mid", color="black")
    bottom.set_ylabel("image size, pixels")
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    rates = bottom.twinx()
    for name in STRENGTHS:
        values = [row[name] for row in history]
        top_value = max((value or 0 for value in values), default=0)
        if top_value:
            parts = [(value or 0) / top_value for value in values]
            rates.step(epochs, parts, where="mid", ls="--", label=name)
    rates.set_ylabel("strength / its maximum")
    if rates.get_legend_handles_labels()[0]:
        rates.legend(loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def phases_table(history):
    """Lines of text, one for every phase: its epochs, size, strengths, time and accuracy at its end.

    Args:
        history: Rows as in `Result.history`.
    """
    keys = ("image_size", "batch_size", *STRENGTHS)
    used = [key for key in STRENGTHS if any(row[key] for row in history)]
    titles = [*used, "seconds", "images/s", "training", "validation"]
    lines = [f"{'epochs':>9} {'pixels':>6} " + " ".join(f"{title:>11}" for title in titles)]
    for _, rows in itertools.groupby(history, key=lambda row: [row[key] for key in keys]):
        rows = list(rows)
        first, last = rows[0], rows[-1]
        seconds = sum(row["seconds"] for row in rows)
        speed = sum(row["images_per_second"] * row["seconds"] for row in rows) / seconds
        cells = [f"{last[key] or 0:>11.3g}" for key in used]
        cells += [f"{seconds:>11.0f}", f"{speed:>11.0f}", f"{last['accuracy']:>11.1%}"]
        if "val_accuracy" in last:
            cells.append(f"{last['val_accuracy']:>11.1%}")
        span = f"{first['epoch'] + 1}-{last['epoch'] + 1}"
        lines.append(f"{span:>9} {last['image_size']:>6} " + " ".join(cells))
    return lines
