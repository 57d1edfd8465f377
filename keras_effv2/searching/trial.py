"""One network: how long its step takes, how well it learns. Runs in a process of its own."""

import dataclasses
import os
import pathlib
import socket
import time

import numpy as np
import tensorflow as tf

from keras_effv2 import evaluation, files, models, recipes, timing, training
from keras_effv2.recipes import Recipe
from keras_effv2.searching import pruning, records
from keras_effv2.searching.reward import reward
from keras_effv2.training.strategy import policy
from keras_effv2.variants import model_info
from keras_effv2.variants.application import Variant


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that a search asks for.

    Attributes:
        folder: Its own; the same job in the same folder goes on where it was stopped.
        variant: The network.
        baseline: The network whose step takes 1.
        recipe: How it is trained; `recipe.epochs` are the baseline's.
        split: The pictures that it is evaluated on, `"validation"` or `"test"`.
        by_time: Whether it trains as long as the baseline, not for as many epochs.
        exponents: Of the reward.
        known_step_time: The ratio if it was measured before; None: measure it.
        step_time: `"measured"` or `"macs"`.
        device: What the study trains on.
        notes: What the result says beside: the number of the trial and the values drawn.
        keep_models: Whether `model.keras` stays.
        threads: Of the processor, 0: all.
        gpu: Which one, as `CUDA_VISIBLE_DEVICES` has it, or None.
        prune: Whether it ends early when it falls behind the trials beside it.
    """

    folder: str
    variant: Variant
    baseline: Variant
    recipe: Recipe
    split: str
    by_time: bool
    exponents: tuple[float, float]
    known_step_time: float | None
    step_time: str
    device: str
    notes: dict = dataclasses.field(default_factory=dict)
    keep_models: bool = False
    threads: int = 0
    gpu: str | None = None
    prune: bool = False


def run(job, data):
    """Does a job and writes its `result.json`; on a fault of the settings `error.json`."""
    _set_devices(job)
    folder = pathlib.Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder / ".process"):  # of a process whose parent was killed a moment ago
        if records.result(folder) is not None:
            return
        try:
            result = _result(job, data, folder)
        except Exception as error:
            records.write(folder / "error.json", {"error": f"{type(error).__name__}: {error}"})
            raise
        records.write(folder / "result.json", result)
        records.clean(folder, job.keep_models)


def probe(path):
    """Writes what this machine trains on: the parent must not touch devices itself."""
    gpus = [d for d in tf.config.list_physical_devices() if d.device_type == "GPU"]
    records.write(path, {"device": timing.device(), "gpus": len(gpus)})


def _set_devices(job):
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    if job.threads:
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    found = timing.device()
    if found != job.device:
        raise RuntimeError(
            f"The search measures on {job.device}; this is {found}. Step times of one device say "
            "nothing of another: run it on the same, or in another workdir."
        )


def _result(job, data, folder):
    """What is known of a network: a dictionary that JSON can hold."""
    begun = time.perf_counter()
    classes = len(data.class_names)
    info, base = (model_info(v, classes=classes) for v in (job.variant, job.baseline))
    ratio, spread, measuring = _step_time(job, classes, folder, info["macs"] / base["macs"])
    parameters = info["trainable_parameters"] / base["trainable_parameters"]
    result = {
        **job.notes,
        "name": job.variant.name,
        "rows": records.one_line(job.variant.stages),
        "seed": job.recipe.seed,
        "step_time": ratio,
        "step_time_spread": spread,
        "parameters": parameters,
        "trainable_parameters": info["trainable_parameters"],
        "macs": info["macs"],
        "split": job.split,
        "reason": None,
        "accuracy": 0.0,
        "reward": 0.0,
    }
    recipe, exponents = job.recipe, job.exponents
    result["epochs"] = recipe.epochs
    if job.by_time:
        result["epochs"] = recipe.epochs / ratio
        recipe, data = _for_time(recipe, data, result["epochs"])
        exponents = (0.0, exponents[1])

    def worth(accuracy):
        return reward(accuracy, ratio, parameters, exponents)

    watching = [pruning.Pruning(folder, recipe.epochs, worth)] if job.prune else []
    try:
        trained = training.train(
            lambda: models.builder(job.variant)(weights=None, classes=classes, drop_path=0.0),
            data,
            recipe,
            folder,
            "one",
            callbacks=watching,
            progress=False,
        )
        result.update(_accuracy(trained, data, job.split))
        result.update(steps=trained.steps, resumed_from=trained.resumed_from)
        result["tracing_seconds"] = _tracing(trained.history)
        keys = ("loss", "accuracy", "val_loss", "val_accuracy")
        result["curve"] = [{key: row.get(key) for key in keys} for row in trained.history]
    except FloatingPointError as error:  # a result, too: samplers forget what fails
        result["reason"] = f"diverged: {error}"
    except tf.errors.ResourceExhaustedError:
        result["reason"] = "out of memory"
    if result["reason"] is None:
        result["reward"] = worth(result["accuracy"])
        cut = pruning.pruned_after(folder) if job.prune else None
        if cut is not None:
            result["reason"] = f"{records.PRUNED} after {cut} of {recipe.epochs} epochs"
    result["timing_seconds"] = measuring
    result["seconds"] = time.perf_counter() - begun
    return result


def _for_time(recipe, data, epochs):
    """Recipe and data of a training of so many epochs, a fraction: equal time to a step.

    Whole epochs that are a little longer: some pictures, chosen by the seed, come twice in each. For
    less than one epoch, one of fewer pictures.
    """
    count = len(data.train)
    whole = max(1, int(epochs))
    pictures = max(recipe.batch_size, round(count * epochs / whole))
    order = np.random.default_rng(recipe.seed).permutation(count)
    chosen = np.r_[order, order][:pictures]
    data = dataclasses.replace(data, train=data.train.select(np.sort(chosen)))
    return recipes.rescale(recipe, {"epochs": whole}), data


def _accuracy(trained, data, split):
    """Top-1 and the number of pictures it was found on."""
    if split == "validation":
        last = trained.history[-1]
        return {"accuracy": last["val_accuracy"], "images": len(data.validation)}
    found = evaluation.evaluate(trained.model, data, split=split)
    return {"accuracy": found.top1, "images": found.images}


def _tracing(history):
    """Seconds that the first epoch took longer than the others: pipelines and steps are traced."""
    first, *others = (row["seconds"] for row in history)
    return max(0.0, first - sum(others) / len(others)) if others else 0.0


def _step_time(job, classes, folder, macs):
    """Ratio, spread and the seconds that measuring took; measured once, also over restarts."""
    if job.known_step_time is not None:
        return job.known_step_time, 0.0, 0.0
    if job.step_time == "macs":
        return macs, 0.0, 0.0
    if job.variant.name == job.baseline.name:
        return 1.0, 0.0, 0.0
    known = records.read(folder / "step_time.json")
    if known is None:
        # workers of one machine do not time against each other
        lock = pathlib.Path(job.folder).parents[1] / f".timing-{socket.gethostname()}.lock"
        with files.locked(lock):
            known = _measure(job, classes)
        records.write(folder / "step_time.json", known)
    return known["ratio"], known["spread"], known["seconds"]


def _measure(job, classes):
    start = time.perf_counter()
    phases = job.recipe.phases
    size = (phases[-1].image_size if phases else None) or job.variant.image_size
    with policy(job.recipe.precision):
        sides = [
            timing.train_step(
                models.builder(variant)(weights=None, classes=classes, drop_path=0.0),
                job.recipe.batch_size,
                size,
            )
            for variant in (job.variant, job.baseline)
        ]
    ratio, spread = timing.paired_ratio(*sides, clock=timing.clock())
    return {"ratio": ratio, "spread": spread, "seconds": time.perf_counter() - start}
