"""Pictures that nobody has looked at before they are read: what reading shows of them."""

import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2.data.damage import is_usable, read_or_none

_IN_A_ROW = 100  # damaged pictures: what is wrong then is not a picture


class Inspection:
    """What is known of numbered pictures; each is examined when it is read for the first time.

    A damaged one is named, and the next whole one stands in for it.

    Args:
        count: How many pictures there are.
        name: Function from a number to the name of a picture.

    Attributes:
        whole: Which pictures are known to be whole, bool array `(count,)`.
        damaged: Numbers of those that are not.
    """

    def __init__(self, count, name):
        self.whole, self.damaged, self._name = np.zeros(count, bool), set(), name

    def first_whole(self, order, position, read):
        """Reads the first whole picture of those from a position on, the last followed by the first.

        Args:
            order: Numbers of pictures, int array `(n,)`.
            position: Where in it to begin.
            read: Function from a number to `(what is wanted of it, the bytes of the picture)`.

        Returns:
            What is wanted of it.

        Raises:
            ValueError: If a hundred in a row, or all, are damaged.
        """
        following = order[(position + np.arange(min(_IN_A_ROW, len(order)))) % len(order)]
        for number in map(int, following):
            found, content = read(number)
            if content and self.whole[number]:
                return found
            if is_usable(content):
                self.whole[number] = True
                return found
            if number not in self.damaged:
                self.damaged.add(number)
                logging.warning("%s is damaged; the next stands in for it.", self._name(number))
        raise ValueError(
            f"{len(following)} pictures in a row are damaged, the last is {self._name(number)}. "
            "Write the set again."
        )

    def damaged_of(self, numbers):
        """Names of those of some pictures that were found to be damaged."""
        return tuple(map(self._name, np.intersect1d(sorted(self.damaged), numbers).astype(int)))


def read_inspecting(inspection, files, target, order):
    """Reads files in the given order, and examines each when it is read for the first time.

    Args:
        inspection: Their `Inspection`.
        files: Paths.
        target: Function from an index to the labels of a picture, float32 `(classes,)`.
        order: Indices, int array.

    Returns:
        A `tf.data.Dataset` of index, content and labels.
    """
    everything, classes = np.arange(len(files)), target(0).shape

    def read(number):
        content = read_or_none(files[number])
        return (content, number), content

    def fetch(position):
        content, number = inspection.first_whole(everything, int(position), read)
        return np.array(content, object), target(number)

    def read_one(position):
        raw, label = tf.numpy_function(fetch, [position], (tf.string, tf.float32), stateful=False)
        raw.set_shape(())
        label.set_shape(classes)
        return position, raw, label

    return tf.data.Dataset.from_tensor_slices(order).map(read_one, tf.data.AUTOTUNE)
