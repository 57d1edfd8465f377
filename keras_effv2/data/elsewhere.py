"""Data sets that other libraries fetch and keep: Keras' own, Hugging Face's, Kaggle's."""

import contextlib
import dataclasses
import os

import keras

from keras_effv2 import errors, needs, weights
from keras_effv2.data.carving import carve_labels
from keras_effv2.data.folder import load_folder
from keras_effv2.data.records import Records, columns_of, splits_of
from keras_effv2.data.split import Data, Split
from keras_effv2.data.walking import LeftOut, find_folders, loose_pictures

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
KERAS = {"cifar10": CIFAR10.split(), "cifar100": CIFAR100.split()}


def load_keras(name, validation, seed):
    """A set that `keras.datasets` fetches, checks by its hash and keeps; with its own test split."""
    if name not in KERAS:
        raise ValueError(
            f"There is no keras:{name}. Sets: {', '.join(f'keras:{n}' for n in KERAS)}."
        )
    try:
        (pictures, labels), test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # of the network, or of a cache that another program left
        raise OSError(f"keras:{name} could not be fetched: {errors.first_line(error)}.") from error
    train = Split(KERAS[name], labels.reshape(-1), pictures)
    test = Split(KERAS[name], test[1].reshape(-1), test[0])
    if not validation:
        return Data(f"keras:{name}", train.class_names, train, test=test)
    return Data(f"keras:{name}", train.class_names, *carve_labels(train, validation, seed), test)


def load_hugging_face(name, validation, seed):
    """A set of the Hugging Face hub, or a folder that `datasets` reads: `NAME` or `NAME:CONFIG`."""
    with needs.naming(f"hf:{name}"):
        import datasets
    path, _, config = name.partition(":")
    try:
        with _from_caches(datasets) if weights.is_offline() else contextlib.nullcontext():
            found = datasets.load_dataset(path, config or None)
    except Exception as error:  # of any class: of the hub, the network, a cache
        raise OSError(f"hf:{name} could not be loaded: {errors.first_line(error)}.") from error
    features = next(iter(found.values())).features
    kinds = datasets.Image, datasets.ClassLabel
    image, label, names, several = columns_of(f"hf:{name}", features, *kinds)

    def split(key):
        return Records(names, _Rows(found[key], image, label, datasets), image, label, several)

    splits = splits_of(found, split, validation, seed)
    if "train" not in splits:
        raise ValueError(
            f"hf:{name} has no split 'train' with labels. Its splits: {', '.join(found)}."
        )
    return Data(f"hf:{name}", names, **splits)


@contextlib.contextmanager
def _from_caches(datasets):
    """Within the block `datasets` and the hub's library ask no network; afterwards they do as before.

    Both read HF_HUB_OFFLINE when they are imported: a variable set later says nothing to them, and
    one set earlier says it to the whole program.
    """
    from huggingface_hub import constants

    switches = (datasets.config, constants)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


class _Rows:
    """Rows of a set of `datasets` with their pictures as the bytes of files."""

    def __init__(self, rows, image, label, datasets):
        self.rows = rows.select_columns([image, label]).cast_column(
            image, datasets.Image(decode=False)
        )
        self.image = image

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        content = row[self.image]["bytes"]
        if content is None:
            with open(row[self.image]["path"], "rb") as file:
                content = file.read()
        return {**row, self.image: content}


def load_kaggle(handle, validation, seed, strict):
    """A data set of Kaggle, `OWNER/NAME` or `OWNER/NAME/versions/N`, that is a folder of classes."""
    with needs.naming(f"kaggle:{handle}"):
        import kagglehub
    try:
        with weights.kept_at_home("KAGGLEHUB_CACHE"):
            if weights.is_offline():
                _check_kept(handle, os.environ["KAGGLEHUB_CACHE"])
            path = os.fspath(kagglehub.dataset_download(handle))
    except Exception as error:  # whatever kagglehub raises today
        raise OSError(
            f"kaggle:{handle} could not be fetched: {errors.first_line(error)}."
        ) from error
    while len(below := find_folders(path, LeftOut())) == 1 and not loose_pictures(path):
        path = os.path.join(path, below[0])  # archives often hold one folder
    found = load_folder(path, validation, seed, strict)
    return dataclasses.replace(found, name=f"kaggle:{handle}")


def _check_kept(handle, cache):
    """Refuses what kagglehub would ask the network for."""
    owner, _, version = handle.partition("/versions/")
    if not os.path.exists(os.path.join(cache, "datasets", owner, f"{version}.complete")):
        raise OSError(
            f"KERAS_EFFV2_OFFLINE forbids the network and {cache} does not hold it. Name the version "
            "that is there: kaggle:OWNER/NAME/versions/N"
        )
