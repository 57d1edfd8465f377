"""Training: a strategy, one compiled step, a loop over phases that can be killed at any moment.

Keras 3's `fit` is wrong or crashes under `tf.distribute` in several ways (clipping per replica,
equal dropout masks, ragged tails, multi-worker), so the loop here runs its own step through
`strategy.run` and drives Keras callbacks itself.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import signal
import sys
import threading
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import (
    augment,
    checkpoints,
    files,
    graph,
    layers,
    optimizers,
    progressive,
    recipes,
    rematerialization,
)
from keras_effv2.progressive import Phase

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")
TERMINATED = 143  # exit code after SIGTERM with a checkpoint saved


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
        run = _Run(model, data, recipe, pathlib.Path(workdir), strategy)
        run.configure(steps_per_call, jit_compile, remat)
        return run.train(callbacks, rollback, progress)


def check_trainable(data):
    """Refuses a data set that is for testing only."""
    if data.train is None:
        raise ValueError(
            f"{data.name} has no split to train on, only one to evaluate: train on another set."
        )


# ------------------------------------------------------------------------------------- strategy


def make_strategy(name, tpu="local"):
    """Makes a `tf.distribute.Strategy` from its name; a strategy is returned as it is."""
    if isinstance(name, tf.distribute.Strategy):
        return name
    if name not in STRATEGIES:
        raise ValueError(f"`strategy` is one of {', '.join(STRATEGIES)}. Received: {name!r}.")
    if name == "multiworker":
        try:  # before anything else asks TensorFlow for its devices
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise RuntimeError(
                f"The workers cannot be joined: {error}. Make the strategy before anything else "
                "uses TensorFlow: strategy = make_strategy('multiworker')."
            ) from error
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        return tf.distribute.MirroredStrategy(devices)
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"The TPU {tpu!r} cannot be used: {str(error).splitlines()[0]} TPUs need the package "
            "tensorflow-tpu (up to 2.20) on a TPU machine."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy):
    """Whether this process writes the files; the only one, or the first of the workers."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or not resolver.task_type:
        return True
    chief = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == chief and resolver.task_id == 0


def _is_late(strategy):
    """Whether the strategy has to be there before the model."""
    return _is_tpu(strategy) or _has_workers(strategy)


def _has_workers(strategy):
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _is_tpu(strategy):
    return isinstance(strategy, tf.distribute.TPUStrategy)


# ---------------------------------------------------------------------------------------- model


def _place(model, recipe, strategy):
    """The model to train, built in the strategy's scope, of dynamic size."""
    late = _is_late(strategy)
    built = isinstance(model, keras.Model)
    if built and late:
        raise ValueError(
            "A model that exists before a multi-worker or TPU strategy cannot be used: pass a "
            "function without arguments that builds it."
        )
    with strategy.scope(), _policy(recipe.precision):
        own = model if built else model()
        policies = _policies(own)
        if recipe.precision not in {"float32", *policies}:
            raise ValueError(
                f"The recipe trains in {recipe.precision}, but model {own.name!r} was built in "
                f"{', '.join(sorted(policies))}. Train it as it is, dataclasses.replace(recipe, "
                'precision="float32") (effv2 train --recipe.precision=float32), or build it after '
                f"keras.config.set_dtype_policy({recipe.precision!r})."
            )
        if built and strategy.num_replicas_in_sync == 1 and graph.is_dynamic(own):
            return own
        if not built and graph.is_dynamic(own):
            return own
        return graph.dynamic_clone(own)


def _policies(model):
    """Names of the dtype policies that a model's layers have."""
    return {layer.dtype_policy.name for layer in layers.walk(model)}


@contextlib.contextmanager
def _policy(name):
    before = keras.config.dtype_policy()
    if name != "float32":
        keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


# ------------------------------------------------------------------------------------------ run


class _Run:
    """One training run: what lives as long as the loop."""

    def __init__(self, model, data, recipe, workdir, strategy):
        self.data, self.recipe, self.workdir, self.strategy = data, recipe, workdir, strategy
        self.chief = is_chief(strategy)
        self.user_model = model if isinstance(model, keras.Model) else None
        keras.utils.set_random_seed(recipe.seed)
        self.model = _place(model, recipe, strategy)
        self.phases = recipe.phases or (Phase(0, recipe.epochs),)
        self.default_size = self._default_size()
        self._check()
        self.replicas = strategy.num_replicas_in_sync
        self.traces = 0
        with strategy.scope():
            self.logits = graph.logits_of(self.model)
            progressive.prepare(self.model, self.phases)
            self.optimizer = optimizers.make_optimizer(recipe, self.data.train.steps)
            if recipe.optimizer != "rmsprop" and recipe.weight_decay:
                self.optimizer.exclude_from_weight_decay(
                    [v for v in self.model.trainable_variables if not optimizers.is_decayed(v)]
                )
            self.model.compile(self.optimizer, loss="categorical_crossentropy")
            self.optimizer.build(self.model.trainable_variables)
            self.ema = [tf.Variable(w.value) for w in self.model.weights] if recipe.ema else []
            # float16 loses gradients below 6e-8: factor of the loss, steps since it changed
            half = "mixed_float16" in _policies(self.model)
            self.scaling = [tf.Variable(_LARGEST_SCALE), tf.Variable(0.0)] if half else []
        self.step, self.epoch, self.epoch_step = 0, 0, 0
        self.sums = np.zeros(3)  # loss, hits, pictures of the epoch so far
        self.history, self.left_out = [], []
        self.best, self.best_loss, self.best_epoch = [], np.inf, 0  # with `patience`

    def configure(self, steps_per_call, jit_compile, remat):
        """Says how the step is compiled."""
        if jit_compile and self.replicas > 1:
            raise ValueError(
                f"`jit_compile` works on one device; this strategy has {self.replicas} replicas."
            )
        self.steps_per_call = steps_per_call or (50 if _is_tpu(self.strategy) else 1)
        self.jit_compile = jit_compile
        self.forward = (
            rematerialization.rematerialized(self.logits)
            if remat
            else lambda images: self.logits(images, training=True)
        )

    def _default_size(self):
        pixels = layers.find_pixels(self.model)
        return (pixels and pixels.image_size) or 224

    def _check(self):
        classes = self.model.output_shape[-1]
        if classes != len(self.data.class_names):
            raise ValueError(
                f"The model has {classes} outputs, {self.data.name} has "
                f"{len(self.data.class_names)} classes. Build the model with "
                f"classes={len(self.data.class_names)}."
            )
        layers.check_preprocessing(self.model)
        multiple = graph.side_multiple(self.model)
        for size in (*map(self.image_size, self.phases), self._eval_size()):
            if size % multiple:
                raise ValueError(
                    f"{self.model.name} takes multiples of {multiple} pixels. Received a phase or "
                    f"an `eval_size` of {size} pixels: make the phases with ramp(..., "
                    f"multiple_of={multiple}), and `eval_size` such a multiple or 0."
                )
        for phase in self.phases:
            recipes.augment_of(self.recipe, phase)  # refuses what is out of range
            batch = phase.batch_size or self.recipe.batch_size
            if batch % self.strategy.num_replicas_in_sync:
                raise ValueError(
                    f"The batch of {batch} does not divide into "
                    f"{self.strategy.num_replicas_in_sync} replicas. Choose a multiple."
                )
            self.data.train.steps(batch)

    def image_size(self, phase):
        return phase.image_size or self.default_size

    def batch_size(self, phase):
        return phase.batch_size or self.recipe.batch_size

    def epoch_steps(self, phase):
        return self.data.train.steps(self.batch_size(phase))

    # ---- the compiled step

    def _make_steps(self):
        recipe, model, optimizer, strategy = self.recipe, self.model, self.optimizer, self.strategy
        decayed = [v for v in model.trainable_variables if optimizers.is_decayed(v)]
        l2 = recipe.weight_decay if recipe.optimizer == "rmsprop" else 0.0

        def replica_step(images, labels, asked):
            with tf.GradientTape() as tape:
                logits = tf.cast(self.forward(images), tf.float32)
                losses = cross_entropy(labels, logits, recipe)
                # over the global batch: gradients of the replicas add up to the whole's
                loss = tf.reduce_mean(losses) / self.replicas
                extra = tf.add_n(model.losses) if model.losses else 0.0
                if l2:
                    extra += l2 * tf.add_n([tf.nn.l2_loss(v.value) for v in decayed])
                total = loss + extra / self.replicas
                if self.scaling:
                    total *= self.scaling[0]
            gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
            # variables that the loss does not reach have none; the optimizer names them
            reached = [i for i, gradient in enumerate(gradients) if gradient is not None]
            adjusted = [tf.convert_to_tensor(gradients[i]) for i in reached]
            if self.scaling:
                adjusted = [gradient / self.scaling[0] for gradient in adjusted]
            adjusted = self._clipped(adjusted)
            finite = tf.math.is_finite(tf.linalg.global_norm(adjusted))
            for i, gradient in zip(reached, adjusted, strict=True):
                gradients[i] = gradient
            self._apply(gradients, finite)
            hits = _hits(labels, logits)
            return tf.stack(
                [
                    tf.reduce_sum(losses),
                    tf.reduce_sum(tf.cast(hits, tf.float32)),
                    tf.cast(tf.size(losses), tf.float32),
                    1.0 - tf.cast(finite, tf.float32),
                    asked,
                ]
            )

        if self.jit_compile:
            replica_step = tf.function(replica_step, jit_compile=True)

        def step(images, labels, asked):
            self.traces += 1  # runs while tracing only
            before = tf.convert_to_tensor(optimizer.iterations.value)
            sums = strategy.run(replica_step, args=(images, labels, asked))
            if self.ema:
                self._update_ema(before)
            sums = strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)
            return self._update_scaling(sums) if self.scaling else sums

        def steps(iterator, count, asked):
            """Sums over all replicas: loss, hits, pictures, gradients not finite, asked to stop."""
            if self.steps_per_call == 1:
                return step(*next(iterator), asked)
            sums = tf.zeros(5)
            for _ in tf.range(count):
                sums += step(*next(iterator), asked)
            return sums

        # an iterator of batches of unknown image size: one trace serves all phases but on TPU
        return tf.function(steps)

    def _clipped(self, gradients):
        """Clips the global gradient; Keras would clip each replica's share.

        The optimizer adds the gradients of all replicas up. Where clipping needs the sum first, it
        is made here and every replica hands on its N-th part.
        """
        if not self.recipe.clip:
            return gradients
        if self.replicas > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, self.recipe.clip)
        return [gradient / self.replicas for gradient in gradients]

    def _apply(self, gradients, finite):
        """Updates the weights; not by gradients that left float16's range on any replica."""
        variables = self.model.trainable_variables
        if not self.scaling:
            self.optimizer.apply(gradients, variables)
            return

        def update(strategy, gradients, overflown):
            def skip():
                self.optimizer.iterations.assign_add(1)

            def apply():
                strategy.extended.call_for_each_replica(
                    self.optimizer.apply, args=(gradients, variables)
                )

            overflown = strategy.reduce(tf.distribute.ReduceOp.SUM, overflown, axis=None)
            tf.cond(overflown > 0, skip, apply)

        # the condition is where the replicas meet: they cannot meet within one of their own
        overflown = 1.0 - tf.cast(finite, tf.float32)
        tf.distribute.get_replica_context().merge_call(update, args=(gradients, overflown))

    def _update_scaling(self, sums):
        """Halves the loss scale after an overflow and doubles it after many steps without.

        Micikevicius et al. 2018, arXiv 1710.03740. An overflow is a failure only at scale 1.
        """
        scale, calm = self.scaling
        overflown = sums[3] > 0
        calm.assign(tf.where(overflown, 0.0, calm + 1))
        grown = tf.where(calm % _SCALE_STEPS == 0, scale * 2, scale)
        failed = overflown & (scale <= 1)
        scale.assign(tf.clip_by_value(tf.where(overflown, scale / 2, grown), 1, _LARGEST_SCALE))
        return tf.concat([sums[:3], [tf.cast(failed, tf.float32)], sums[4:]], 0)

    def _update_ema(self, step):
        decay = optimizers.ema_decay(self.recipe.ema, step)

        def update(average, value):
            if not average.dtype.is_floating:
                return average.assign(value)
            return average.assign_sub((1.0 - tf.cast(decay, average.dtype)) * (average - value))

        for average, weight in zip(self.ema, self.model.weights, strict=True):
            self.strategy.extended.update(average, update, args=(weight.value,))

    def _evaluate(self, split, image_size):
        """Loss and top-1 of a split, every picture once."""
        batch = self.replicas * max(1, min(64, len(split) // self.replicas))

        def batches(context):
            own = split.eval_batches(
                image_size=image_size,
                batch_size=batch // context.num_input_pipelines,
                shard=(context.input_pipeline_id, context.num_input_pipelines),
                crop=self.recipe.crop,
            )
            return _per_replica(own, batch, context)

        totals = np.zeros(3)
        for part in self.strategy.distribute_datasets_from_function(batches):
            totals += self.eval_step(*part).numpy()
        return totals[0] / totals[2], totals[1] / totals[2]

    def _make_eval_step(self):
        def replica_step(images, labels, mask):
            logits = tf.cast(self.logits(images, training=False), tf.float32)
            losses = cross_entropy(labels, logits, self.recipe) * mask
            hits = tf.cast(_hits(labels, logits), tf.float32) * mask
            return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(hits), tf.reduce_sum(mask)])

        def step(*batch):
            sums = self.strategy.run(replica_step, args=batch)
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

        return tf.function(step)

    # ---- state

    def _variables(self):
        """Name -> variable, of everything that training changes."""
        named = {}
        for group, variables in (
            ("model", [v.value for v in self.model.variables]),
            ("seed", [g.state.value for g in _seed_generators(self.model)]),
            ("optimizer", [v.value for v in self.optimizer.variables]),
            ("ema", self.ema),
            ("scaling", self.scaling),
        ):
            named.update({f"{group}/{i}": v for i, v in enumerate(variables)})
        return named

    def save(self):
        if self.chief:
            checkpoints.save(
                self.workdir / "checkpoints",
                self.step,
                {
                    **{name: v.numpy() for name, v in self._variables().items()},
                    **{f"best/{i}": array for i, array in enumerate(self.best)},
                },
                {
                    "step": self.step,
                    "best_loss": float(self.best_loss),
                    "best_epoch": self.best_epoch,
                    "epoch": self.epoch,
                    "epoch_step": self.epoch_step,
                    "sums": self.sums.tolist(),
                    "history": self.history,
                    "left_out": self.left_out,
                    "machine": _machine(),
                },
            )

    def restore(self):
        """Takes up the newest whole checkpoint, if there is one."""
        found = checkpoints.load_newest(self.workdir / "checkpoints")
        if found is None:
            return
        arrays, meta = found
        best = [name for name in arrays if name.startswith("best/")]
        self.best = [arrays.pop(f"best/{i}") for i in range(len(best))]
        self.best_loss, self.best_epoch = meta["best_loss"], meta["best_epoch"]
        variables = self._variables()
        if set(arrays) != set(variables):
            raise ValueError(
                f"The checkpoint in {self.workdir} has {len(arrays)} variables, this run has "
                f"{len(variables)}: it is of another model. Choose another workdir."
            )
        for name, variable in variables.items():
            if tuple(variable.shape) != arrays[name].shape:
                raise ValueError(
                    f"The checkpoint in {self.workdir} has {name} of shape {arrays[name].shape}, "
                    f"this model {tuple(variable.shape)}: choose another workdir."
                )
            variable.assign(arrays[name])
        if meta["machine"] != _machine():
            logging.warning("This run resumes on another machine setup: not bit for bit.")
        self.epoch, self.epoch_step = meta["epoch"], meta["epoch_step"]
        self.sums, self.history = np.array(meta["sums"]), meta["history"]
        self.left_out = meta["left_out"]
        self.step = int(self.optimizer.iterations.numpy())

    def _describe(self):
        """What a run is, as a dictionary that JSON can hold."""
        return {
            **dataclasses.asdict(self.recipe),
            "parameters": self.model.count_params(),
            "classes": list(self.data.class_names),
            "training pictures": len(self.data.train),
            "training data": self.data.train.fingerprint(),
        }

    def _check_workdir(self):
        """Refuses a workdir with checkpoints of another run; records ours in a fresh one."""
        path = self.workdir / "recipe.json"
        ours = json.loads(json.dumps(self._describe()))
        theirs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else ours
        changed = [
            f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}"
            for key in sorted({*ours, *theirs})
            if ours.get(key) != theirs.get(key)
        ]
        if changed and any((self.workdir / "checkpoints").glob("step-*.ckpt")):
            raise ValueError(
                f"{self.workdir} holds a run of another recipe; changed: {'; '.join(changed)}. "
                "Use that recipe, model and data to resume it, or another workdir."
            )
        if self.chief and (changed or not path.exists()):
            files.write_whole(path, json.dumps(ours, indent=2) + "\n")

    def _check_workers(self):
        """Refuses workers that found different checkpoints: they do not share the workdir."""
        if not _has_workers(self.strategy):
            return
        own = self.strategy.run(lambda: tf.constant(self.step))
        total = int(self.strategy.reduce(tf.distribute.ReduceOp.SUM, own, axis=None))
        if total != self.step * self.replicas:
            raise ValueError(
                f"The workers found different checkpoints; this one step {self.step}. Give all of "
                "them a workdir that they share."
            )

    # ---- the loop

    def train(self, callbacks, rollback, progress):
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._check_workdir()
        self.restore()
        self._check_workers()
        resumed_from = self.step
        if resumed_from:
            logging.info("Resuming %s at step %d.", self.workdir, resumed_from)
        self.train_steps, self.eval_step = self._make_steps(), self._make_eval_step()
        log = keras.callbacks.CallbackList(
            [*callbacks], model=self.model, epochs=self.recipe.epochs, verbose=0
        )
        self.model.stop_training = False
        if not resumed_from and self.recipe.patience and self.data.validation is not None:
            loss, _ = self._evaluate(self.data.validation, self._eval_size())
            # a network that knows nothing yet is not to be kept, however badly it learns
            if loss < 0.9 * self._loss_of_nothing():
                self._keep_best(loss)
        if rollback and not resumed_from:
            self.save()  # the first epoch can break too
        rollbacks = 0
        with (
            _Terminator() as terminator,
            self._tensorboard() as board,
            concurrent.futures.ThreadPoolExecutor(1) as self.pool,
        ):
            self.ahead = None
            log.on_train_begin()
            while self.epoch < self.recipe.epochs and not self._is_over():
                try:
                    self._epoch(log, board, terminator, progress)
                except FloatingPointError:
                    rollbacks += 1
                    if not rollback or rollbacks > 3:
                        raise
                    broken = self.step
                    left_out = self.left_out + [[self.epoch, i] for i in self.last_call]
                    self.restore()
                    self.left_out = left_out
                    logging.warning("Rolled back from step %d to step %d.", broken, self.step)
            log.on_train_end()
        return self._finish(resumed_from)

    def _loss_of_nothing(self):
        """The loss of equal logits."""
        classes = len(self.data.class_names)
        return float(
            cross_entropy(tf.one_hot([0], classes), tf.zeros((1, classes)), self.recipe)[0]
        )

    def _keep_best(self, loss):
        """Notes the (averaged) weights if their validation loss is the lowest so far."""
        if loss < self.best_loss:
            self.best = [weight.numpy() for weight in self.ema or self.model.weights]
            self.best_loss, self.best_epoch = float(loss), self.epoch

    def _is_over(self):
        """Whether a callback, or `patience`, ends the training before its last epoch."""
        losses = [row["val_loss"] for row in self.history if "val_loss" in row]
        patience = self.recipe.patience
        losses = np.nan_to_num(losses, nan=np.inf)
        stale = len(losses) > 0 and len(losses) - 1 - int(np.argmin(losses)) >= patience > 0
        return stale or self.model.stop_training

    def _epoch(self, log, board, terminator, progress):
        phase = progressive.phase_at(self.phases, self.epoch)
        progressive.deliver(self.model, phase)
        size, batch = self.image_size(phase), self.batch_size(phase)
        steps = self.epoch_steps(phase)
        log.on_epoch_begin(self.epoch)
        bar = _bar(self, phase, steps, size) if progress and self.chief else None
        start, first = time.perf_counter(), self.epoch_step
        iterator = self._iterator(self.epoch, first)
        together = _has_workers(self.strategy)
        asked = False
        while self.epoch_step < steps:
            if [self.epoch, self.epoch_step] in self.left_out:
                next(iterator)
                self.epoch_step += 1
                continue
            count = self._steps_of_call(steps)
            self.last_call = range(self.epoch_step, self.epoch_step + count)
            log.on_train_batch_begin(self.epoch_step)
            flag = tf.constant(float(bool(terminator.asked)))
            sums = self.train_steps(iterator, tf.constant(count), flag).numpy()
            self.step, self.epoch_step = self.step + count, self.epoch_step + count
            if not np.isfinite(sums[0]) or sums[3]:
                self._raise_not_finite(phase)
            self.sums += sums[:3]
            logs = {"loss": self.sums[0] / self.sums[2], "accuracy": self.sums[1] / self.sums[2]}
            log.on_train_batch_end(self.epoch_step - 1, logs)
            if bar:
                bar.set_postfix(loss=f"{logs['loss']:.3f}", top1=f"{logs['accuracy']:.3f}")
                bar.update(count)
            # workers have to stop at the same step, whichever of them was asked
            asked = sums[4] > 0 if together else terminator.asked
            every = self.recipe.checkpoint_steps
            if asked or (every and self.step % every == 0 and self.epoch_step < steps):
                self.save()
                if asked:
                    terminator.leave(self.step)
        seconds = time.perf_counter() - start
        if bar:
            bar.close()
        row = {
            "epoch": self.epoch,
            "steps": self.step,
            "image_size": size,
            "batch_size": batch,
            **{name: getattr(phase, name) for name in progressive.STRENGTHS},
            "learning_rate": float(self.optimizer.learning_rate),
            "loss": float(self.sums[0] / max(1, self.sums[2])),
            "accuracy": float(self.sums[1] / max(1, self.sums[2])),
            "seconds": seconds,
            "images_per_second": (steps - first) * batch / seconds,
        }
        if self.data.validation is not None:
            with self._averaged():
                loss, accuracy = self._evaluate(self.data.validation, self._eval_size())
            row.update(val_loss=float(loss), val_accuracy=float(accuracy))
        self.history.append(row)
        self.epoch, self.epoch_step, self.sums = self.epoch + 1, 0, np.zeros(3)
        if self.recipe.patience and "val_loss" in row:
            self._keep_best(row["val_loss"])
        logging.info("%s", _line(row, self.recipe.epochs))
        log.on_epoch_end(self.epoch - 1, row)
        if self.chief:
            self._record(board, row)
        self.save()
        if asked or (terminator.asked and not together):
            terminator.leave(self.step)

    def _steps_of_call(self, steps):
        """Steps that the next call makes: up to the next thing that is done between calls."""
        stops = [steps, self.epoch_step + self.steps_per_call]
        stops += [i for epoch, i in self.left_out if epoch == self.epoch and i > self.epoch_step]
        if self.recipe.checkpoint_steps:
            since = self.step % self.recipe.checkpoint_steps
            stops.append(self.epoch_step + self.recipe.checkpoint_steps - since)
        return min(stops) - self.epoch_step

    def _eval_size(self):
        """The recipe's, or that of the last phase: epochs are to be compared with each other."""
        return self.recipe.eval_size or self.image_size(self.phases[-1])

    def _iterator(self, epoch, skip):
        """The batches of an epoch; those of the next are made ready meanwhile.

        Making a pipeline takes a second or two for its tracing, which a step does not need. With
        several replicas it waits: TensorFlow mixes up device iterators made in two threads.
        """
        wanted, ahead = (epoch, skip), self.ahead
        self.ahead = None
        if ahead is not None and ahead[0] == wanted:
            iterator = ahead[1].result()
        else:
            iterator = iter(self._train_batches(epoch, skip))
        alone = self.replicas == 1 and not _is_late(self.strategy)
        if alone and epoch + 1 < self.recipe.epochs:
            following = self.pool.submit(lambda: iter(self._train_batches(epoch + 1, 0)))
            self.ahead = (epoch + 1, 0), following
        return iterator

    def _train_batches(self, epoch, skip):
        recipe, static = self.recipe, _is_tpu(self.strategy)
        phase = progressive.phase_at(self.phases, epoch)
        size, batch = self.image_size(phase), self.batch_size(phase)
        settings = recipes.augment_of(recipe, phase)

        def batches(context):
            own = self.data.train.train_batches(
                image_size=size,
                batch_size=batch // context.num_input_pipelines,
                seed=recipe.seed,
                epoch=epoch,
                skip=skip,
                augment=settings,
                shard=(context.input_pipeline_id, context.num_input_pipelines),
            )
            own = _per_replica(own, batch, context)
            # on TPU every size is compiled for itself; elsewhere one trace serves all
            return own if static else own.map(_loosen)

        return self.strategy.distribute_datasets_from_function(batches)

    def _raise_not_finite(self, phase):
        newest = checkpoints.load_newest(self.workdir / "checkpoints")
        good = f"step {newest[1]['step']}" if newest else "none"
        raise FloatingPointError(
            f"The loss or its gradient is not finite at step {self.step}, epoch {self.epoch}, "
            f"phase {phase}. Last good checkpoint: {good}. Lower the learning rate, clip gradients, "
            "or call `train` with rollback=True (effv2 train --rollback)."
        )

    @contextlib.contextmanager
    def _averaged(self):
        """The model with the averaged weights, within the block."""
        if not self.ema:
            yield
            return
        own = [w.numpy() for w in self.model.weights]
        for weight, average in zip(self.model.weights, self.ema, strict=True):
            weight.assign(average)
        try:
            yield
        finally:
            for weight, value in zip(self.model.weights, own, strict=True):
                weight.assign(value)

    # ---- what stays

    @contextlib.contextmanager
    def _tensorboard(self):
        if not self.chief:
            yield None
            return
        writer = tf.summary.create_file_writer(str(self.workdir / "tensorboard"))
        try:
            yield writer
        finally:
            writer.close()

    def _record(self, board, row):
        table = io.StringIO()
        columns = dict.fromkeys(key for row in self.history for key in row)
        writer = csv.DictWriter(table, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        files.write_whole(self.workdir / "metrics.csv", table.getvalue())
        with board.as_default():
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    tf.summary.scalar(name, value, step=row["steps"])
        board.flush()

    def _finish(self, resumed_from):
        for strength in ("dropout", "drop_path"):
            for layer in progressive.takers(self.model, strength):
                layer.fix_rate()
        if self.best or self.ema:
            for weight, kept in zip(self.model.weights, self.best or self.ema, strict=True):
                weight.assign(kept)
        pixels = layers.find_pixels(self.model)
        if pixels is not None:
            pixels.class_names = tuple(self.data.class_names)
            pixels.image_size = self._eval_size()
            pixels.crop, pixels.resize = self.recipe.crop, "bilinear"
            pixels.activation = self.recipe.loss
        if self.chief:
            self._write_results()
        if self.user_model is not None and self.user_model is not self.model:
            self.user_model.set_weights(self.model.get_weights())
            theirs = layers.find_pixels(self.user_model)
            if theirs is not None:
                for key, value in pixels.contract().items():
                    setattr(theirs, key, value)
        return Result(self.model, self.history, self.step, resumed_from, self.traces)

    def _write_results(self):
        temporary = self.workdir / f".{os.getpid()}.keras"
        # a view that is not compiled: the optimizer's state is the checkpoints' business
        model = keras.Model(self.model.inputs[0], self.model.outputs[0], name=self.model.name)
        try:
            model.save(temporary)
            os.replace(temporary, self.workdir / "model.keras")
        finally:
            temporary.unlink(missing_ok=True)
        names = "\n".join(self.data.class_names) + "\n"
        files.write_whole(self.workdir / "labels.txt", names)
        last = self.history[-1] if self.history else {}
        summary = {
            "model": self.model.name,
            "data": self.data.name,
            "recipe": self.recipe.name,
            "steps": self.step,
            "epochs": self.epoch,
            "seconds": sum(row["seconds"] for row in self.history),
            "skipped_pictures": list(getattr(self.data.train, "skipped", ())),
            "steps_left_out": self.left_out,
            **(
                {"best_epoch": self.best_epoch, "best_val_loss": self.best_loss}
                if self.best
                else {}
            ),
            **{key: last.get(key) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
        }
        files.write_whole(self.workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
        if self.history:
            _plot(self.history, self.workdir / "history.png")


_LARGEST_SCALE = 2.0**15
_SCALE_STEPS = 2000  # without overflow, after which the scale doubles


def cross_entropy(labels, logits, recipe):
    """Loss of every picture, float32 `(batch,)`."""
    classes = tf.cast(tf.shape(labels)[-1], tf.float32)
    if recipe.loss == "sigmoid":
        smooth = labels * (1 - recipe.label_smoothing) + 0.5 * recipe.label_smoothing
        losses = tf.nn.sigmoid_cross_entropy_with_logits(smooth, logits)
        return tf.reduce_sum(losses, -1)
    # several labels of one picture share its weight (arXiv 2104.00298, section 5.2)
    labels = labels / tf.maximum(tf.reduce_sum(labels, -1, keepdims=True), 1e-6)
    smooth = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
    return tf.nn.softmax_cross_entropy_with_logits(smooth, logits)


def _hits(labels, logits):
    """Whether the best class is the label, or the heaviest of mixed ones, or one of several."""
    said = tf.gather(labels, tf.argmax(logits, 1), batch_dims=1)
    return (said > 0) & (said >= tf.reduce_max(labels, 1))


def _per_replica(batches, batch, context):
    """Cuts the batches of an input pipeline for the replicas that it feeds."""
    if context.num_replicas_in_sync == context.num_input_pipelines:
        return batches
    share = batch // context.num_replicas_in_sync
    return batches.unbatch().batch(share, drop_remainder=True).prefetch(2)


def _loosen(images, *rest):
    """Hides the image size from the compiler of the step, so that one trace serves all sizes."""
    shape = (images.shape[0], None, None, images.shape[-1])
    return tf.compat.v1.placeholder_with_default(images, shape), *rest


def _seed_generators(model):
    return [
        layer.seed_generator
        for layer in layers.walk(model)
        if isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator)
    ]


def _machine():
    """What has to be equal for bit-for-bit equal results."""
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        "threads": [
            os.cpu_count(),
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ],
    }


class _Terminator:
    """Notes SIGTERM and Ctrl-C, so that the loop can save before it leaves."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.asked = 0  # the signal
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def _ask(self, number, _):
        if self.asked == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.asked = number

    def leave(self, step):
        """Raises what the signal means, after the checkpoint of that step was saved."""
        logging.warning("Stopped at step %d; the checkpoint is saved: run it again to go on.", step)
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(TERMINATED)

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _line(row, epochs):
    """An epoch in a line of a log."""
    validation = f", validation {row['val_accuracy']:.1%}" if "val_accuracy" in row else ""
    return (
        f"epoch {row['epoch'] + 1}/{epochs}: {row['image_size']} px, loss {row['loss']:.3f}, "
        f"top 1 {row['accuracy']:.1%}{validation}, {row['images_per_second']:.0f} images/s"
    )


def _bar(run, phase, steps, size):
    import tqdm

    strengths = " ".join(
        f"{name} {getattr(phase, name):.3g}"
        for name in progressive.STRENGTHS
        if getattr(phase, name) is not None
    )
    return tqdm.tqdm(
        total=steps,
        initial=run.epoch_step,
        desc=(
            f"phase {run.phases.index(phase) + 1}/{len(run.phases)} "
            f"epoch {run.epoch + 1}/{run.recipe.epochs} {size} px {strengths}"
        ),
        unit="step",
        file=sys.stderr,
        mininterval=0.5,
        disable=None,
    )


def _plot(history, path):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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
    for name in progressive.STRENGTHS:
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
    files.write_whole(path, buffer.getvalue())


__all__ = ["Result", "augment", "make_strategy", "train"]
