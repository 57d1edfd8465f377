"""Pictures from bytes to squares, within a pipeline of TensorFlow: the pixels of `photos`."""

import tensorflow as tf

from keras_effv2 import photos

_MARGIN = 4  # pixels; halved colours are interpolated from the two next to them


def decode(raw, box):
    """Decodes a part of a picture; of a plain JPEG, only that part and what its edges need.

    Args:
        raw: The bytes of a file, a string tensor.
        box: Function from the shape of the whole to `(top, left, height, width)` in pixels.

    Returns:
        uint8 `(height, width, 3)`, the pixels that `photos.read_image` finds there.
    """

    def jpeg():
        shape = tf.io.extract_jpeg_shape(raw)
        part = box(shape)
        # colours are interpolated between blocks, at an edge from one side only
        first = tf.maximum(part[:2] - _MARGIN, 0)
        last = tf.minimum(part[:2] + part[2:] + _MARGIN, shape[:2])
        image = tf.image.decode_and_crop_jpeg(
            raw, tf.concat([first, last - first], 0), channels=3, dct_method="INTEGER_ACCURATE"
        )
        return cut(image, tf.concat([part[:2] - first, part[2:]], 0))

    def other():
        image = tf.numpy_function(photos.read_image, [raw], tf.uint8, stateful=False)
        image.set_shape((None, None, 3))
        return cut(image, box(tf.shape(image)))

    plain = tf.numpy_function(photos.is_plain_jpeg, [raw], tf.bool, stateful=False)
    return tf.cond(tf.reshape(plain, ()), jpeg, other)


def cut(image, box):
    """The part `(top, left, height, width)` of a picture."""
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]


def resized(image, image_size, method="bilinear", crop="none"):
    """To a square, float32; without antialiasing, as the papers' pictures were, but for Pillow's."""
    if method == "pillow-bicubic" or isinstance(crop, float):

        def prepare(image):
            return photos.prepare(image, image_size, crop, method)

        return tf.numpy_function(prepare, [image], tf.float32, stateful=False)
    size = (image_size, image_size)
    if method == "bicubic":
        image = tf.compat.v1.image.resize_bicubic(tf.cast(image, tf.float32)[None], size)[0]
        return tf.clip_by_value(image, 0, 255)
    return tf.image.resize(image, size)


def to_uint8(image):
    """Rounded to what a picture can hold."""
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
