"""A recipe for the size of a data set and for the machine, and how long it will take."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_effv2 import graph, recipes, timing, variants
from keras_effv2.phases import ramp

STEP = 4  # forward passes that a train step takes as long as; 3.6 were measured


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


def phases_of(model, recipe):
    """The phases of a recipe, with the model's size where they do not say one."""
    return recipes.resolved(recipe, graph.side_of(model)).phases


def estimate(model, data, recipe):
    """A sentence on how long a fine-tuning will take, from one batch that is timed now.

    A train step counts as `STEP` forward passes, a size by its pixels.
    """
    phases = phases_of(model, recipe)
    size = phases[-1].image_size
    images = np.zeros((recipe.batch_size, size, size, model.input_shape[-1]), "float32")
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    (seconds,) = timing.alternate(lambda: forward(images).numpy(), rounds=3, warmup=0)
    epochs = sum(
        (phase.stop_epoch - phase.start_epoch) * (phase.image_size / size) ** 2 for phase in phases
    )
    steps = data.train.steps(recipe.batch_size) / tf.distribute.get_strategy().num_replicas_in_sync
    whole = STEP * min(seconds) * epochs * steps
    sizes = ", ".join(str(phase.image_size) for phase in phases)
    return (
        f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} of {len(data.train)} pictures, batch "
        f"{recipe.batch_size}, sizes {sizes}: about {max(1, round(whole / 60))} min of training here, less if it stops early, "
        f"by one batch of {size} pixels ({1000 * min(seconds):.0f} ms); the head before, validation "
        "and report come on top."
    )
