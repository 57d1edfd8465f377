"""The training as a page: `train`, its epochs, one epoch."""

import contextlib
import pathlib
import time

import keras
import numpy as np
from absl import logging

from keras_effv2 import layers, progressive
from keras_effv2.training import checkpoints, records
from keras_effv2.training.batches import Batches
from keras_effv2.training.run import Result, Run
from keras_effv2.training.stopping import NotFinite, Signals
from keras_effv2.training.strategy import has_workers, is_chief, make_strategy


def train(
    model,
    data,
    recipe,
    workdir,
    strategy="auto",
    *,
    callbacks=(),
    tpu="local",
    steps_per_call=None,
    jit_compile=False,
    remat=False,
    rollback=False,
    progress=True,
):
    """Trains a model; resumes what it finds in the workdir.

    Args:
        model: A `keras.Model`, or a function without arguments that builds one (`multiworker` and
            `tpu` need the function). A model of static size is rebuilt on `(None, None, c)`.
        data: A `Data` of `keras_effv2.data.load`.
        recipe: A `Recipe`.
        workdir: Folder of the run: recipe.json, metrics.csv, history.png, tensorboard/,
            checkpoints/, model.keras, labels.txt, summary.json.
        strategy: `"auto"` (all GPUs of this machine, else one device), `"one"`, `"mirrored"`,
            `"multiworker"` (by TF_CONFIG), `"tpu"`, or a `tf.distribute.Strategy`.
        callbacks: Keras callbacks.
        tpu: Name of the TPU for the resolver.
        steps_per_call: Steps that one call of the compiled function makes; default 1, on TPU 50.
        jit_compile: Whether XLA compiles the step, once for each image size; on one device only
            (a TPU always compiles).
        remat: Whether each block's activations are recomputed in the backward pass instead of kept:
            less memory, about a third more time, the same gradients.
        rollback: After a loss that is not finite: whether to go back to the last good checkpoint
            and leave out the call of steps that broke, up to three times, instead of raising.
        progress: Whether to show a progress bar on stderr.

    Returns:
        A `Result`.

    Raises:
        ValueError: If recipe, data and model do not fit each other, or the workdir holds a run of
            another recipe, model or data set; says what differs.
        RuntimeError: If another process trains in the workdir.
        FloatingPointError: If the loss is not finite.
        SystemExit: With code 143 after SIGTERM, when the checkpoint is saved.
        KeyboardInterrupt: After Ctrl-C, when the checkpoint is saved; a second one does not wait.
    """
    layers.require_tensorflow("Training")
    if "://" in str(workdir):
        raise ValueError(
            f"`workdir` is a local folder. Received: {workdir}. Train into a local folder and copy "
            "it, or mount the bucket."
        )
    check_trainable(data)
    strategy = make_strategy(strategy, tpu)
    with checkpoints.locked(workdir) if is_chief(strategy) else contextlib.nullcontext():
        run = Run(model, data, recipe, pathlib.Path(workdir), strategy)
        step = run.train_step(steps_per_call, jit_compile, remat)
        resumed_from = run.resume()
        _epochs(run, step, callbacks, rollback, progress)
        run.finish()
    done = run.progress
    return Result(run.model, done.history, done.step, resumed_from, step.traces)


def check_trainable(data):
    """Refuses a data set that is for testing only."""
    if data.train is None:
        raise ValueError(
            f"{data.name} has no split to train on, only one to evaluate: train on another set."
        )


def _epochs(run, step, callbacks, rollback, shown):
    """All epochs that are left; after a loss that is not finite, from the last checkpoint."""
    epochs, rollbacks = run.recipe.epochs, 0
    log = keras.callbacks.CallbackList([*callbacks], model=run.model, epochs=epochs, verbose=0)
    run.model.stop_training = False
    if rollback and not run.progress.step:
        run.save()  # the first epoch can break too
    with (
        Signals() as signals,
        records.curves(run.workdir) if run.is_chief else contextlib.nullcontext() as write,
        Batches(run.data.train, run.phases, run.recipe, run.devices) as batches,
    ):
        log.on_train_begin()
        while run.progress.epoch < epochs and not run.is_over():
            try:
                _epoch(run, step, batches, log, signals, shown)
            except NotFinite as error:
                rollbacks += 1
                if not rollback or rollbacks > 3:
                    raise
                run.roll_back(error.left_out)
                continue
            if write:
                write(run.progress.history)
            run.save()
            if signals.asked and not has_workers(run.devices):
                signals.leave(run.progress.step)
        log.on_train_end()


def _epoch(run, step, batches, log, signals, shown):
    """One epoch, or what is left of it: its steps, its evaluation, its row."""
    progress = run.progress
    phase = progressive.phase_at(run.phases, progress.epoch)
    progressive.deliver(run.model, phase)
    log.on_epoch_begin(progress.epoch)
    start, first = time.perf_counter(), progress.epoch_step
    _steps(run, step, batches.of(progress.epoch, first), phase, log, signals, shown)
    seconds = time.perf_counter() - start
    images = (progress.epoch_step - first) * phase.batch_size
    row = records.row(progress, phase, float(run.optimizer.learning_rate), images, seconds)
    if run.data.validation is not None:
        with run.averaged():
            row["val_loss"], row["val_accuracy"] = run.evaluate()
    progress.close_epoch(row)
    if run.recipe.patience and "val_loss" in row:
        run.keep_best(row["val_loss"])
    logging.info("%s", records.line(row, run.recipe.epochs))
    log.on_epoch_end(progress.epoch - 1, row)


def _steps(run, step, iterator, phase, log, signals, shown):
    """The steps of an epoch, with a checkpoint where one is due or a signal asks for it."""
    progress, every = run.progress, run.recipe.checkpoint_steps
    steps = run.data.train.steps(phase.batch_size)
    with records.bar(progress, run.phases, steps, shown and run.is_chief) as bar:
        while progress.epoch_step < steps:
            if [progress.epoch, progress.epoch_step] in progress.left_out:
                next(iterator)
                progress.epoch_step += 1
                continue
            count = progress.steps_of_call(steps, step.steps_per_call, every)
            log.on_train_batch_begin(progress.epoch_step)
            sums = step(iterator, count, bool(signals.asked))
            progress.add(count, sums)
            if not np.isfinite(sums.loss) or sums.not_finite:
                raise NotFinite(run.say_not_finite(phase), progress.last(count))
            logs = progress.means()
            log.on_train_batch_end(progress.epoch_step - 1, logs)
            bar.set_postfix(loss=f"{logs['loss']:.3f}", top1=f"{logs['accuracy']:.3f}")
            bar.update(count)
            # workers have to stop at the same step, whichever of them was asked
            asked = sums.asked > 0 if has_workers(run.devices) else signals.asked
            if asked or (every and progress.step % every == 0 and progress.epoch_step < steps):
                run.save()
                if asked:
                    signals.leave(progress.step)
