"""Pipelines from labelled pictures to batches; a picture is an array or the bytes of a file."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_effv2 import augment, photos
from keras_effv2.arguments import check_number
from keras_effv2.data.decoding import cut, decode, resized, to_uint8

# for functions of a pipeline that branch by TensorFlow's own words: AutoGraph would take seconds to
# find nothing to convert in them
plainly = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class Draw:
    """What the random changes of a pipeline depend on.

    Attributes:
        seed: Seed of the run.
        epoch: Number of the epoch.
        skip: Batches that were left out at its start.
        index: Number of the pipeline among those that share a global batch.
    """

    seed: int
    epoch: int
    skip: int = 0
    index: int = 0


def shares(order, batch_size, shard, skip=0, drop_remainder=True):
    """A pipeline's part of an epoch: of every global batch its share, behind each other.

    Args:
        order: The order of the epoch, `(n,)`.
        batch_size: Pictures of a share.
        shard: `(index, count)` of the pipelines.
        skip: Global batches to leave out at the start.
        drop_remainder: Whether to leave out what makes no global batch; else the first has it.
    """
    index, count = shard
    steps = len(order) // (batch_size * count)
    whole, rest = np.split(order, [steps * batch_size * count])
    own = whole.reshape(steps, count, batch_size)[skip:, index].reshape(-1)
    return own if drop_remainder or index else np.concatenate([own, rest])


def of_training(stream, settings, image_size, batch_size, draw, drop_remainder=True):
    """Crops, changes and mixes pictures.

    Args:
        stream: `tf.data.Dataset` of (index, picture, labels `(classes,)`).
        settings: An `Augment`.
        image_size: Side in pixels.
        batch_size: Pictures a batch.
        draw: A `Draw`; with it and its index a picture is always changed alike.
        drop_remainder: Whether to leave out an incomplete last batch.

    Returns:
        A `tf.data.Dataset` of images uint8 `(batch, size, size, 3)` and labels float32.
    """
    seed, epoch = draw.seed & 0x7FFFFFFF, draw.epoch
    key = _int32(seed * 1000003 + epoch)
    mix_key = _int32((seed ^ 0x5DEECE6) + 7919 * draw.index), _int32(epoch * 1000003)

    @plainly
    def picture(i, raw, target):
        own_seed = tf.stack([key, tf.cast(i, tf.int32)])
        crop_seed, change_seed = tf.unstack(tf.random.split(own_seed, 2))
        image = _part(raw, lambda shape: augment.crop_box(shape, settings.crop_area, crop_seed))
        image = to_uint8(resized(image, image_size))
        image = augment.augment_image(image, settings, change_seed)
        image.set_shape((image_size, image_size, 3))
        return image, target

    @plainly
    def mix(step, batch):
        mix_seed = tf.stack([mix_key[0], mix_key[1] + tf.cast(step, tf.int32)])
        return augment.mix(*batch, settings, mix_seed)

    batches = stream.map(picture, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.batch(batch_size, drop_remainder=drop_remainder)
    if settings.mixup or settings.cutmix:
        batches = batches.enumerate(draw.skip).map(mix, num_parallel_calls=tf.data.AUTOTUNE)
    return _deterministic(batches).prefetch(2)


def check_evaluation(image_size, batch_size, crop, resize):
    """Refuses what no batches of evaluation have."""
    check_number("`image_size`", image_size, 1, whole=True)
    check_number("`batch_size`", batch_size, 1, whole=True)
    photos.check_geometry(crop, resize)


def of_evaluation(stream, image_size, batch_size, crop, resize):
    """Cuts and resizes pictures as `photos.prepare` does.

    Args:
        stream: `tf.data.Dataset` of ((index, picture, labels), mask).
        image_size: Side in pixels.
        batch_size: Pictures a batch.
        crop: As in `photos.prepare`.
        resize: As in `photos.prepare`.

    Returns:
        A `tf.data.Dataset` of images float32 `(batch, size, size, 3)`, labels and masks.
    """

    def box(shape):
        if crop != "automl":
            return tf.stack([0, 0, shape[0], shape[1]])
        side = tf.cast(tf.reduce_min(shape[:2]), tf.float64) * (image_size / (image_size + 32))
        side = tf.maximum(tf.cast(side, tf.int32), 1)
        return tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])

    @plainly
    def picture(labelled, mask):
        _, raw, target = labelled
        image = resized(_part(raw, box), image_size, resize, crop)
        image.set_shape((image_size, image_size, 3))
        return image, target, mask

    batches = stream.map(picture, num_parallel_calls=tf.data.AUTOTUNE)
    return _deterministic(batches.batch(batch_size, drop_remainder=True)).prefetch(2)


def typical_side(stream):
    """The median of the shorter sides of the pictures of a stream as `of_training` takes, pixels."""
    sides = []
    for _, raw, _ in stream:
        image = raw if raw.dtype == tf.uint8 else photos.read_image(raw.numpy())
        sides.append(min(image.shape[:2]))
    return int(np.median(sides))


def _part(raw, box):
    """A part of a picture: of an array, or of a file that is to be decoded."""
    return cut(raw, box(tf.shape(raw))) if raw.dtype == tf.uint8 else decode(raw, box)


def _int32(number):
    """The lowest 32 bits: seeds are 32 bits wide, and many epochs of a large seed are more."""
    return tf.constant((number + 2**31) % 2**32 - 2**31, tf.int32)


def _deterministic(dataset):
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
