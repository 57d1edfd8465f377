"""Progressive learning: image size and regularisation grow together.

Tan & Le 2021, arXiv 2104.00298, section 4. The phases are those of `phases`; here each strength gets
to its taker. Weights, optimizer and step count go through unchanged.
"""

import dataclasses
from collections.abc import Iterable

import keras

from keras_effv2 import layers, needs
from keras_effv2.arguments import check_kind, check_number
from keras_effv2.phases import OF_LAYERS, Phase, check, of_pictures, phase_at, resolved


def takers(model, strength):
    """The layers of a model that take a strength, such as `"dropout"`."""
    return [layer for layer in layers.walk(model) if getattr(layer, "strength", None) == strength]


def prepare(model, phases):
    """Makes the rates that differ between phases variable. Call before the step is traced.

    Raises:
        ValueError: If a scheduled rate has no layer that takes it.
    """
    for strength in OF_LAYERS:
        values = {getattr(phase, strength) for phase in phases}
        if values == {None}:
            continue
        own = takers(model, strength)
        if not own:
            fitting = (name for name, x in vars(layers).items() if _takes(x, strength))
            raise ValueError(
                f"The phases schedule {strength}, but model {model.name!r} has no layer that takes "
                f"it. Build the model with keras_effv2, add keras_effv2.layers."
                f"{', '.join(fitting)}, or leave {strength} out."
            )
        for layer in own:
            if len(values) > 1:
                layer.vary_rate()


def _takes(kind, strength):
    return isinstance(kind, type) and getattr(kind, "strength", None) == strength


def deliver(model, phase):
    """Sets the rates of a phase in the model's layers; None: the rate a layer was built with."""
    for strength in OF_LAYERS:
        value = getattr(phase, strength)
        for layer in takers(model, strength):
            layer.rate = layer.built_rate if value is None else value


def fix(model):
    """Makes the rates of a model constants again, as they are now."""
    for strength in OF_LAYERS:
        for layer in takers(model, strength):
            layer.fix_rate()


class ProgressiveLearning(keras.callbacks.Callback):
    """Progressive learning in your own single-host `model.fit`.

    The data set has the size and the augmentation of the phase that the epoch belongs to, the
    callback sets dropout and drop-path rates; the train step is traced once and serves all phases.

    Args:
        phases: Rows from `ramp`.
        seed: Seed of the order and the augmentation.

    Raises:
        ValueError: If the phases have gaps, or a strength finds no taker.

    Example:

    >>> from keras_effv2 import ramp
    >>> pl = ProgressiveLearning(ramp(2, 2, image_size=(32, 64), dropout=(0.1, 0.3)))
    >>> pl.epochs
    2
    """

    def __init__(self, phases: Iterable[Phase], seed: int = 0) -> None:
        super().__init__()
        self.phases = check(phases)
        self.seed = seed
        self.epoch = 0
        self._has_data = False

    @property
    def epochs(self):
        """Epochs of all phases: what `fit` is to be told."""
        return self.phases[-1].stop_epoch

    def dataset(self, images_and_labels, batch_size, augment=None, *, steps=None, classes=None):
        """Makes the training data for `fit`: every epoch in the size of its phase.

        Args:
            images_and_labels: A training split of `keras_effv2.data`; `(images, labels)`: uint8
                `(n, h, w, 3)` or file names, and integers `(n,)`; or a `tf.data.Dataset` of
                (image, label) or of TFDS's dictionaries, single or in batches, of pixels 0..255,
                which shuffles itself. Phases that do not schedule the image size take that of the
                pictures, `min(h, w)`.
            batch_size: Images a step, for phases that do not schedule it.
            augment: An `Augment` of what the phases do not schedule: crops, flip, erasing.
            steps: Steps an epoch of a `tf.data.Dataset`; None: of all its pictures, which are
                counted where it does not know.
            classes: Number of classes; None: as the labels, or the dataset's `class_names`, have.

        Returns:
            A `tf.data.Dataset` of images uint8 and one-hot labels, for `fit(..., shuffle=False)`:
            the order of an epoch is in it.

        Raises:
            ValueError: If images or labels are of other shapes or types, or the phases' batch sizes
                make epochs of different numbers of steps:
                `fit` would cut all epochs to the first one's. `keras_effv2.train` does not.
        """
        with needs.naming("A dataset of ProgressiveLearning"):
            import tensorflow as tf

        from keras_effv2.augment import Augment
        from keras_effv2.data.streams import labelled

        counts = {"batch_size": batch_size, "steps": steps, "classes": classes}
        for name, count in counts.items():
            if count is not None:
                check_number(f"`{name}`", count, 1, whole=True)
        check_kind("augment", augment, Augment | None, "an Augment, or None")
        split = labelled(images_and_labels, steps, classes)
        self._has_data = True
        own = any(phase.image_size is None for phase in self.phases)
        phases = resolved(self.phases, split.typical_side() if own else None, batch_size)
        sizes = {phase.batch_size for phase in phases}
        steps = {split.steps(size) for size in sizes}
        if len(steps) > 1:
            raise ValueError(
                f"Batches of {', '.join(map(str, sorted(sizes)))} make epochs of "
                f"{', '.join(map(str, sorted(steps)))} steps, and `fit` makes as many in every "
                "epoch. Use keras_effv2.train, or one batch size."
            )

        def epoch():
            phase = phase_at(phases, self.epoch)
            return iter(
                split.train_batches(
                    image_size=phase.image_size,
                    batch_size=phase.batch_size,
                    seed=self.seed,
                    epoch=self.epoch,
                    augment=dataclasses.replace(augment or Augment(), **of_pictures(phase)),
                )
            )

        batch = sizes.pop() if len(sizes) == 1 else None
        batches = tf.data.Dataset.from_generator(
            epoch,
            output_signature=(
                tf.TensorSpec((batch, None, None, 3), tf.uint8),
                tf.TensorSpec((batch, len(split.class_names)), tf.float32),
            ),
        )
        return batches.apply(tf.data.experimental.assert_cardinality(steps.pop()))

    def on_train_begin(self, logs=None):
        scheduled = [
            name
            for name in ("image_size", *of_pictures(self.phases[0]), "batch_size")
            if any(getattr(phase, name) for phase in self.phases)
        ]
        if scheduled and not self._has_data:
            raise ValueError(
                f"The phases schedule {', '.join(scheduled)}, which nobody takes: train on "
                "`pl.dataset((images, labels), batch_size)`."
            )
        prepare(self.model, self.phases)
        self.model.make_train_function(force=True)  # an older trace holds the old rates
        deliver(self.model, phase_at(self.phases, self.epoch))

    def on_epoch_begin(self, epoch, logs=None):
        before = phase_at(self.phases, self.epoch)
        self.epoch = epoch
        phase = phase_at(self.phases, epoch)
        deliver(self.model, phase)
        changed = any(getattr(phase, name) != getattr(before, name) for name in OF_LAYERS)
        if changed and keras.backend.backend() == "jax":
            self.model.make_train_function(force=True)  # a compiled step holds the old rates
