"""The state of a run: declared once, saved and restored from that declaration."""

import contextlib
import dataclasses
import json
import os

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import files, layers, processor
from keras_effv2.data.split import of_names
from keras_effv2.training import checkpoints


@dataclasses.dataclass
class Progress:
    """How far a run is: all that a checkpoint holds beside the variables.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done.
        epoch_step: Steps done of the epoch after them.
        sums: Loss, hits and pictures of these steps.
        history: A row for every epoch.
        left_out: `[epoch, step of the epoch]` of the steps that a rollback leaves out.
        best: Arrays of the weights of the lowest validation loss, with `patience`.
        best_loss: That loss.
        best_epoch: Epochs done when it was measured.
        stopped: Whether a callback has ended the training.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    sums: list = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    history: list = dataclasses.field(default_factory=list)
    left_out: list = dataclasses.field(default_factory=list)
    best: list = dataclasses.field(default_factory=list)
    best_loss: float = float("inf")
    best_epoch: int = 0
    stopped: bool = False

    def add(self, count, sums):
        """Notes steps that are done."""
        self.step, self.epoch_step = self.step + count, self.epoch_step + count
        self.sums = np.add(self.sums, sums[:3], dtype="float64").tolist()

    def last(self, count):
        """`[epoch, step of the epoch]` of the last steps."""
        return [[self.epoch, i] for i in range(self.epoch_step - count, self.epoch_step)]

    def steps_of_call(self, steps, most, every):
        """Steps that the next call makes: up to the next thing that is done between calls.

        Args:
            steps: Steps of the epoch.
            most: Steps a call, at most.
            every: Steps between checkpoints, or 0.
        """
        stops = [steps, self.epoch_step + most]
        stops += [i for epoch, i in self.left_out if epoch == self.epoch and i > self.epoch_step]
        if every:
            stops.append(self.epoch_step + every - self.step % every)
        return min(stops) - self.epoch_step

    def close_epoch(self, row):
        """Notes an epoch that is done."""
        self.history.append(row)
        self.epoch, self.epoch_step, self.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]

    def keep_best(self, loss, weights):
        """Notes the weights if their validation loss is the lowest so far."""
        if loss < self.best_loss:
            self.best = [weight.numpy() for weight in weights]
            self.best_loss, self.best_epoch = float(loss), self.epoch

    def means(self):
        """Loss and accuracy of the epoch so far."""
        loss, hits, pictures = self.sums
        return {"loss": loss / max(1, pictures), "accuracy": hits / max(1, pictures)}


def variables(model, optimizer, average, scaling):
    """Name -> variable, of everything that training changes."""
    seeds = [
        layer.seed_generator.state.value
        for layer in layers.walk(model)
        if isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator)
    ]
    groups = {
        "model": [v.value for v in model.variables],
        "seed": seeds,
        "optimizer": [v.value for v in optimizer.variables],
        "ema": average,
        "scaling": scaling,
    }
    return {f"{group}/{i}": v for group, own in groups.items() for i, v in enumerate(own)}


def snapshot(workdir, progress, named, about):
    """What `checkpoints.save` takes of a run, in a copy that training leaves alone.

    Args:
        workdir: Folder of the run.
        progress: Its `Progress`.
        named: Its variables by their names.
        about: What the run is, as JSON has it.
    """
    meta = {**vars(progress), **about, "machine": machine()}
    best = {f"best/{i}": array for i, array in enumerate(meta.pop("best"))}
    arrays = {name: variable.numpy() for name, variable in named.items()}
    return workdir / "checkpoints", progress.step, {**arrays, **best}, as_json(meta)


def restore(workdir, checkpoint, named):
    """Assigns the arrays of a checkpoint, `(arrays, meta)`, to the variables; its `Progress`."""
    arrays, meta = checkpoint
    count = sum(name.startswith("best/") for name in arrays)
    meta["best"] = [arrays.pop(f"best/{i}") for i in range(count)]
    if set(arrays) != set(named):
        raise ValueError(
            f"The checkpoint in {workdir} has {len(arrays)} variables, this run has "
            f"{len(named)}: it is of another model. Choose another workdir."
        )
    for name, variable in named.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise ValueError(
                f"The checkpoint in {workdir} has {name} of shape {arrays[name].shape}, "
                f"this model {tuple(variable.shape)}: choose another workdir."
            )
        variable.assign(arrays[name])
    changed = _changed(meta["machine"], machine())
    if changed:
        logging.warning("This run resumes on another machine (%s): not bit for bit.", changed)
    known = (field.name for field in dataclasses.fields(Progress) if field.name in meta)
    return Progress(**{name: meta[name] for name in known})  # `stopped` came later


def newest(workdir):
    """The newest whole checkpoint `(arrays, meta)` of a run, or None."""
    return checkpoints.load_newest(workdir / "checkpoints")


def of_newest(workdir):
    """What the newest whole checkpoint says of its run: what `begun` and `started` give of it."""
    checkpoint = newest(workdir)
    return begun(workdir, checkpoint), started(workdir, checkpoint)


def begun(workdir, checkpoint):
    """What the run of a checkpoint is, as `describe` gave it; None without one.

    It stands in the checkpoints; those of earlier versions have it beside them, in recipe.json, alone.
    """
    if checkpoint is None:
        return None
    return checkpoint[1].get("run") or read_json(workdir / "recipe.json")


def describe(recipe, model, data):
    """What a run is, as a dictionary that JSON can hold; another one cannot resume it."""
    return {
        **dataclasses.asdict(recipe),
        "parameters": model.count_params(),
        "classes": list(data.class_names),
        "training pictures": len(data.train),
        "training data": data.train.fingerprint(),
    }


def _holds(path, content):
    """Whether a file of a run holds this dictionary."""
    try:
        return read_json(path) == content
    except ValueError as error:
        logging.warning("%s It is written anew.", error)
        return False


def record(workdir, about, anew=False):
    """Writes what a run is, anew or where that is missing: recipe.json and start.json."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name, key in (("recipe.json", "run"), ("start.json", "start")):
        said = about.get(key)
        if said is not None and (anew or not _holds(workdir / name, said)):
            files.write_whole(workdir / name, json.dumps(said, indent=2) + "\n")


def as_json(content):
    """A dictionary as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(content))


_LATER = {"class_weight": "none", "accumulate": 1}  # fields of recipes of older runs


def check_same(workdir, checkpoint, described):
    """Refuses to resume a run that is not the one described."""
    if not any((workdir / "checkpoints").glob("step-*.ckpt")):
        return
    theirs = begun(workdir, checkpoint) or read_json(workdir / "recipe.json")
    if theirs is None:
        raise ValueError(
            f"{workdir} holds checkpoints, but no recipe.json that says of which run. Put it back, "
            "or choose another workdir."
        )
    theirs = {key: value for key, value in _LATER.items() if key in described} | theirs
    if theirs.get("training data") == of_names(described["training data"]):
        theirs["training data"] = described["training data"]  # earlier versions hashed names alone
    changed = [
        f"{key}: {theirs.get(key)!r} -> {described.get(key)!r}"
        for key in sorted({*described, *theirs})
        if described.get(key) != theirs.get(key)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run of another recipe; changed: {'; '.join(changed)}. "
            "Use that recipe, model and data to resume it, or another workdir."
        )


def compare_validation(workdir, checkpoint, fingerprint):
    """Warns if epochs were validated on other pictures: their losses are not to be compared."""
    theirs = checkpoint and checkpoint[1].get("validation")  # earlier versions do not say
    if theirs and theirs != fingerprint:
        logging.warning(
            "%s was validated on other pictures until now: its validation losses and accuracies, by "
            "which the best weights are chosen, cannot be compared with those to come.",
            workdir,
        )


def started(workdir, checkpoint):
    """What the model of a checkpoint's run started from, with `model` and `weights`; None without.

    It stands in the checkpoints; those of earlier versions have it beside them, in start.json.
    """
    if checkpoint is None:
        return None
    return checkpoint[1].get("start") or read_json(workdir / "start.json")


def check_start(workdir, checkpoint, start):
    """Refuses to resume a run whose model started from something else."""
    theirs = started(workdir, checkpoint)
    if None not in (theirs, start) and theirs != start:
        raise ValueError(
            f"{workdir} holds a run of {theirs.get('model')} from {theirs.get('weights')}, this is "
            f"{start['model']} from {start['weights']}. Use those to resume it, or another workdir."
        )


def read_json(path):
    """The dictionary in a file of a run, or None if there is no such file."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}). Put it back or delete it.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold what a run writes there. Put it back or delete it.")
    return content


def check_workers(strategy, step):
    """Refuses workers that found different checkpoints: they do not share the workdir."""
    own = strategy.run(lambda: tf.constant(step))
    total = int(strategy.reduce(tf.distribute.ReduceOp.SUM, own, axis=None))
    if total != step * strategy.num_replicas_in_sync:
        raise ValueError(
            f"The workers found different checkpoints; this one step {step}. Give all of "
            "them a workdir that they share."
        )


@contextlib.contextmanager
def averaged(model, average):
    """The model with the averaged weights, within the block; as it is if there are none.

    A weight that gets another value there keeps it: a callback meant it.
    """
    if not average:
        yield
        return
    own = [w.numpy() for w in model.weights]
    assign(model, average)
    try:
        yield
    finally:
        for weight, lent, value in zip(model.weights, average, own, strict=True):
            if np.array_equal(weight.numpy(), lent.numpy(), equal_nan=True):
                weight.assign(value)


def assign(model, values):
    """Gives a model's weights other values."""
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(value)


def machine():
    """What has to be equal for bit-for-bit equal results."""
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "instructions": f"{processor.instructions()}, oneDNN {processor.onednn()}",
        "threads": [
            os.cpu_count(),
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ],
    }


def _changed(then, now):
    """What differs between two machines, in words; an older file may not tell all of it."""
    shared = [key for key in now if key in then and then[key] != now[key]]
    return ", ".join(f"{key} {then[key]} then, {now[key]} now" for key in shared)
