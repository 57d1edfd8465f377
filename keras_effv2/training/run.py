"""What a run is made of: model, optimizer, moving average, loss scale, phases, progress."""

import contextlib
import dataclasses

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import files, graph, layers, optimizers, progressive, recipes, rematerialization
from keras_effv2.data.weighting import class_weights
from keras_effv2.training import checkpoints, records, state, stopping, strategy
from keras_effv2.training.background import Background
from keras_effv2.training.batches import Batches, eval_batches
from keras_effv2.training.step import LARGEST_SCALE, EvalStep, TrainStep


@dataclasses.dataclass
class Result:
    """What `train` returns.

    Attributes:
        model: The trained model; with the averaged weights if the recipe has an EMA.
        history: One dictionary an epoch.
        steps: Optimizer steps done in all.
        resumed_from: Step that this call started from, 0 for a fresh run.
        traces: How often the train step was traced by this call.
    """

    model: keras.Model
    history: list
    steps: int
    resumed_from: int
    traces: int


class Run:
    """One training run.

    Args:
        model: A `keras.Model`, or a function without arguments that builds one.
        data: A `Data` with a training split.
        recipe: A `Recipe`.
        workdir: Folder of the run, a `pathlib.Path`.
        devices: A `tf.distribute.Strategy`.
        start: What the model starts from, as `train`'s.
    """

    def __init__(self, model, data, recipe, workdir, devices, start=None):
        self.data, self.recipe, self.workdir, self.devices = data, recipe, workdir, devices
        self.is_chief = strategy.is_chief(devices)
        self.given = model if isinstance(model, keras.Model) else None
        keras.utils.set_random_seed(recipe.seed)
        self.model = strategy.place(model, recipe, devices)
        planned = recipes.resolved(recipe, graph.side_of(self.model))
        self.phases = planned.phases
        # the recipe's, or that of the last phase: epochs are to be compared with each other
        self.eval_size = recipe.eval_size or self.phases[-1].image_size
        fits(self.model, data, planned, self.eval_size, devices.num_replicas_in_sync)
        # what the outputs are says the model; of logits, the loss that they are trained with
        self.activation = graph.activation_of(self.model) or recipe.loss
        with devices.scope():
            self.logits = graph.logits_of(self.model)
            progressive.prepare(self.model, self.phases)
            self.rate = optimizers.make_schedule(planned, data.train.steps)
            self.optimizer = optimizers.make_optimizer(planned, data.train.steps)
            if recipe.optimizer != "rmsprop" and recipe.weight_decay:
                self.optimizer.exclude_from_weight_decay(
                    [v for v in self.model.trainable_variables if not optimizers.is_decayed(v)]
                )
            self.model.compile(self.optimizer, loss="categorical_crossentropy")
            self.optimizer.build(self.model.trainable_variables)
            self.average = [tf.Variable(w.value) for w in self.model.weights] if recipe.ema else []
            # float16 loses gradients below 6e-8: factor of the loss, steps since it changed
            half = "mixed_float16" in strategy.policies(self.model)
            self.scaling = [tf.Variable(LARGEST_SCALE), tf.Variable(0.0)] if half else []
        self.progress, self.saving = state.Progress(), Background()
        self.about = {"run": state.as_json(state.describe(recipe, self.model, data))}
        self.about |= {} if start is None else {"start": state.as_json(start)}
        self.about["validation"] = data.validation and data.validation.fingerprint()
        self.class_weights = class_weights(recipe.class_weight, data.train)
        self._eval_step = EvalStep(self.logits, recipe, devices, self.class_weights)

    def train_step(self, steps_per_call, jit_compile, remat):
        """The compiled step; without `steps_per_call` as many as suit the devices."""
        return TrainStep(
            rematerialization.rematerialized(self.logits)
            if remat
            else lambda images: self.logits(images, training=True),
            self.model,
            self.optimizer,
            self.average,
            self.scaling,
            self.recipe,
            self.devices,
            steps_per_call or (50 if strategy.is_tpu(self.devices) else 1),
            jit_compile,
            self.class_weights,
        )

    def batches(self):
        """The training batches of every epoch."""
        static = not graph.is_dynamic(self.model)
        return Batches(self.data.train, self.phases, self.recipe, self.devices, static)

    def evaluate(self):
        """Loss and top-1 of the validation split, every picture once."""
        split, crop = self.data.validation, self.recipe.crop
        return self._eval_step(eval_batches(split, self.eval_size, crop, self.devices))

    def keep_best(self, loss):
        """Notes the (averaged) weights if their validation loss is the lowest so far."""
        self.progress.keep_best(loss, self.average or self.model.weights)

    def _variables(self):
        return state.variables(self.model, self.optimizer, self.average, self.scaling)

    def save(self):
        """Writes a checkpoint while the training goes on; `saving.wait()` until it is written."""
        if self.is_chief:
            self.saving.wait()  # there is one copy of the variables at a time
            taken = state.snapshot(self.workdir, self.progress, self._variables(), self.about)
            self.saving.start(checkpoints.save, *taken)

    def newest(self):
        """The newest checkpoint, when what is being written is there."""
        self.saving.wait()
        return state.newest(self.workdir)

    def restore(self, checkpoint):
        """Goes back to a checkpoint, if there is one."""
        if checkpoint is not None:
            self.progress = state.restore(self.workdir, checkpoint, self._variables())

    def roll_back(self, left_out):
        """Goes back to the newest checkpoint, from where these steps are left out."""
        broken, left_out = self.progress.step, self.progress.left_out + left_out
        self.restore(self.newest())
        self.progress.left_out = left_out
        logging.warning("Rolled back from step %d to step %d.", broken, self.progress.step)

    def resume(self, checkpoint):
        """Takes up the workdir's newest checkpoint, or begins; the step, 0 for a fresh run."""
        state.check_same(self.workdir, checkpoint, self.about["run"])
        if self.is_chief:
            state.record(self.workdir, self.about, anew=checkpoint is None)
            files.sweep(self.workdir)
        self.restore(checkpoint)
        if strategy.has_workers(self.devices):
            state.check_workers(self.devices, self.progress.step)
        if self.progress.step:
            logging.info("Resuming %s at step %d.", self.workdir, self.progress.step)
        elif self.recipe.patience and self.data.validation is not None:
            loss, _ = self.evaluate()
            # a network that knows nothing yet is not to be kept, however badly it learns
            classes = len(self.data.class_names)
            if loss < 0.9 * stopping.loss_of_nothing(self.recipe, classes, self.class_weights):
                self.keep_best(loss)
        return self.progress.step

    def is_over(self):
        """Whether the last epoch is done, or a callback or `patience` ends the training before."""
        losses = [row["val_loss"] for row in self.progress.history if "val_loss" in row]
        stopped = self.progress.stopped or stopping.is_over(losses, self.recipe.patience)
        return stopped or self.progress.epoch >= self.recipe.epochs

    @contextlib.contextmanager
    def settled(self):
        """The model with the weights that are the result: the best, the averaged or the last.

        What is made of them within the block stays, for a later call too.
        """
        progressive.fix(self.model)
        kept = self.progress.best or self.average
        if kept:
            state.assign(self.model, kept)
        before = [weight.numpy() for weight in self.model.weights]
        yield
        after = [weight.numpy() for weight in self.model.weights]
        if not all(map(np.array_equal, before, after)):
            self.progress.best = after
            self.save()

    def finish(self):
        """Says in the model how it is to be used, and writes the results."""
        pixels = layers.find_pixels(self.model)
        if pixels is not None:
            pixels.class_names = tuple(self.data.class_names)
            pixels.image_size = self.eval_size
            pixels.crop, pixels.resize = self.recipe.crop, "bilinear"
            pixels.activation = self.activation
            pixels.forget_confidence()
        if self.is_chief:
            records.write_results(self.workdir, self.model, self.data, self.recipe, self.progress)
        if self.given is not None and self.given is not self.model:
            _hand_back(self.model, self.given)


def _hand_back(trained, given):
    """Gives a model the weights of one that was rebuilt of it, and how it is to be used."""
    given.set_weights(trained.get_weights())
    theirs = layers.find_pixels(given)
    if theirs is not None:
        theirs.forget_confidence()
        for key, value in layers.find_pixels(trained).contract().items():
            setattr(theirs, key, value)


def fits(model, data, recipe, eval_size, replicas):
    """Refuses a recipe, whose phases say size and batch, that model, data or devices cannot do."""
    classes = model.output_shape[-1]
    if classes != len(data.class_names):
        raise ValueError(
            f"The model has {classes} outputs, {data.name} has {len(data.class_names)} classes. "
            f"Build the model with classes={len(data.class_names)}."
        )
    activation = graph.activation_of(model)
    if activation not in (None, recipe.loss):
        raise ValueError(
            f"{model.name} ends in a {activation}, the recipe trains by {recipe.loss} cross-entropy: "
            "the model would not say what it has learnt. Take dataclasses.replace(recipe, "
            f"loss={activation!r}) (effv2 train --recipe.loss={activation}), or build the model with "
            f"classifier_activation={recipe.loss!r}."
        )
    layers.check_preprocessing(model)
    multiple, side = graph.side_multiple(model), model.inputs[0].shape[1]
    for size in (*(phase.image_size for phase in recipe.phases), eval_size):
        if side not in (None, size):
            raise ValueError(
                f"{model.name} takes pictures of {side} pixels alone: a layer such as Flatten before "
                f"its head forbids others. Received a phase or an `eval_size` of {size} pixels: "
                f"give {side}, or pool before the head (GlobalAveragePooling2D)."
            )
        if size % multiple:
            raise ValueError(
                f"{model.name} takes multiples of {multiple} pixels. Received a phase or "
                f"an `eval_size` of {size} pixels: make the phases with ramp(..., "
                f"multiple_of={multiple}), and `eval_size` such a multiple or 0."
            )
    for phase in recipe.phases:
        recipes.augment_of(recipe, phase)  # refuses what is out of range
        if phase.batch_size % (replicas * recipe.accumulate):
            parts = f" of {recipe.accumulate} parts each" if recipe.accumulate > 1 else ""
            several = "s" if replicas > 1 else ""
            raise ValueError(
                f"The batch of {phase.batch_size} does not divide into {replicas} replica{several}"
                f"{parts}. Choose a multiple of {replicas * recipe.accumulate}."
            )
        data.train.steps(phase.batch_size)
