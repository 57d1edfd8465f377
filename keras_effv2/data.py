"""Pictures with labels, as batches at a given size: digits, folders, TFDS.

A `Data` has up to three disjoint `Split`s. A split makes `tf.data` pipelines: training batches in an
order that depends on (seed, epoch) alone, so that any step can be resumed without decoding what
came before, and evaluation batches in which every picture counts once.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import json
import os
import tempfile

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from keras_effv2 import augment as augmentation
from keras_effv2 import imagenet, weights
from keras_effv2.files import unpack, write_whole

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
DIGITS_SIZE = 8

# Above this many files contents are not hashed, and what is damaged is remembered.
MANY = 100_000
IN_MEMORY = 4 * 2**30  # bytes of a TFDS split that is read at once


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: What `load` was given.
        class_names: Names of the classes, in the order of the labels.
        train: Training split; None for sets of TFDS that have none.
        validation: Split that may stop the training, or None.
        test: Split that is looked at once, or None.
    """

    name: str
    class_names: tuple[str, ...]
    train: "Split | None"
    validation: "Split | None" = None
    test: "Split | None" = None


def load(spec, *, validation=0.1, seed=0, strict=False):
    """Loads a data set by its description.

    Args:
        spec: `"digits"`: scikit-learn's 1,797 handwritten digits, embedded. `"folder:PATH"` (or
            just a path): class sub-folders, directly or under `train`, `validation` (or `val`) and
            `test`. `"tfds:NAME"`: a TFDS image classification set that is prepared on this machine.
            `"cars:PATH"`: a folder with Stanford Cars' `car_ims.tgz` and `cars_annos.mat`.
        validation: Part of the training pictures, in [0, 0.5), split off where no split is given:
            for a folder of classes, or of `train` alone, once for `validation` and once for `test`;
            with `train` and `val` only, a part of `train` becomes `validation` and `val` becomes
            `test`. With 0 nothing is split off: `train` has all that belongs to no other split.
        seed: Seed of the split.
        strict: Whether a damaged picture is an error; otherwise it is skipped and named.

    Returns:
        A `Data`.

    Raises:
        ValueError: If the description is unknown or the pictures cannot be used; says why.
        FileNotFoundError: If the folder does not exist.

    Example:

    >>> load("digits").class_names[:3]
    ('0', '1', '2')
    """
    if not 0 <= validation < 0.5:
        raise ValueError(f"`validation` is a part in [0, 0.5). Received: {validation}.")
    kind, _, rest = str(spec).partition(":")
    if spec == "digits":
        return _digits(validation, seed)
    if kind == "tfds" and rest:
        return _tfds(rest, validation, seed)
    if kind == "cars" and rest:
        return _cars(rest, validation, seed, strict)
    path = rest if kind == "folder" else str(spec)
    if path and (kind == "folder" or tf.io.gfile.isdir(path)):
        try:
            return _folder(path, validation, seed, strict)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} has a name that is not UTF-8: {error.object!r}. Rename it; convmv does so "
                "for whole folders."
            ) from None
    raise ValueError(
        f"No data set {spec!r}: give 'digits', 'folder:PATH' (an existing folder with one "
        "sub-folder a class), 'tfds:NAME' or 'cars:PATH'."
    )


class Split:
    """Labelled pictures.

    Args:
        class_names: Names of the classes.
        labels: int array `(n,)`.
        pictures: uint8 array `(n, h, w, 3)`, or a list of n file names.
        skipped: Names of files that were left out because they are damaged.
    """

    def __init__(self, class_names, labels, pictures, skipped=()):
        self.class_names = tuple(class_names)
        self.labels = np.asarray(labels, "int64")
        self.pictures = pictures if isinstance(pictures, np.ndarray) else list(pictures)
        self.skipped = tuple(skipped)

    def __len__(self):
        return len(self.labels)

    def steps(self, batch_size):
        """Training batches an epoch; the remainder is left to other epochs' orders."""
        if batch_size > len(self):
            raise ValueError(
                f"A batch of {batch_size} is larger than the training split of {len(self)} "
                f"pictures. Choose a batch size of at most {len(self)}."
            )
        return len(self) // batch_size

    def select(self, indices):
        """The split of some of the pictures."""
        if isinstance(self.pictures, np.ndarray):
            pictures = self.pictures[indices]
        else:
            pictures = [self.pictures[i] for i in indices]
        return Split(self.class_names, self.labels[indices], pictures, self.skipped)

    def order(self, seed, epoch):
        """The order of an epoch: a permutation that depends on seed and epoch alone."""
        return np.random.default_rng((seed, epoch)).permutation(len(self))

    def train_batches(
        self,
        *,
        image_size,
        batch_size,
        seed=0,
        epoch=0,
        skip=0,
        augment=None,
        shard=(0, 1),
        drop_remainder=True,
    ):
        """Makes one epoch of training batches.

        Args:
            image_size: Side in pixels; pictures are decoded, cropped and changed at this size.
            batch_size: Pictures a batch of this pipeline.
            seed: Seed of order and changes.
            epoch: Number of the epoch.
            skip: Batches to leave out at the start; they are not decoded.
            augment: An `Augment`, default `Augment()`.
            shard: `(index, count)`: this pipeline's part of global batches of
                `count * batch_size` pictures; which pictures a global batch has does not depend on
                `count`. Mixup and CutMix mix within a part.
            drop_remainder: Whether to leave out an incomplete last batch.

        Returns:
            A `tf.data.Dataset` of images uint8 `(batch, size, size, 3)` and labels float32
            `(batch, classes)`.
        """
        settings = augment or augmentation.Augment()
        index, count = shard
        order = self.order(seed, epoch)
        whole = batch_size * count
        steps = len(order) // whole
        own = order[: steps * whole].reshape(steps, count, batch_size)[skip:, index].reshape(-1)
        if not drop_remainder and index == 0:
            own = np.concatenate([own, order[steps * whole :]])
        seed = seed & 0x7FFFFFFF
        key = _int32(seed * 1000003 + epoch)
        mix_key = _int32((seed ^ 0x5DEECE6) + 7919 * index), _int32(epoch * 1000003)

        def picture(i, raw, target):
            own_seed = tf.stack([key, tf.cast(i, tf.int32)])
            crop_seed, change_seed = tf.unstack(tf.random.split(own_seed, 2))
            image = self._cropped(raw, image_size, settings.crop_area, crop_seed)
            image = augmentation.augment_image(image, settings, change_seed)
            image.set_shape((image_size, image_size, 3))
            return image, target

        def mix(step, batch):
            mix_seed = tf.stack([mix_key[0], mix_key[1] + tf.cast(step, tf.int32)])
            return augmentation.mix(*batch, settings, mix_seed)

        batches = self._raw(own).map(picture, num_parallel_calls=tf.data.AUTOTUNE)
        batches = batches.batch(batch_size, drop_remainder=drop_remainder)
        if settings.mixup or settings.cutmix:
            batches = batches.enumerate(skip).map(mix, num_parallel_calls=tf.data.AUTOTUNE)
        return _deterministic(batches).prefetch(2)

    def eval_batches(self, *, image_size, batch_size, crop="none", resize="bilinear", shard=(0, 1)):
        """Makes batches in which every picture occurs once; the last is filled up.

        Args:
            image_size: Side in pixels.
            batch_size: Pictures a batch of this pipeline.
            crop: As in `imagenet.prepare`.
            resize: As in `imagenet.prepare`.
            shard: `(index, count)`; all shards have the same number of batches.

        Returns:
            A `tf.data.Dataset` of images float32 `(batch, size, size, 3)`, labels float32
            `(batch, classes)` and a mask float32 `(batch,)`: 1 for pictures, 0 for the filling.
        """
        index, count = shard
        whole = batch_size * count
        order = np.arange(-(-len(self) // whole) * whole)
        order = order.reshape(-1, count, batch_size)[:, index].reshape(-1)
        mask = (order < len(self)).astype("float32")

        def picture(raw, mask):
            _, raw, target = raw
            image = self._evaluated(raw, image_size, crop, resize)
            image.set_shape((image_size, image_size, 3))
            return image, target, mask

        masks = tf.data.Dataset.from_tensor_slices(mask)
        pictures = tf.data.Dataset.zip(self._raw(np.minimum(order, len(self) - 1)), masks)
        batches = pictures.map(picture, num_parallel_calls=tf.data.AUTOTUNE)
        return _deterministic(batches.batch(batch_size, drop_remainder=True)).prefetch(2)

    def fingerprint(self):
        """A hash of the labels and of the pictures, files by their names; tells splits apart."""
        digest = hashlib.sha256(self.labels.tobytes())
        if isinstance(self.pictures, np.ndarray):
            digest.update(np.ascontiguousarray(self.pictures))
        else:
            digest.update("\0".join(map(os.path.basename, self.pictures)).encode())
        return digest.hexdigest()[:16]

    def typical_side(self, sample=64):
        """The median of the shorter sides of some pictures, in pixels."""
        order = np.linspace(0, len(self) - 1, min(sample, len(self))).astype("int64")
        sides = []
        for _, raw, _ in self._raw(order):
            image = raw if raw.dtype == tf.uint8 else imagenet.read_image(raw.numpy())
            sides.append(min(image.shape[:2]))
        return int(np.median(sides))

    @functools.cached_property
    def _tensor(self):
        """The pictures or their names, once for all pipelines, in the memory of the host."""
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(self.pictures)

    def _raw(self, order):
        """Index, undecoded picture and one-hot label, in the given order."""
        stream = tf.data.Dataset.from_tensor_slices((order, self.labels[order]))
        pictures, classes = self._tensor, len(self.class_names)
        in_memory = isinstance(self.pictures, np.ndarray)

        def read(i, label):
            raw = pictures[i] if in_memory else tf.io.read_file(pictures[i])
            return i, raw, tf.one_hot(label, classes)

        return stream.map(read, num_parallel_calls=None if in_memory else tf.data.AUTOTUNE)

    def _cropped(self, raw, image_size, area, seed):
        if raw.dtype == tf.uint8:
            box = augmentation.crop_box(tf.shape(raw), area, seed)
            image = raw[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        else:
            image = _decode(raw, lambda shape: augmentation.crop_box(shape, area, seed))
        return _to_uint8(_resize(image, image_size))

    def _evaluated(self, raw, image_size, crop, resize):
        def box(shape):
            if crop == "none":
                return tf.stack([0, 0, shape[0], shape[1]])
            side = tf.cast(tf.reduce_min(shape[:2]), tf.float64) * (image_size / (image_size + 32))
            side = tf.maximum(tf.cast(side, tf.int32), 1)
            return tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])

        if raw.dtype == tf.uint8:
            top, left, height, width = tf.unstack(box(tf.shape(raw)))
            image = raw[top : top + height, left : left + width]
        else:
            image = _decode(raw, box)
        return _resize(image, image_size, resize)


def _int32(number):
    """The lowest 32 bits: seeds are 32 bits wide, and many epochs of a large seed are more."""
    return tf.constant((number + 2**31) % 2**32 - 2**31, tf.int32)


def _deterministic(dataset):
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _decode(raw, box):
    """Decodes a part of a picture; of a plain JPEG, only that part."""

    def jpeg():
        part = box(tf.io.extract_jpeg_shape(raw))
        return tf.image.decode_and_crop_jpeg(raw, part, channels=3)

    def other():
        image = tf.numpy_function(_read, [raw], tf.uint8, stateful=False)
        image.set_shape((None, None, 3))
        top, left, height, width = tf.unstack(box(tf.shape(image)))
        return image[top : top + height, left : left + width]

    return tf.cond(_is_plain_jpeg(raw), jpeg, other)


def _read(raw):
    return imagenet.read_image(raw)


def _is_plain_jpeg(raw):
    """Whether TensorFlow reads it as people see it: a JPEG, not CMYK and not to be rotated."""
    # No Exif block: no rotation. Exif is not parsed here; such photos take the other way.
    # \C is any byte: a dot is a character of UTF-8, which the bytes of a picture are not.
    marked = tf.strings.regex_full_match(tf.strings.substr(raw, 0, 4096), r"\C*(Exif\x00|Adobe)\C*")
    return tf.io.is_jpeg(raw) & ~marked


def _resize(image, image_size, method="bilinear"):
    """To a square, float32, without antialiasing, as the papers' pictures were."""
    size = (image_size, image_size)
    if method == "bicubic":
        return tf.clip_by_value(
            tf.compat.v1.image.resize_bicubic(tf.cast(image, tf.float32)[None], size)[0], 0, 255
        )
    return tf.image.resize(image, size)


def _to_uint8(image):
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


# --------------------------------------------------------------------------------------- digits


def _digits(validation, seed):
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = np.repeat((digits.images * (255 / 16)).round().astype("uint8")[..., None], 3, -1)
    whole = Split([str(i) for i in range(10)], digits.target, pictures)
    if not validation:
        return Data("digits", whole.class_names, whole)
    train, held = _carve(whole, validation, seed)
    rest, test = _carve(train, validation / (1 - validation), seed + 1)
    return Data("digits", whole.class_names, rest, held, test)


def _carve(split, part, seed):
    """Splits off `part` of every class at random."""
    held = []
    for label in range(len(split.class_names)):
        own = np.flatnonzero(split.labels == label)
        count = min(max(1, round(part * len(own))), len(own) - 1)
        held.append(np.random.default_rng((seed, label)).permutation(own)[:count])
    held = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(len(split)), held)
    return split.select(rest), split.select(held)


# --------------------------------------------------------------------------------------- folder


def _folder(path, validation, seed, strict):
    """Class sub-folders, with or without split folders above them."""
    if not tf.io.gfile.isdir(path):
        raise FileNotFoundError(f"There is no folder {path}. Check the path.")
    below = sorted(_folders(path))
    found = {}
    for name in below:
        split = _split_called(name)
        if split and _has_folders(tf.io.gfile.join(path, name)):
            if split in found:
                raise ValueError(
                    f"{path} has two folders for one split, {found[split]!r} and {name!r}. Leave "
                    "one of them."
                )
            found[split] = name
    rest = [name for name in below if name not in found.values()]
    if "train" not in found:
        flat = [name for name in rest if _split_called(name)]
        if flat and len(flat) + len(found) == len(below):
            raise ValueError(
                f"{path}/{flat[0]} has no class folders. Put its pictures into one folder a "
                f"class: {flat[0]}/CLASS/picture.jpg."
            )
        if found:
            raise ValueError(
                f"{path} has a folder {min(found.values())!r}, which looks like a split, but no "
                "folder 'train' with classes. Name the splits train, val and test, each with one "
                "sub-folder a class; or give the folder that holds the classes."
            )
    elif rest:
        logging.warning(
            "%s: %s are no splits with class folders and are ignored.", path, ", ".join(rest)
        )
    # what is not given is split off
    least = 1 + len({"validation", "test"} - set(found)) if validation else 1
    folder = tf.io.gfile.join(path, found["train"]) if "train" in found else path
    splits = {"train": _read_classes(folder, None, strict, least)}
    names = splits["train"].class_names
    for split in ("validation", "test"):
        if split in found:
            folder = tf.io.gfile.join(path, found[split])
            splits[split] = _read_classes(folder, names, strict, least=1)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")  # looked at once, so it must not stop training
    identify = _identity(path, splits.values())
    part = validation
    for offset, split in enumerate(("validation", "test")):
        if split not in splits and validation:
            splits["train"], splits[split] = _carve_files(
                splits["train"], part, seed + offset, identify
            )
            part = validation / (1 - validation)
    if found:
        _warn_of_duplicates(splits, identify)
    return Data(f"folder:{path}", names, **splits)


def _split_called(name):
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def _identity(root, splits):
    """The function that tells whether files are the same picture."""
    if sum(map(len, splits)) > MANY:
        return _name_below(root)
    return functools.cache(_content_of)


def _read_classes(path, class_names, strict, least):
    """One split: `path/CLASS/picture`, at least so many pictures a class."""
    classes = sorted(_folders(path))
    if class_names is not None and set(classes) != set(class_names):
        raise ValueError(
            f"{path} has other classes than the training split: missing "
            f"{sorted(set(class_names) - set(classes)) or 'none'}, unexpected "
            f"{sorted(set(classes) - set(class_names)) or 'none'}. Give every split the same "
            "class folders."
        )
    if class_names is None and len(classes) < 2:
        raise ValueError(
            f"{path} has {len(classes)} class folder(s) ({', '.join(classes) or 'none'}); a "
            "classifier needs at least two: PATH/CLASS/picture.jpg."
        )
    class_names = class_names or tuple(classes)
    folders = [tf.io.gfile.join(path, name) for name in class_names]
    found = [_pictures_below(folder) for folder in folders]
    damaged = _damaged([file for own, _ in found for file in own])
    files, labels, skipped = [], [], []
    for label, (folder, (own, ignored)) in enumerate(zip(folders, found, strict=True)):
        good = [file for file in own if file not in damaged]
        bad = [file for file in own if file in damaged]
        if bad and strict:
            raise ValueError(
                f"{bad[0]} is damaged, unreadable or too large. Remove it, or leave out `strict`."
            )
        if len(good) < least:
            raise ValueError(
                f"The class folder {folder} has {len(good)} usable picture(s) ({len(bad)} damaged, "
                f"unreadable or too large, {ignored} with other extensions than "
                f"{', '.join(EXTENSIONS)}); a class needs at least {least} here."
            )
        if ignored:
            logging.warning(
                "%d files in %s are no pictures by their extensions and are ignored.",
                ignored,
                folder,
            )
        skipped += bad
        files += good
        labels += [label] * len(good)
    if skipped:
        logging.warning(
            "%d damaged, unreadable or too large pictures are left out: %s%s",
            len(skipped),
            ", ".join(skipped[:3]),
            " ..." if len(skipped) > 3 else "",
        )
    return Split(class_names, labels, files, skipped)


def _folders(path):
    """Yields the names of the folders in a folder that may be classes."""
    for name in tf.io.gfile.listdir(path):
        name = name.rstrip("/")
        is_folder = not name.startswith(".") and tf.io.gfile.isdir(tf.io.gfile.join(path, name))
        if is_folder and not _leads_back(path, name):
            yield name


def _has_folders(path):
    return tf.io.gfile.isdir(path) and any(True for _ in _folders(path))


def _leads_back(path, name):
    """Whether a folder is a link to a folder that it lies in."""
    target = os.path.realpath(os.path.join(path, name))
    return os.path.commonpath([target, os.path.realpath(path)]) == target


def _pictures_below(folder):
    """Sorted picture files in a folder and below, without linked folders, and the rest's count."""
    files, ignored = [], 0
    for parent, folders, names in tf.io.gfile.walk(folder):
        # links may lead in circles, or to pictures of another class
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not os.path.islink(os.path.join(parent, name))
        ]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                files.append(tf.io.gfile.join(parent, name))
            else:
                ignored += 1
    return sorted(files), ignored


def _damaged(files):
    """Those of the files that cannot be used as pictures; of very many, found once and kept."""
    with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as threads:
        if len(files) <= MANY:
            return _unusable(files, threads)
        kept = weights.home() / "checked" / f"{_state_of(files, threads)}.json"
        if kept.exists():  # those that were damaged, which may have been a passing trouble
            return _unusable(json.loads(kept.read_text(encoding="utf-8")), threads)
        logging.info("Reading %d pictures once; which are damaged is kept in %s.", len(files), kept)
        damaged = _unusable(files, threads)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(sorted(damaged)))
    except OSError as error:
        logging.warning("Which pictures are damaged cannot be kept: %s", error)
    return damaged


def _unusable(files, threads):
    checks = _each(_is_whole, files, threads)
    bar = tqdm.tqdm(checks, "checking pictures", len(files), delay=5, disable=None)
    return {file for file, good in bar if not good}


def _state_of(files, threads):
    """A hash that changes when a file does."""
    digest = hashlib.sha256()
    for file, state in _each(_stat, files, threads):
        digest.update(f"{file}\0{state}\0".encode())
    return digest.hexdigest()[:32]


def _each(function, files, threads):
    """Yields the files, each with the function's answer; handed out in parts, to save memory."""
    for start in range(0, len(files), 1000):
        part = files[start : start + 1000]
        yield from zip(part, threads.map(function, part), strict=True)


def _stat(file):
    try:
        state = tf.io.gfile.stat(file)
        return state.length, state.mtime_nsec
    except tf.errors.OpError:  # a link to nowhere
        return None


def _is_whole(path):
    """Whether a picture can be read to its end; at an eighth of its size where JPEG allows."""
    from PIL import Image

    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = io.BytesIO(file.read())  # Pillow seeks past the end, which GFile refuses
        with imagenet.open_picture(content) as image:
            if image.width * image.height > imagenet.MAX_PIXELS:
                return False
            image.draft("RGB", (32, 32))
            image.load()
        return True
    except (*imagenet.DAMAGE, ValueError, Image.DecompressionBombError):
        return False
    except tf.errors.OpError:  # no right to read it, or a link to nowhere
        return False


def _content_of(file):
    """Tells equal pictures, wherever they lie."""
    with tf.io.gfile.GFile(file, "rb") as content:
        return hashlib.sha256(content.read()).hexdigest()


def _name_below(root):
    """Tells pictures by their names, for too many to be read; wherever `root` is mounted."""
    return lambda file: hashlib.sha256(file.removeprefix(root).lstrip("/").encode()).hexdigest()


def _carve_files(split, part, seed, identify):
    """Splits off `part` of every class; files of one identity stay together."""
    digests = [hashlib.sha256(f"{seed}{identify(f)}".encode()).hexdigest() for f in split.pictures]
    distinct, pictures = np.unique(np.array(digests, "S64"), return_inverse=True)
    held = np.zeros(len(distinct), bool)
    order = np.argsort(split.labels, kind="stable")
    ends = np.searchsorted(split.labels[order], np.arange(1, len(split.class_names)))
    classes = [pictures[own] for own in np.split(order, ends)]
    for own in map(np.unique, classes):
        count = min(max(1, round(part * len(own))), len(own) - 1)
        free = own[~held[own]]
        more = count - (len(own) - len(free))  # copies in other classes may be held already
        held[free[: max(0, more)]] = True
    for own, name in zip(classes, split.class_names, strict=True):
        if held[own].all() or not held[own].any():
            raise ValueError(
                f"Class {name!r} has too few different pictures to hold some out; copies stay "
                "together. Add pictures."
            )
    held = held[pictures]
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def _warn_of_duplicates(splits, identify):
    seen = {}
    for name, split in splits.items():
        for file in split.pictures:
            other = seen.setdefault(identify(file), (name, file))
            if other[0] != name:
                logging.warning(
                    "%s (%s) and %s (%s) are the same picture: results on it mean little.",
                    file,
                    name,
                    other[1],
                    other[0],
                )


# ----------------------------------------------------------------------------------------- cars


def _cars(path, validation, seed, strict):
    """Stanford Cars (Krause et al. 2013) from its two files; its own split, a part of train held out."""
    from scipy.io import loadmat

    table, archive, pictures = (
        os.path.join(path, name) for name in ("cars_annos.mat", "car_ims.tgz", "car_ims")
    )
    if not os.path.exists(table) or not (os.path.isdir(pictures) or os.path.exists(archive)):
        raise FileNotFoundError(
            f"{path} lacks cars_annos.mat, or car_ims.tgz (or the folder car_ims). Put both files "
            "of Stanford Cars there; their official address is dead, mirrors have them."
        )
    if not os.path.isdir(pictures):
        logging.info("Unpacking %s.", archive)
        with tempfile.TemporaryDirectory(dir=path) as work:  # all of it or nothing
            unpack(archive, work)
            os.replace(os.path.join(work, "car_ims"), pictures)
    table = loadmat(table, squeeze_me=True)
    names = tuple(str(name) for name in table["class_names"])
    splits = {}
    for part, flag in (("train", 0), ("test", 1)):
        rows = [row for row in table["annotations"] if int(row["test"]) == flag]
        files = [os.path.join(path, str(row["relative_im_path"])) for row in rows]
        damaged = _damaged(files)
        good = [i for i, file in enumerate(files) if file not in damaged]
        bad = sorted(damaged)
        if bad and strict:
            raise ValueError(f"{bad[0]} is damaged. Remove it, or leave out `strict`.")
        labels = [int(rows[i]["class"]) - 1 for i in good]
        splits[part] = Split(names, labels, [files[i] for i in good], bad)
    if validation:
        splits["train"], splits["validation"] = _carve_files(
            splits["train"], validation, seed, _content_of
        )
    return Data(f"cars:{path}", names, **splits)


# ----------------------------------------------------------------------------------------- TFDS


def _tfds(name, validation, seed):
    """A TFDS set that is prepared here: read into memory, or one by one from array_record files."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ImportError(
            f"tfds:{name} needs tensorflow_datasets: pip install 'keras_effv2[data]'."
        ) from None
    try:
        builder = tfds.builder(name, try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError:
        raise ValueError(f"TFDS has no data set {name!r}. See tfds.list_builders().") from None
    prepare = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}').download_and_prepare({{}})\""
    )
    if not tf.io.gfile.isdir(str(builder.data_dir)):
        advice = f"Prepare it once: {prepare.format('')}"
        if name.startswith("cars196"):
            advice = (
                "Its official download is gone: put your copies of car_ims.tgz and cars_annos.mat "
                "into a folder and use cars:PATH"
            )
        raise FileNotFoundError(f"tfds:{name} is not prepared in {builder.data_dir}. {advice}.")
    image, label, names = _tfds_features(name, builder.info.features, tfds)
    decoders = {image: tfds.decode.SkipDecoding()}

    def split(key):
        info = builder.info.splits[key]
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            return _Records(names, builder.as_data_source(key, decoders=decoders), image, label)
        if info.num_bytes > IN_MEMORY:
            raise ValueError(
                f"tfds:{name}/{key} has {info.num_bytes / 2**30:.0f} GiB, too much for the memory, "
                f"and is stored as {builder.info.file_format.value}, which cannot be read in any "
                f"order. Prepare it again: {prepare.format('file_format=' + repr('array_record'))}."
            )
        examples = builder.as_dataset(split=key, shuffle_files=False, decoders=decoders)
        return _Records(names, list(examples.as_numpy_iterator()), image, label)

    keys = {
        ours: next((k for k in theirs if k in builder.info.splits), None)
        for ours, theirs in SPLITS.items()
    }
    splits = {ours: split(key) for ours, key in keys.items() if key}
    splits = {ours: records for ours, records in splits.items() if records.is_labelled()}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    if not splits:
        raise ValueError(f"tfds:{name} has no split whose pictures have labels.")
    if "train" not in splits:
        return Data(f"tfds:{name}", names, None, test=splits.get("test"))
    if "test" not in splits and validation:
        splits["train"], splits["test"] = splits["train"].carve(validation, seed + 1)
    if "validation" not in splits and validation:
        splits["train"], splits["validation"] = splits["train"].carve(validation, seed)
    return Data(f"tfds:{name}", names, **splits)


def _tfds_features(name, features, tfds):
    """Names of the picture's and the label's feature, and the names of the classes."""
    image = next((k for k, v in features.items() if isinstance(v, tfds.features.Image)), None)
    for key, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence: several labels a picture
        if image is not None and isinstance(inner, tfds.features.ClassLabel):
            return image, key, tuple(inner.names)
    raise ValueError(
        f"tfds:{name} is not an image classification set: it has features {', '.join(features)}; "
        "wanted one image and class labels."
    )


class _Records(Split):
    """Pictures and labels that are fetched one by one; a picture may have several labels.

    Args:
        class_names: Names of the classes.
        source: Sequence of dictionaries.
        image: Key of the encoded picture.
        label: Key of the class or classes.
        indices: Which records of the source these are; None for all.
    """

    def __init__(self, class_names, source, image, label, indices=None):
        self.class_names, self.skipped = tuple(class_names), ()
        self.source, self.image, self.label = source, image, label
        self.indices = np.arange(len(source)) if indices is None else indices

    def __len__(self):
        return len(self.indices)

    def select(self, indices):
        own = self.indices[indices]
        return _Records(self.class_names, self.source, self.image, self.label, own)

    def carve(self, part, seed):
        """Splits off a part at random."""
        order = np.random.default_rng(seed).permutation(len(self))
        count = round(part * len(self))
        return self.select(np.sort(order[count:])), self.select(np.sort(order[:count]))

    def fingerprint(self):
        """A hash of which records of how many these are."""
        whole = f"{len(self.source)} {self.image} {self.label}".encode()
        return hashlib.sha256(whole + self.indices.tobytes()).hexdigest()[:16]

    def is_labelled(self):
        """Whether the pictures have labels: contests keep those of test splits, and write -1."""
        first = self.source[int(self.indices[0])][self.label]
        return bool((np.atleast_1d(first) >= 0).all())

    def _raw(self, order):
        def fetch(position):
            record = self.source[int(self.indices[position])]
            target = np.zeros(len(self.class_names), "float32")
            target[np.atleast_1d(record[self.label])] = 1.0
            return record[self.image], target

        def read(i):
            raw, target = tf.numpy_function(fetch, [i], (tf.string, tf.float32), stateful=False)
            raw.set_shape(())
            target.set_shape((len(self.class_names),))
            return i, raw, target

        stream = tf.data.Dataset.from_tensor_slices(order)
        return stream.map(read, num_parallel_calls=tf.data.AUTOTUNE)
