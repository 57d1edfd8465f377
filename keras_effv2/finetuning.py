"""Fine-tuning on somebody's pictures with settings that do well without being told.

The head comes first: features of the frozen backbone are computed once and a logistic regression is
solved on them, in seconds. Then everything trains, gently, from a head that already makes sense
(a random head's gradients would first spoil the backbone; Kumar et al. 2022, arXiv 2202.10054).
Batch statistics stay those of ImageNet: a few hundred pictures estimate them worse.
"""

import dataclasses
import functools
import os
import pathlib
import shutil
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import graph, layers, models, recipes, training, variants
from keras_effv2.data import Data
from keras_effv2.evaluation import Evaluation, evaluate
from keras_effv2.exporting import export_hub
from keras_effv2.phases import ramp
from keras_effv2.training import checkpoints
from keras_effv2.variants.application import Variant
from keras_effv2.weights import list_weights

ENOUGH = 20_000  # pictures to solve a head on; more take hours and change little
POLICIES = ("none", "batch_norm", "backbone")


def freeze(model: keras.Model, policy: str) -> keras.Model:
    """Says which layers learn.

    Args:
        model: A model of this package.
        policy: `"none"`: everything learns. `"batch_norm"`: everything but batch normalisation,
            whose statistics stay. `"backbone"`: only the head learns, the last dense layer.

    Returns:
        The model.

    Raises:
        ValueError: If the policy is unknown, or there is no head to learn.

    Example:

        freeze(model, "backbone")   # first the head
        freeze(model, "batch_norm")  # then everything
    """
    if policy not in POLICIES:
        raise ValueError(f"`policy` is one of {', '.join(POLICIES)}. Received: {policy!r}.")
    head = graph.head_of(model) if policy == "backbone" else None
    if head is not None and not isinstance(head, keras.layers.Dense):
        raise ValueError(
            f"Model {model.name!r} ends in {head.name!r} and has no head; with policy='backbone' "
            "nothing would learn. Build it with include_top=True."
        )
    model.trainable = True  # else its layers' own flags count for nothing
    for layer in layers.walk(model):
        if isinstance(layer, keras.Model):
            continue
        norm = isinstance(layer, keras.layers.BatchNormalization)
        learns = {"none": True, "batch_norm": not norm, "backbone": layer is head}
        layer.trainable = learns[policy]
    return model


def fit_head(model, split, image_size, batch_size=32, seed=0):
    """Solves the head of a model on features of its frozen backbone.

    Args:
        model: A classifier of this package; its last dense layer is set.
        split: Training `Split`; of a larger one, 20,000 pictures at random.
        image_size: Side in pixels.
        batch_size: Pictures at a time.
        seed: Seed of the sample and of the split by which the regularisation is chosen.

    Returns:
        Accuracy on pictures held out for choosing the regularisation; NaN if there are classes of
        fewer than five, which are too few to choose by.

    Raises:
        ValueError: If a picture has several labels, or none.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    sampled = len(split) > ENOUGH
    if sampled:
        order = np.random.default_rng(seed).permutation(len(split))
        split = split.select(np.sort(order[:ENOUGH]))
    head = graph.head_of(model)
    backbone = keras.Model(model.input, head.input)
    compute = tf.function(lambda x: backbone(x, training=False), reduce_retracing=True)
    features, labels = [], []
    for images, targets, mask in split.eval_batches(image_size=image_size, batch_size=batch_size):
        keep = mask.numpy() > 0
        given = (targets.numpy()[keep] > 0).sum(1)
        if (given != 1).any():
            raise ValueError(
                f"Fine-tuning takes one label a picture; one here has {given[given != 1][0]}. "
                "Train on such data with keras_effv2.train and a recipe of loss='sigmoid'."
            )
        features.append(compute(images).numpy()[keep])
        labels.append(targets.numpy().argmax(1)[keep])
    features, labels = np.concatenate(features), np.concatenate(labels)
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    features = (features - mean) / deviation
    best, score = 0.003, float("nan")
    counts = np.bincount(labels, minlength=len(split.class_names))
    if min(counts[counts > 0]) >= 5:  # else too few to choose by
        parts = train_test_split(
            features, labels, test_size=0.2, random_state=seed, stratify=labels
        )
        scores = {}
        for strength in (0.0003, 0.003, 0.03):
            solved = LogisticRegression(C=strength, max_iter=200).fit(parts[0], parts[2])
            scores[strength] = solved.score(parts[1], parts[3])
        best, score = max(scores.items(), key=lambda item: item[1])
    solved = LogisticRegression(C=best, max_iter=200).fit(features, labels)
    coefficients, intercepts = solved.coef_, solved.intercept_
    kernel = np.zeros(head.kernel.shape, "float32")
    # classes without a picture: not to be named, unless it is the sample that has none
    bias = np.full(head.bias.shape, intercepts.min() if sampled else -10.0, "float32")
    if len(solved.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel[:, solved.classes_] = coefficients.T / deviation[:, None]
    bias[solved.classes_] = intercepts - coefficients @ (mean / deviation)
    head.set_weights([kernel, bias])
    return score


def plan(
    model,
    count,
    image_size=None,
    epochs=None,
    seed=0,
    accelerator=None,
    picture_side=224,
    replicas=1,
):
    """Chooses a recipe for a data set's size and the machine.

    Args:
        model: Its name, the file of a variant, or a `Variant`.
        count: Training pictures.
        image_size: Largest side in pixels; None: the model's own where there is an accelerator,
            else as large as the pictures are, 128 to 224.
        epochs: None: as many as see 20,000 pictures, but 4 to 30; to 12 without an accelerator.
        seed: Seed.
        accelerator: Whether there is one; None looks.
        picture_side: Shorter side of the pictures in pixels.
        replicas: Devices that share a batch.

    Returns:
        A `Recipe`.
    """
    if accelerator is None:
        devices = tf.config.list_logical_devices()
        accelerator = any(device.device_type in ("GPU", "TPU") for device in devices)
    own, multiple = variants.find(model).image_size, 32
    if image_size is not None and image_size < multiple:
        raise ValueError(f"`image_size` is at least {multiple}. Received: {image_size}.")
    # small pictures are scaled up: on 32 pixels a network of stride 32 sees with a single cell
    size = image_size or (own if accelerator else int(np.clip(picture_side, 128, min(own, 224))))
    size = max(multiple, size // multiple * multiple)
    if epochs is None:
        epochs = int(np.clip(20_000 // max(1, count), 4, 30 if accelerator else 12))
    first = max(multiple, round(0.6 * size / multiple) * multiple)
    batch = int(min(32 if count < 20_000 or not accelerator else 128, max(2, count // 8)))
    batch = -(-batch // replicas) * replicas
    row = recipes.get("finetune", model)
    return dataclasses.replace(
        row,
        epochs=epochs,
        batch_size=batch,
        learning_rate=row.learning_rate * batch / row.batch_size,
        seed=seed,
        phases=ramp(
            epochs,
            min(4, epochs),
            image_size=(first, size),
            randaugment=(0, 5),
            multiple_of=multiple,
        ),
    )


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
    precision: str = "float32",
    seed: int = 0,
    strategy: str | tf.distribute.Strategy = "auto",
    tpu: str = "local",
    recipe: recipes.Recipe | None = None,
    hub: bool = True,
) -> tuple[training.Result, Evaluation | None]:
    """Fine-tunes a model on pictures; resumes what it finds in the workdir.

    With a validation split the weights that are kept are those of the lowest validation loss, the
    solved head on the untouched backbone included, unless it does little better than guessing;
    without one, the last. Batch normalisation stays frozen in the result;
    call `freeze(model, "none")` to train all of it later.

    Args:
        model: Name of a builder, such as `"EfficientNetV2B0"`, or a variant, or the file of one.
        data: A `Data` of `keras_effv2.data.load`.
        workdir: Folder of the run; as `train`'s, and `hub/`, a TF Hub export.
        weights: Tag or path of the weights to start from; `"default"`: what the builder loads by
            default; None: random ones.
        epochs: Epochs of the whole network; None: by the size of the data.
        image_size: Largest side in pixels, rounded down to a multiple of 32; None: by machine,
            model and pictures.
        batch_size: Global batch size; None: by the size of the data.
        flip: Whether to mirror half of the pictures; not for letters or traffic signs.
        precision: `"mixed_bfloat16"` or `"mixed_float16"` where the device is faster in it: recent
            GPUs, TPUs, processors with AVX512_BF16 or AMX. The model keeps it.
        seed: Seed of everything.
        strategy: As `train`'s.
        tpu: As `train`'s.
        recipe: A `Recipe` instead of the planned one; goes without `epochs`, `image_size`,
            `batch_size`, `flip` and `precision`, and its seed counts.
        hub: Whether to export for TF Hub.

    Returns:
        `(Result, Evaluation)` of the test split; the second is None for a worker that is not the
        first.

    Raises:
        ValueError: If model, weights and data do not fit, a picture has several labels, or the
            workdir holds a run that began from other weights.

    Example:

        photos = keras_effv2.data.load("folder:photos")
        result, evaluation = finetune("EfficientNetV2B0", photos, "runs/photos")
    """
    variant = variants.find(model)
    weights = variant.weights if weights == "default" else weights
    split = training.check_trainable(data)
    strategy = training.make_strategy(strategy, tpu)  # before anything else uses TensorFlow
    recipe = _recipe(
        recipe,
        (epochs, image_size, batch_size, flip, precision),
        lambda: plan(
            model,
            len(split),
            image_size,
            epochs,
            seed,
            picture_side=split.typical_side(),
            replicas=strategy.num_replicas_in_sync,
        ),
    )
    for phase in recipes.resolved(recipe, variant.image_size).phases:
        split.steps(phase.batch_size)  # refuses one that is too large, before anything is done
    folder = pathlib.Path(workdir)
    start = {"model": variant.name, "weights": weights and str(weights)}
    build = functools.partial(_begun, variant, weights, data, recipe, folder)
    result = training.train(build, data, recipe, folder, strategy, start=start)
    if not training.is_chief(strategy):
        return result, None
    evaluation = evaluate(result.model, data, folder)
    if hub:
        _export(result.model, folder)
    return result, evaluation


def _recipe(given, settings, planned):
    """The recipe that is given, or the planned one with what the user sets."""
    epochs, image_size, batch_size, flip, precision = settings
    if given is not None:
        if settings != (None, None, None, True, "float32"):
            raise ValueError(
                "A `recipe` says epochs, sizes, batch, flip and precision itself: change it with "
                "dataclasses.replace and leave the other arguments out."
            )
        return given
    recipe = dataclasses.replace(planned(), flip=flip, precision=precision)
    if batch_size is None:
        return recipe
    rate = recipe.learning_rate * batch_size / recipe.batch_size
    return dataclasses.replace(recipe, batch_size=batch_size, learning_rate=rate)


def _begun(variant, weights, data, recipe, workdir):
    """The network to train, its head solved unless the run has begun; within the workdir's lock."""
    begun = checkpoints.load_newest(workdir / "checkpoints") is not None
    net = models.builder(variant)(
        weights=weights,
        classes=len(data.class_names),
        classifier_activation=recipe.loss,
        drop_path=0.0,
    )
    if weights is not None:
        freeze(net, "batch_norm")
    else:
        released = variant.name not in variants.VARIANTS or list_weights(variant.name)
        logging.warning(
            "%s starts from random weights, which takes far more pictures and epochs than "
            "fine-tuning.%s",
            variant.name,
            "" if released else " None were ever released for it.",
        )
    if begun:
        return net
    logging.info("%s", estimate(net, data, recipe))
    if weights is not None:
        start, side = time.perf_counter(), _phases(net, recipe)[-1].image_size
        score = fit_head(net, data.train, side, seed=recipe.seed)
        held_out = "" if np.isnan(score) else f"{score:.1%} on held-out pictures, "
        logging.info("Head on frozen features: %s%.0f s.", held_out, time.perf_counter() - start)
    return net


def _export(model, workdir):
    """Exports for TF Hub, unless this run has done so already."""
    path, fresh = workdir / "hub", workdir / ".hub"
    if path.exists() and path.stat().st_mtime > (workdir / "start.json").stat().st_mtime:
        return
    shutil.rmtree(fresh, ignore_errors=True)
    export_hub(model, fresh)
    shutil.rmtree(path, ignore_errors=True)  # of a run that is gone
    fresh.rename(path)


def _phases(model, recipe):
    """The phases of a recipe, with the model's size where they do not say one."""
    return recipes.resolved(recipe, graph.side_of(model)).phases


def estimate(model, data, recipe):
    """A sentence on how long a fine-tuning will take, from one batch that is timed now.

    A train step counts as four forward passes (3.6 were measured), a size by its pixels.
    """
    phases = _phases(model, recipe)
    size = phases[-1].image_size
    images = np.zeros((recipe.batch_size, size, size, model.input_shape[-1]), "float32")
    forward = tf.function(lambda x: model(x, training=False))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        forward(images).numpy()
        seconds.append(time.perf_counter() - start)
    epochs = sum(
        (phase.stop_epoch - phase.start_epoch) * (phase.image_size / size) ** 2 for phase in phases
    )
    steps = data.train.steps(recipe.batch_size) / tf.distribute.get_strategy().num_replicas_in_sync
    whole = 4 * min(seconds) * epochs * steps
    sizes = ", ".join(str(phase.image_size) for phase in phases)
    return (
        f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} of {len(data.train)} pictures, batch "
        f"{recipe.batch_size}, sizes {sizes}: about {max(1, round(whole / 60))} min of training here, less if it stops early, "
        f"by one batch of {size} pixels ({1000 * min(seconds):.0f} ms); the head before, validation "
        "and report come on top."
    )
