"""Fine-tuning as a page: the plan, the head, the training, the evaluation, the export."""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import files, models, recipes, stores, training, variants
from keras_effv2.arguments import check_auto, check_number
from keras_effv2.data import Data, weighting
from keras_effv2.data.carving import halves
from keras_effv2.evaluation import (
    Evaluation,
    SeveralEvaluation,
    calibrate,
    calibrate_several,
    calibration,
    evaluate,
)
from keras_effv2.evaluation.doubts import Doubt
from keras_effv2.evaluation.outputs import are_independent
from keras_effv2.exporting import export_hub
from keras_effv2.finetuning.freezing import freeze
from keras_effv2.finetuning.head import solve
from keras_effv2.finetuning.planning import estimate, phases_of, plan
from keras_effv2.finetuning.time_limit import TimeLimit, largest, measured, seconds_of, within
from keras_effv2.training import records, state
from keras_effv2.training.precision import settled
from keras_effv2.variants.application import Variant
from keras_effv2.weights import list_weights

DOUBTS = ".doubts.json"  # labels that the solved head doubts, kept for the report


def finetune(
    model: str | os.PathLike | Variant,
    data: Data,
    workdir: str | os.PathLike,
    *,
    weights: str | os.PathLike | None = "default",
    epochs: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    flip: bool = True,
    class_weight: str | Mapping[str, float] = "auto",
    unknown: float | None = None,
    time_limit: str | None = None,
    precision: str = "float32",
    seed: int = 0,
    strategy: str | tf.distribute.Strategy = "auto",
    tpu: str = "local",
    recipe: recipes.Recipe | None = None,
    hub: bool = True,
) -> tuple[training.Result, Evaluation | SeveralEvaluation | None]:
    """Fine-tunes a model on pictures; resumes what it finds in the workdir.

    With a validation split a temperature makes confidences honest (`evaluation.calibrate`), and the
    weights that are kept are those of the lowest validation loss, the
    solved head on the untouched backbone included, unless it does little better than guessing;
    without one, the last. Batch normalisation stays frozen in the result;
    call `freeze(model, "none")` to train all of it later.

    Args:
        model: Name of a builder, such as `"EfficientNetV2B0"`, or a variant, or the file of one;
            `"auto"`: the largest EfficientNetV2 whose whole plan fits into the `time_limit`.
        data: A `Data` of `keras_effv2.data.load`.
        workdir: Folder of the run; as `train`'s, and `hub/`, a TF Hub export.
        weights: Tag or path of the weights to start from; `"default"`: what the builder loads by
            default; None: random ones.
        epochs: Epochs of the whole network; None: by the size of the data.
        image_size: Largest side in pixels, rounded down to a multiple of 32; None: by machine,
            model and pictures.
        batch_size: Global batch size; None: by the size of the data.
        flip: Whether to mirror half of the pictures; not for letters or traffic signs.
        class_weight: As `Recipe.class_weight`: `"auto"` lets classes count alike, `"none"` pictures,
            which names frequent classes more often; a mapping says it class by class.
        unknown: Part of the pictures of none of the classes that may be named all the same, in
            (0, 1): the model then says `unknown` of what it is less sure of than of those. Such
            pictures are `data.unknown`, half of them; without any, each validation picture stands
            for one with its own class left out. None: 0.05 where there are such pictures, else
            something is always named.
        time_limit: Such as `"90s"`, `"20m"` or `"1.5h"` in all, but the export: what of size and
            epochs is not given is planned to fit, by batches that are timed before it starts. An
            epoch that would end past it is not begun. A run that is resumed keeps its plan. With
            `precision="auto"` the batches are timed in float32.
        precision: `"mixed_bfloat16"` or `"mixed_float16"` where the device is faster in it: recent
            GPUs, TPUs, processors with AVX512_BF16 or AMX; `"auto"`: whichever is faster here. The
            model keeps it.
        seed: Seed of everything.
        strategy: As `train`'s.
        tpu: As `train`'s.
        recipe: A `Recipe` instead of the planned one; goes without `epochs`, `image_size`,
            `batch_size`, `flip`, `class_weight`, `time_limit` and `precision`, and its seed counts.
        hub: Whether to export for TF Hub.

    Returns:
        `(Result, Evaluation)` of the test split, or `(Result, SeveralEvaluation)` of data with
        several labels a picture, for which the head has sigmoids and each label a threshold; the
        second is None for a worker that is not the first.

    Raises:
        ValueError: If model, weights and data do not fit, `unknown` goes with several labels, or the
            workdir holds a run that began from other weights.

    Example:

        photos = keras_effv2.data.load("folder:photos")
        result, evaluation = finetune("EfficientNetV2B0", photos, "runs/photos")
    """
    began = time.perf_counter()
    _check_model(model, weights, time_limit, recipe)
    split = training.check_trainable(data)
    strategy = training.make_strategy(strategy, tpu)  # before anything else uses TensorFlow
    replicas, side_of_pictures = strategy.num_replicas_in_sync, split.typical_side()
    facts = {"seed": seed, "picture_side": side_of_pictures, "replicas": replicas}

    def planned(model, side=None, count=None):
        return plan(model, len(split), image_size or side, epochs or count, **facts)

    folder, callbacks = files.place(workdir, "The workdir"), []
    if time_limit and training.has_workers(strategy):
        raise ValueError("`time_limit` is for one machine: with workers say `epochs` instead.")
    begun, started = state.of_newest(folder)
    speed = _speeds(data, precision)
    if model == "auto":
        own = started and started["model"]
        model = own or _affordable(planned, time_limit, data, speed)
    variant = variants.find(model)
    weights = variant.weights if weights == "default" else weights
    planned = functools.partial(planned, variant)
    timed = functools.partial(_timed, planned, time_limit, variant, data, speed, begun)
    settings = (epochs, image_size, batch_size, flip, class_weight, precision)
    recipe = _recipe(recipe, settings, timed if time_limit else planned, split.several)
    _check(recipe, variant, data, unknown)
    network = functools.partial(_network, variant, weights, len(data.class_names), recipe.loss)
    recipe = settled(recipe, network, begun, strategy)
    if time_limit:
        callbacks = [TimeLimit(seconds_of(time_limit) - (time.perf_counter() - began), recipe)]
    start = {"model": variant.name, "weights": weights and str(weights)}
    beginning = functools.partial(_beginning, network, variant, weights, data, recipe, folder)
    build = network if begun else beginning
    result = training.train(build, data, recipe, folder, strategy, start=start, callbacks=callbacks)
    if not training.is_chief(strategy):
        return result, None
    data = _calibrated(result, data, recipe, unknown, folder)
    evaluation = evaluate(result.model, data, folder, doubtful=_doubted(folder))
    if hub:
        _export(result.model, folder)
    return result, evaluation


def _check_model(model, weights, time_limit, recipe):
    """Refuses a model that is none, and what does not go together, before anything is read."""
    if recipe is not None and time_limit:
        raise ValueError("A `recipe` says its epochs itself: leave `time_limit` out.")
    check_auto(model, weights, time_limit)
    if model != "auto":
        variants.find(model)


def _check(recipe, variant, data, unknown):
    """Refuses what cannot be, before anything is done."""
    split = data.train
    calibration.check_share(unknown, "unknown")
    calibration.check_strangers(unknown, len(data.class_names), data.unknown, "unknown")
    if split.several and unknown is not None:
        raise ValueError(
            "`unknown` goes with one label a picture; of several, each has a threshold of its own and "
            "a picture may have none. Leave it out."
        )
    weighting.class_weights(recipe.class_weight, split)  # a class that is not there
    for phase in recipes.resolved(recipe, variant.image_size).phases:
        split.steps(phase.batch_size)  # one that is too large


def _affordable(planned, limit, data, speed):
    """The network for a time."""
    name, said = largest(planned, seconds_of(limit), speed, _counts(data))
    logging.info("%s", said)
    return name


def _timed(planned, limit, variant, data, speed, begun):
    """The plan for a time; of a run that has begun, what it began with."""
    seconds = seconds_of(limit)
    if begun:
        return planned(begun["phases"][-1]["image_size"], begun["epochs"])
    whole = planned()
    size = whole.phases[-1].image_size
    needed = speed(variant, size, whole.batch_size)
    recipe, said = within(planned, seconds, needed, size, _counts(data))
    logging.info("%s", said)
    return recipe


def _speeds(data, precision):
    """A function of a model, pixels and pictures a batch: as `measured`, but timed once."""

    @functools.cache
    def of_row(row, size, batch):
        return measured(row, size, batch, len(data.train), len(data.class_names), precision)

    return lambda model, size, batch: of_row(variants.find(model), size, batch)


def _counts(data):
    return [len(split or ()) for split in (data.train, data.validation, data.test)]


def _doubted(folder):
    """What the head that was solved doubted of the training labels."""
    rows = json.loads((folder / DOUBTS).read_text()) if (folder / DOUBTS).exists() else []
    return [Doubt(**row) for row in rows]


def _calibrated(result, data, recipe, unknown, folder):
    """Makes the model's confidences honest and writes it anew; the data that is left to judge it."""
    strangers = data.unknown
    if strangers is not None:  # to choose by, and to judge by
        strangers, rest = halves(strangers)
        data = dataclasses.replace(data, unknown=rest)
    if data.validation is None:
        if unknown is not None or strangers is not None:
            logging.warning(
                "Without a validation split no confidence is known to be unknown below."
            )
        return data
    share = 0.05 if unknown is None and strangers is not None else unknown
    weights = weighting.class_weights(recipe.class_weight, data.train)
    if data.validation.several and are_independent(result.model):
        found = calibrate_several(result.model, data.validation)
    else:
        found = calibrate(
            result.model, data.validation, class_weights=weights, strangers=strangers, share=share
        )
    if not records.says(folder, {"calibration": found}):
        records.write_model(folder, result.model)
        records.tell(folder, {"calibration": found})
    logging.info(
        "Confidence on %d validation pictures: calibration error %.3f, by a temperature of %.2f %.3f%s.",
        found["pictures"],
        found["calibration_error_before"],
        found["temperature"],
        found["calibration_error"],
        "" if share is None else f"; unknown below {found['unknown_below']:.1%}",
    )
    return data


def _recipe(given, settings, planned, several):
    """The recipe that is given, or the planned one with what the user sets."""
    _, _, batch_size, flip, class_weight, precision = settings
    if given is not None:
        if settings != (None, None, None, True, "auto", "float32"):
            raise ValueError(
                "A `recipe` says epochs, sizes, batch, flip, class_weight and precision itself: "
                "change it with dataclasses.replace and leave the other arguments out."
            )
        return given
    for name, value in zip(("epochs", "image_size", "batch_size"), settings):
        if value is not None:
            check_number(f"`{name}`", value, 1, whole=True)
    own = {"flip": flip, "class_weight": class_weight, "precision": precision}
    if several:  # smoothed, each of many labels would be a little on every picture
        own |= {"loss": "sigmoid", "label_smoothing": 0.0}
        own["class_weight"] = "none" if class_weight == "auto" else class_weight
    recipe = dataclasses.replace(planned(), **own)
    if batch_size is None:
        return recipe
    rate = recipe.learning_rate * batch_size / recipe.batch_size
    return dataclasses.replace(recipe, batch_size=batch_size, learning_rate=rate)


def _network(variant, weights, classes, activation):
    """The network to train, its head new; its batch normalisation stays that of its weights."""
    net = models.builder(variant)(
        weights=weights, classes=classes, classifier_activation=activation, drop_path=0.0
    )
    if weights is not None:
        freeze(net, "batch_norm")
    return net


def _beginning(network, variant, weights, data, recipe, workdir):
    """The network of a run that begins, its head solved; within the workdir's lock."""
    net = network()
    if weights is None:
        released = variant.name not in variants.VARIANTS or list_weights(variant.name)
        logging.warning(
            "%s starts from random weights, which takes far more pictures and epochs than "
            "fine-tuning.%s",
            variant.name,
            "" if released else " None were ever released for it.",
        )
    logging.info("%s", estimate(net, data, recipe))
    if said := weighting.told(recipe.class_weight, data.train):
        logging.info("%s", said)
    if weights is not None:
        start, side = time.perf_counter(), phases_of(net, recipe)[-1].image_size
        setting = {"seed": recipe.seed, "class_weight": recipe.class_weight}
        score, found = solve(net, data.train, side, doubting=True, **setting)
        rows = [dataclasses.asdict(doubt) for doubt in found]
        files.write_whole(workdir / DOUBTS, json.dumps(rows))
        what = "mean average precision " if data.train.several else ""
        held_out = "" if np.isnan(score) else f"{what}{score:.1%} on held-out pictures, "
        logging.info("Head on frozen features: %s%.0f s.", held_out, time.perf_counter() - start)
    return net


def _export(model, workdir):
    """Exports for TF Hub, unless the model that is there was exported already."""
    if not records.is_exported(workdir):
        _export_anew(model, workdir)
        records.tell_exported(workdir)


def _export_anew(model, workdir):
    path, fresh = workdir / "hub", workdir / ".hub"
    for left in workdir.glob("..hub.*"):  # by an export that was killed
        files.remove_tree(left)
    if isinstance(workdir, stores.Stored):  # it comes there when it is verified
        files.remove_tree(path)
        export_hub(model, path)
        return
    files.remove_tree(fresh)
    export_hub(model, fresh)
    files.remove_tree(path)  # of a run that is gone
    fresh.rename(path)
