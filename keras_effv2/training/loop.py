"""The training as a page: `train`, its epochs, one epoch."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import files, layers, progressive
from keras_effv2.arguments import check_kind, check_number
from keras_effv2.data import Data, Split
from keras_effv2.data.split import check_data
from keras_effv2.phases import phase_at
from keras_effv2.recipes import Recipe
from keras_effv2.training import checkpoints, precision, records, state
from keras_effv2.training.callbacks import Log, check_callbacks, numbers
from keras_effv2.training.run import Result, Run
from keras_effv2.training.stopping import NotFinite, Signals, naming_lost_workers
from keras_effv2.training.strategy import has_workers, is_chief, make_strategy


def train(
    model: keras.Model | Callable[[], keras.Model],
    data: Data,
    recipe: Recipe,
    workdir: str | os.PathLike,
    strategy: str | tf.distribute.Strategy = "auto",
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    tpu: str = "local",
    steps_per_call: int | None = None,
    jit_compile: bool = False,
    remat: bool = False,
    rollback: bool = False,
    progress: bool = True,
    start: dict | None = None,
) -> Result:
    """Trains a model; resumes what it finds in the workdir.

    Args:
        model: A `keras.Model`, or a function without arguments that builds one (`multiworker` and
            `tpu` need the function). A model of static size is rebuilt on `(None, None, c)`.
        data: A `Data` of `keras_effv2.data.load`.
        recipe: A `Recipe`.
        workdir: Folder of the run: recipe.json, metrics.csv, history.png, tensorboard/,
            checkpoints/, model.keras, labels.txt, summary.json. A local path, or in a store that
            TensorFlow knows, such as `"gs://bucket/run"`.
        strategy: `"auto"` (all GPUs of this machine, else one device), `"one"`, `"mirrored"`,
            `"multiworker"` (by TF_CONFIG), `"tpu"`, or a `tf.distribute.Strategy`.
        callbacks: Keras callbacks. With an EMA the model has its averaged weights at the end of an
            epoch, when callbacks save or remember it; what they assign to it stays.
        tpu: Name of the TPU for the resolver.
        steps_per_call: Steps that one call of the compiled function makes; default 1, on TPU 50.
        jit_compile: Whether XLA compiles the step, once for each image size; on one device only
            (a TPU always compiles).
        remat: Whether each block's activations are recomputed in the backward pass instead of kept:
            less memory, about a third more time, the same gradients.
        rollback: After a loss that is not finite: whether to go back to the last good checkpoint
            and leave out the call of steps that broke, up to three times, instead of raising.
        progress: Whether to show a progress bar on stderr, or a line an epoch where nobody looks.
        start: What the model starts from, a dictionary with `model` and `weights`; a run is resumed
            with the same alone.

    Returns:
        A `Result`.

    Raises:
        ValueError: If recipe, data and model do not fit each other, or the workdir holds a run of
            another recipe, model or data set; says what differs.
        RuntimeError: If another process trains in the workdir.
        FloatingPointError: If the loss is not finite.
        ConnectionError: If another worker has ended.
        SystemExit: With code 143 after SIGTERM, when the checkpoint is saved.
        KeyboardInterrupt: After Ctrl-C, when the checkpoint is saved; a second one does not wait.

    Example:

    >>> import dataclasses, tempfile
    >>> from keras_effv2 import data, ramp, recipes
    >>> images = keras.Input((None, None, 3))
    >>> x = keras.layers.GlobalAveragePooling2D()(images)
    >>> model = keras.Model(images, keras.layers.Dense(10, "softmax")(x))
    >>> recipe = recipes.Recipe("short", "an example", epochs=2, batch_size=256, learning_rate=0.01)
    >>> recipe = dataclasses.replace(recipe, phases=ramp(2, 2, image_size=(8, 16)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = train(model, data.load("digits"), recipe, folder, progress=False)
    >>> [row["image_size"] for row in result.history]
    [8, 16]
    """
    layers.require_tensorflow("Training")
    check_kind("model", model, Callable, "a keras.Model, or a function that builds one")
    check_kind("recipe", recipe, Recipe, "a Recipe, such as keras_effv2.recipes.get('imagenet1k')")
    check_kind("start", start, dict | None, "a dictionary with `model` and `weights`, or None")
    if steps_per_call is not None:
        check_number("`steps_per_call`", steps_per_call, 1, whole=True)
    folder = files.place(workdir, "The workdir")
    check_trainable(data)
    check_callbacks(callbacks)
    devices = make_strategy(strategy, tpu)
    with checkpoints.locked(folder) if is_chief(devices) else contextlib.nullcontext():
        checkpoint = state.newest(folder)
        state.check_start(folder, checkpoint, start)
        recipe = precision.settled(recipe, model, state.begun(folder, checkpoint), devices)
        run = Run(model, data, recipe, folder, devices, start)
        _tell_of_warm_up(recipe)
        state.compare_validation(folder, checkpoint, run.about["validation"])
        step = run.train_step(steps_per_call, jit_compile, remat)
        resumed_from = run.resume(checkpoint)
        with run.saving, naming_lost_workers():
            _epochs(run, step, callbacks, rollback, progress)
        run.finish()
    done = run.progress
    return Result(run.model, done.history, done.step, resumed_from, step.traces)


def check_trainable(data: Data) -> Split:
    """Gives the training split; refuses a data set for testing only, and names of several lines."""
    check_data(data)
    if data.train is None:
        raise ValueError(
            f"{data.name} has no split to train on, only one to evaluate: train on another set."
        )
    files.check_lines(data.class_names)
    return data.train


def _tell_of_warm_up(recipe):
    """Warns of one that lasts as long as the training, such as that of a recipe cut to a few epochs."""
    if recipe.warmup_epochs >= recipe.epochs:
        logging.warning(
            "The warm-up of %g epochs does not end within the training of %d: the learning rate of %g is "
            "not reached. Set `warmup_epochs` of the recipe lower.",
            recipe.warmup_epochs,
            recipe.epochs,
            recipe.learning_rate,
        )


def _epochs(run, step, callbacks, rollback, shown):
    """All epochs that are left; after a loss that is not finite, from the last checkpoint."""
    shown, rollbacks = shown and run.is_chief, 0
    log = Log(callbacks, run.model, run.recipe.epochs, verbose=int(shown))
    if rollback and not run.progress.step:
        run.save()  # the first epoch can break too
    with (
        Signals() as signals,
        records.curves(run.workdir) if run.is_chief else contextlib.nullcontext() as write,
        run.batches() as batches,
    ):
        log.on_train_begin()
        while not run.is_over():
            try:
                _epoch(run, step, batches, log, signals, shown)
            except NotFinite as error:
                rollbacks += 1
                if not rollback or rollbacks > 3:
                    raise
                run.roll_back(error.left_out)
                continue
            if write:
                state.record(run.workdir, run.about)
                write(run.progress.history)
            run.save()
            if signals.asked and not has_workers(run.devices):
                run.saving.wait()
                signals.leave(run.progress.step)
    with run.settled():
        log.on_train_end(numbers(run.progress.history[-1]) if run.progress.history else {})


def _epoch(run, step, batches, log, signals, shown):
    """One epoch, or what is left of it: its steps, its evaluation, its row."""
    progress = run.progress
    phase = phase_at(run.phases, progress.epoch)
    progressive.deliver(run.model, phase)
    steps = run.data.train.steps(phase.batch_size)
    log.begin_epoch(progress.epoch, steps)
    start, first = time.perf_counter(), progress.epoch_step
    iterator = batches.of(progress.epoch, first)
    with records.bar(progress, run.phases, steps, shown) as bar:
        _steps(run, step, iterator, steps, phase, log, signals, bar)
    seconds = time.perf_counter() - start
    images = (progress.epoch_step - first) * phase.batch_size
    rate = float(run.rate(progress.step - 1))  # the optimizer's own is that of the step to come
    row = records.row(progress, phase, rate, images, seconds)
    with state.averaged(run.model, run.average):
        if run.data.validation is not None:
            log.on_test_begin()
            row["val_loss"], row["val_accuracy"] = run.evaluate()
            log.on_test_end({"loss": row["val_loss"], "accuracy": row["val_accuracy"]})
        progress.close_epoch(row)
        if run.recipe.patience and "val_loss" in row:
            run.keep_best(row["val_loss"])
        records.say(row, run.recipe.epochs, bar, shown)
        log.end_epoch(row)
    progress.stopped = bool(run.model.stop_training)


def _steps(run, step, iterator, steps, phase, log, signals, bar):
    """The steps of an epoch, with a checkpoint where one is due or a signal asks for it."""
    progress, every = run.progress, run.recipe.checkpoint_steps
    while progress.epoch_step < steps and not run.model.stop_training:
        if [progress.epoch, progress.epoch_step] in progress.left_out:
            next(iterator)
            progress.epoch_step += 1
            continue
        count = progress.steps_of_call(steps, step.steps_per_call, every)
        log.on_train_batch_begin(progress.epoch_step)
        sums = step(iterator, count, bool(signals.asked))
        progress.add(count, sums)
        if not np.isfinite(sums.loss) or sums.not_finite:
            raise NotFinite(progress, phase, count, run.newest())
        logs = progress.means()
        log.on_train_batch_end(progress.epoch_step - 1, logs)
        bar.set_postfix(loss=f"{logs['loss']:.3f}", top1=f"{logs['accuracy']:.3f}")
        bar.update(count)
        # workers have to stop at the same step, whichever of them was asked
        asked = sums.asked > 0 if has_workers(run.devices) else signals.asked
        if asked or (every and progress.step % every == 0 and progress.epoch_step < steps):
            run.save()
            if asked:
                run.saving.wait()
                signals.leave(progress.step)
