"""Random changes to training pictures, at a given strength, with stateless seeds.

Pictures are uint8 `(height, width, 3)`; every function is a pure function of its arguments, so a
picture's changes depend on (seed, epoch, index) alone and a resumed run sees the same pictures.
"""

import dataclasses
import functools

import numpy as np

from keras_effv2 import files, layers, needs
from keras_effv2.phases import of_pictures

with needs.naming("Augmentation"):
    import tensorflow as tf

GREY = 128  # what geometric operations uncover


@dataclasses.dataclass(frozen=True)
class Augment:
    """How training pictures are changed.

    Attributes:
        randaugment: Magnitude of RandAugment, 0 (off) to 30; an operation's range x magnitude / 10.
        mixup: Concentration of mixup's Beta distribution, 0 (off) or more.
        cutmix: As `mixup`, for CutMix. With both, half of a batch gets one and half the other.
        crop_area: Smallest and largest area of the random crop, as parts of the picture.
        flip: Whether to mirror half of the pictures.
        layers: Operations of RandAugment a picture.
        autoaugment: Whether a pair of operations of AutoAugment's policy is applied.
        erasing: Probability of overwriting a random box with noise.
        cutout: Half side of a grey square at a random place, as part of the image side; 0 is off.
    """

    randaugment: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_area: tuple[float, float] = (0.05, 1.0)
    flip: bool = True
    layers: int = 2
    autoaugment: bool = False
    erasing: float = 0.0
    cutout: float = 0.0

    def __post_init__(self):
        if not 0 <= self.randaugment <= 30:
            raise ValueError(f"`randaugment` is in 0..30. Received: {self.randaugment}.")
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError(
                f"`mixup` and `cutmix` are 0 or more. Received: {self.mixup}, {self.cutmix}."
            )
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"`crop_area` is (low, high) in (0, 1]. Received: {self.crop_area}.")


def crop_box(shape, area, seed):
    """The Inception crop: `(top, left, height, width)` of a random box of aspect 3/4 to 4/3.

    Source: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def augment_image(image, augment, seed):
    """Flip, RandAugment or AutoAugment, erasing and cutout of one picture: uint8 `(h, w, 3)`.

    Args:
        image: uint8 tensor.
        augment: An `Augment`.
        seed: Two integers.
    """
    seeds = tf.unstack(tf.random.split(seed, 5))
    if augment.flip:
        image = tf.image.stateless_random_flip_left_right(image, seeds[0])
    if augment.autoaugment:
        image = autoaugment(image, seeds[4])
    if augment.randaugment:
        image = randaugment(image, augment.randaugment, seeds[1], augment.layers)
    if augment.erasing:
        image = _erase(image, augment.erasing, seeds[2])
    if augment.cutout:
        image = cutout(image, augment.cutout, tf.random.stateless_uniform((2,), seeds[3]))
    return image


# ---------------------------------------------------------------------------------- RandAugment


def randaugment(image, magnitude, seed, layers=2):
    """Applies `layers` operations, drawn uniformly, each at the same magnitude.

    Ranges are those of the papers' code, at magnitude 10: rotation 30 degrees, shear 0.3,
    translation a third of the side, and so on. Unlike there, distances scale with the picture,
    and solarize and posterize end where their range ends instead of wrapping around.

    Source: Cubuk et al. 2019, https://arxiv.org/abs/1909.13719; google/automl `autoaugment.py`.

    Args:
        image: uint8 tensor `(height, width, 3)`.
        magnitude: 0..30.
        seed: Two integers.
        layers: How many operations.

    Returns:
        uint8 tensor `(height, width, 3)`.
    """
    change = _operation(magnitude)
    for draw in tf.unstack(tf.random.stateless_uniform((layers, 4), seed)):
        image = change(image, draw)
    return image


@functools.lru_cache(64)
def _operation(magnitude):
    """A function of a picture and four draws, traced once for all epochs of a magnitude."""

    @functools.partial(tf.function, autograph=False)
    def change(image, draw):
        which = tf.cast(draw[0] * len(OPERATIONS), tf.int32)
        sign = tf.where(draw[1] < 0.5, -1.0, 1.0)

        def branch(operation):
            return lambda: operation(image, magnitude, sign, draw[2:])

        changed = tf.switch_case(which, [branch(operation) for operation in OPERATIONS.values()])
        changed.set_shape(image.shape)
        return changed

    return change


def _look_up(image, table):
    """Maps every value by a table `(256,)`, or by one table a channel `(3, 256)`."""
    if table.shape.rank == 1:
        return tf.gather(table, tf.cast(image, tf.int32))
    index = tf.cast(image, tf.int32) + tf.constant([0, 256, 512])
    return tf.gather(tf.reshape(table, (-1,)), index)


def _table(values):
    return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)


_RAMP = np.arange(256, dtype="float32")


def _histogram(image):
    flat = tf.cast(tf.reshape(image, (-1, 3)), tf.int32) + tf.constant([0, 256, 512])
    counts = tf.math.bincount(tf.reshape(flat, (-1,)), minlength=768, maxlength=768)
    return tf.reshape(counts, (3, 256))


def autocontrast(image):
    """Stretches every channel to 0..255."""
    flat = tf.reshape(image, (-1, 3))
    low = tf.cast(tf.reduce_min(flat, 0), tf.float32)[:, None]
    high = tf.cast(tf.reduce_max(flat, 0), tf.float32)[:, None]
    scale = tf.where(high > low, 255.0 / tf.maximum(high - low, 1.0), 1.0)
    offset = tf.where(high > low, low, 0.0)
    return _look_up(image, tf.cast(tf.clip_by_value((_RAMP - offset) * scale, 0, 255), tf.uint8))


def equalize(image):
    """Flattens every channel's histogram, as `PIL.ImageOps.equalize`."""
    counts = _histogram(image)
    last = tf.reduce_max(tf.where(counts > 0, tf.range(256)[None], -1), axis=1)
    step = (tf.reduce_sum(counts, 1) - tf.gather(counts, last, batch_dims=1)) // 255
    before = tf.cumsum(counts, axis=1, exclusive=True)
    table = (before + (step // 2)[:, None]) // tf.maximum(step, 1)[:, None]
    table = tf.where((step > 0)[:, None], tf.clip_by_value(table, 0, 255), tf.range(256)[None])
    return _look_up(image, tf.cast(table, tf.uint8))


def invert(image):
    """Negative."""
    return 255 - image


def posterize(image, bits):
    """Keeps the highest `bits` bits, 1..8."""
    mask = 256 - 2 ** (8 - int(np.clip(bits, 1, 8)))
    return tf.bitwise.bitwise_and(image, tf.constant(mask, tf.uint8))


def solarize(image, threshold):
    """Inverts values from `threshold` on; 256 changes nothing."""
    return _look_up(image, _table(np.where(_RAMP < threshold, _RAMP, 255 - _RAMP)))


def solarize_add(image, addition, threshold=128):
    """Adds to values below `threshold`."""
    return _look_up(image, _table(np.where(_RAMP < threshold, _RAMP + addition, _RAMP)))


def _grey(image):
    weights = tf.constant([0.299, 0.587, 0.114])
    return tf.tensordot(tf.cast(image, tf.float32), weights, 1)


def _blend(image, other, factor):
    other = tf.cast(other, tf.float32)
    blended = other + factor * (tf.cast(image, tf.float32) - other)
    return tf.cast(tf.clip_by_value(blended, 0, 255), tf.uint8)


def color(image, factor):
    """Blends with the grey picture: 0 is grey, 1 changes nothing."""
    return _blend(image, _grey(image)[..., None], factor)


def contrast(image, factor):
    """Blends with the mean grey: 1 changes nothing."""
    mean = tf.floor(tf.reduce_mean(_grey(image)) + 0.5)
    return _look_up(image, _table(mean + factor * (_RAMP - mean)))


def brightness(image, factor):
    """Blends with black: 1 changes nothing."""
    return _look_up(image, _table(factor * _RAMP))


def sharpness(image, factor):
    """Blends with a smoothed picture: 1 changes nothing."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], "float32") / 13
    kernel = np.tile(kernel[..., None, None], (1, 1, 3, 1))
    smooth = tf.nn.depthwise_conv2d(tf.cast(image, tf.float32)[None], kernel, [1] * 4, "VALID")[0]
    inner = _blend(image[1:-1, 1:-1], smooth, factor)
    top, bottom = image[:1], image[-1:]
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], 1)
    return tf.concat([top, middle, bottom], 0)


def _project(image, matrix):
    """Moves a picture by `[a0 a1 a2; b0 b1 b2]`, which maps output to input positions."""
    (moved,) = tf.unstack(
        tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=tf.concat([tf.stack(matrix), [0.0, 0.0]], 0)[None],
            output_shape=tf.shape(image)[:2],
            interpolation="NEAREST",
            fill_mode="CONSTANT",
            fill_value=float(GREY),
        )
    )
    return moved


def rotate(image, degrees):
    """Turns a picture about its centre."""
    angle = degrees * (np.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    height, width = (tf.cast(side, tf.float32) - 1 for side in tf.unstack(tf.shape(image)[:2]))
    dx = (width - (cosine * width - sine * height)) / 2
    dy = (height - (sine * width + cosine * height)) / 2
    return _project(image, [cosine, -sine, dx, sine, cosine, dy])


def shear(image, x, y):
    """Shears a picture: `x` columns a row, `y` rows a column."""
    return _project(image, [1.0, tf.convert_to_tensor(x), 0.0, tf.convert_to_tensor(y), 1.0, 0.0])


def translate(image, x, y):
    """Moves a picture by parts of its width and height."""
    height, width = (tf.cast(side, tf.float32) for side in tf.unstack(tf.shape(image)[:2]))
    return _project(image, [1.0, 0.0, -x * width, 0.0, 1.0, -y * height])


def cutout(image, part, place):
    """Lays a grey square over a picture.

    Args:
        image: uint8 tensor `(h, w, 3)`.
        part: Half of the square's side, as a part of the shorter side.
        place: Centre, two numbers in [0, 1).
    """
    shape = tf.shape(image)[:2]
    sides = tf.cast(shape, tf.float32)
    half = part * tf.reduce_min(sides)
    row, column = (place[i] * sides[i] for i in range(2))
    rows = tf.abs(tf.range(sides[0]) + 0.5 - row) < half
    columns = tf.abs(tf.range(sides[1]) + 0.5 - column) < half
    covered = (rows[:, None] & columns[None, :])[..., None]
    return tf.where(covered, tf.constant(GREY, tf.uint8), image)


def _factor(magnitude):
    return 0.18 * magnitude + 0.1


# name -> (image, magnitude, sign, place) -> image. Magnitudes are Python numbers.
OPERATIONS = {
    "autocontrast": lambda image, m, sign, place: autocontrast(image),
    "equalize": lambda image, m, sign, place: equalize(image),
    "invert": lambda image, m, sign, place: invert(image),
    "rotate": lambda image, m, sign, place: rotate(image, 3.0 * m * sign),
    # the papers' code keeps 4 bits at magnitude 10, and more at higher magnitudes
    "posterize": lambda image, m, sign, place: posterize(image, int(0.4 * m)),
    "solarize": lambda image, m, sign, place: solarize(image, min(256, int(25.6 * m))),
    "solarize_add": lambda image, m, sign, place: solarize_add(image, min(128, int(11 * m))),
    "color": lambda image, m, sign, place: color(image, _factor(m)),
    "contrast": lambda image, m, sign, place: contrast(image, _factor(m)),
    "brightness": lambda image, m, sign, place: brightness(image, _factor(m)),
    "sharpness": lambda image, m, sign, place: sharpness(image, _factor(m)),
    "shear_x": lambda image, m, sign, place: shear(image, 0.03 * m * sign, 0.0),
    "shear_y": lambda image, m, sign, place: shear(image, 0.0, 0.03 * m * sign),
    # 100 pixels at magnitude 10, for pictures of 300
    "translate_x": lambda image, m, sign, place: translate(image, m * sign / 30, 0.0),
    "translate_y": lambda image, m, sign, place: translate(image, 0.0, m * sign / 30),
    # 40 pixels either side at magnitude 10, for pictures of 300
    "cutout": lambda image, m, sign, place: cutout(image, 0.4 * m / 30, place),
}


# ---------------------------------------------------------------------------------- AutoAugment

# Pairs of (operation, probability, magnitude), the policy "v0" that EfficientNet and the small
# EfficientNetV2 were trained with: google/automl `autoaugment.py`.
# fmt: off
POLICY = (
    (("equalize", 0.8, 1), ("shear_y", 0.8, 4)),
    (("color", 0.4, 9), ("equalize", 0.6, 3)),
    (("color", 0.4, 1), ("rotate", 0.6, 8)),
    (("solarize", 0.8, 3), ("equalize", 0.4, 7)),
    (("solarize", 0.4, 2), ("solarize", 0.6, 2)),
    (("color", 0.2, 0), ("equalize", 0.8, 8)),
    (("equalize", 0.4, 8), ("solarize_add", 0.8, 3)),
    (("shear_x", 0.2, 9), ("rotate", 0.6, 8)),
    (("color", 0.6, 1), ("equalize", 1.0, 2)),
    (("invert", 0.4, 9), ("rotate", 0.6, 0)),
    (("equalize", 1.0, 9), ("shear_y", 0.6, 3)),
    (("color", 0.4, 7), ("equalize", 0.6, 0)),
    (("posterize", 0.4, 6), ("autocontrast", 0.4, 7)),
    (("solarize", 0.6, 8), ("color", 0.6, 9)),
    (("solarize", 0.2, 4), ("rotate", 0.8, 9)),
    (("rotate", 1.0, 7), ("translate_y", 0.8, 9)),
    (("shear_x", 0.0, 0), ("solarize", 0.8, 4)),
    (("shear_y", 0.8, 0), ("color", 0.6, 4)),
    (("color", 1.0, 0), ("rotate", 0.6, 2)),
    (("equalize", 0.8, 4), ("equalize", 0.0, 8)),
    (("equalize", 1.0, 4), ("autocontrast", 0.6, 2)),
    (("shear_y", 0.4, 7), ("solarize_add", 0.6, 7)),
    (("posterize", 0.8, 2), ("solarize", 0.6, 10)),
    (("solarize", 0.6, 8), ("equalize", 0.6, 1)),
    (("color", 0.8, 6), ("rotate", 0.4, 5)),
)
# fmt: on


def autoaugment(image, seed):
    """Applies one pair of `POLICY`, drawn uniformly, each operation with its probability.

    Source: Cubuk et al. 2018, https://arxiv.org/abs/1805.09501.

    Args:
        image: uint8 tensor `(height, width, 3)`.
        seed: Two integers.

    Returns:
        uint8 tensor `(height, width, 3)`.
    """
    draws = tf.random.stateless_uniform((9,), seed)
    which = tf.cast(draws[0] * len(POLICY), tf.int32)

    def branch(pair):
        def apply():
            changed = image
            for (name, probability, magnitude), own in zip(pair, (draws[1:5], draws[5:9])):
                sign = tf.where(own[1] < 0.5, -1.0, 1.0)
                changed = tf.where(
                    own[0] < probability,
                    OPERATIONS[name](changed, magnitude, sign, own[2:]),
                    changed,
                )
            return changed

        return apply

    changed = tf.switch_case(which, [branch(pair) for pair in POLICY])
    changed.set_shape(image.shape)
    return changed


def _erase(image, probability, seed):
    """Random erasing: a box of 2 to 33 per cent of the area becomes noise. arXiv 1708.04896."""
    seeds = tf.unstack(tf.random.split(seed, 2))
    draws = tf.random.stateless_uniform((5,), seeds[0])
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    area = (0.02 + 0.31 * draws[1]) * sides[0] * sides[1]
    aspect = tf.exp((2 * draws[2] - 1) * np.log(1 / 0.3))
    box = tf.minimum(tf.stack([tf.sqrt(area * aspect), tf.sqrt(area / aspect)]), sides)
    start = draws[3:] * (sides - box)
    inside = (
        _inside(tf.range(sides[0]), start[0], box[0])[:, None, None]
        & _inside(tf.range(sides[1]), start[1], box[1])[None, :, None]
    )
    noise = tf.random.stateless_uniform(tf.shape(image), seeds[1], 0, 256, tf.int32)
    erased = tf.where(inside, tf.cast(noise, tf.uint8), image)
    return tf.where(draws[0] < probability, erased, image)


def _inside(index, start, length):
    return (index >= tf.floor(start)) & (index < tf.floor(start) + tf.round(length))


# ------------------------------------------------------------------------------- mixing a batch


def mix(images, labels, augment, seed):
    """Mixup and CutMix of a batch with its own reverse.

    Args:
        images: uint8 `(batch, h, w, 3)`.
        labels: float32 `(batch, classes)`.
        augment: An `Augment`.
        seed: Two integers.

    Returns:
        Images and labels of the same shapes and types. Each label is mixed by the share of each
        picture's own pixels.

    Source: Zhang et al. 2017, https://arxiv.org/abs/1710.09412; Yun et al. 2019,
    https://arxiv.org/abs/1905.04899.
    """
    if not augment.mixup and not augment.cutmix:
        return images, labels
    seeds = tf.unstack(tf.random.split(seed, 2))
    if not augment.cutmix:
        return mixup(images, labels, augment.mixup, seeds[0])
    if not augment.mixup:
        return cutmix(images, labels, augment.cutmix, seeds[1])
    half = tf.shape(images)[0] // 2
    first = mixup(images[:half], labels[:half], augment.mixup, seeds[0])
    second = cutmix(images[half:], labels[half:], augment.cutmix, seeds[1])
    return tuple(tf.concat(parts, 0) for parts in zip(first, second, strict=True))


def _beta(count, concentration, seed):
    gammas = tf.random.stateless_gamma((2, count), seed, concentration)
    return gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-12)


def mixup(images, labels, concentration, seed):
    """Blends every picture with another; its own share is at least a half."""
    share = _beta(tf.shape(images)[0], concentration, seed)
    share = tf.maximum(share, 1 - share)
    own, other = tf.cast(images, tf.float32), tf.cast(tf.reverse(images, [0]), tf.float32)
    weight = share[:, None, None, None]
    mixed = tf.cast(tf.round(other + weight * (own - other)), images.dtype)
    return mixed, share[:, None] * labels + (1 - share[:, None]) * tf.reverse(labels, [0])


def cutmix(images, labels, concentration, seed):
    """Pastes a box of another picture into every picture."""
    count, height, width = tf.unstack(tf.shape(images)[:3])
    seeds = tf.unstack(tf.random.split(seed, 2))
    side = tf.sqrt(1 - _beta(count, concentration, seeds[0]))
    centre = tf.random.stateless_uniform((2, count), seeds[1])

    def covered(length, centre):
        length = tf.cast(length, tf.float32)
        low = tf.clip_by_value(tf.round((centre - side / 2) * length), 0, length)
        high = tf.clip_by_value(tf.round((centre + side / 2) * length), 0, length)
        index = tf.range(length)[None]
        return (index >= low[:, None]) & (index < high[:, None])

    pasted = covered(height, centre[0])[:, :, None] & covered(width, centre[1])[:, None, :]
    share = 1 - tf.reduce_mean(tf.cast(pasted, tf.float32), (1, 2))
    mixed = tf.where(pasted[..., None], tf.reverse(images, [0]), images)
    return mixed, share[:, None] * labels + (1 - share[:, None]) * tf.reverse(labels, [0])


# -------------------------------------------------------------------------------------- preview


@needs.naming("A preview")
def preview(split, phases, path, columns=8, seed=0, augment=None):
    """Writes a contact sheet: a row of augmented training pictures for every phase.

    Args:
        split: A training `Split` of `keras_effv2.data`.
        phases: `Phase` rows, as `ramp` makes them.
        path: PNG file to write, in a folder that exists or in a store.
        columns: Pictures a row, at most; a small split has fewer.
        seed: Seed of the changes.
        augment: An `Augment` of what the phases do not schedule, default `Augment()`.
    """
    from matplotlib.figure import Figure

    path = files.place(path, "The file of a preview")
    columns = min(columns, len(split))
    figure = Figure(figsize=(1.5 * columns, 1.75 * len(phases)), layout="constrained")
    axes = figure.subplots(len(phases), columns, squeeze=False)
    for row, phase in zip(axes, phases, strict=True):
        settings = dataclasses.replace(augment or Augment(), **of_pictures(phase))
        batches = split.train_batches(
            image_size=phase.image_size or layers.SIDE,
            batch_size=columns,
            seed=seed,
            epoch=0,
            augment=settings,
        )
        images, labels = next(iter(batches))
        for axis, image, label in zip(row, images.numpy(), labels.numpy(), strict=True):
            axis.imshow(image.astype("uint8"))
            axis.set_title(split.class_names[int(label.argmax())], fontsize=7)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(
            f"{phase.image_size} px\nrandaugment {settings.randaugment:.3g}\n"
            f"mixup {settings.mixup:.2g}, cutmix {settings.cutmix:.2g}",
            fontsize=7,
        )
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
