"""Stanford Cars from the two files that it was published as."""

import os
import tempfile

from absl import logging

from keras_effv2 import files
from keras_effv2.data.carving import carve_files, identity
from keras_effv2.data.damage import examine
from keras_effv2.data.split import Data, Split


def load_cars(path, validation, seed, strict):
    """Stanford Cars (Krause et al. 2013) from its two files; its own split, a part of train held out."""
    from scipy.io import loadmat

    files.local(path, "The folder of Stanford Cars", "Copy it here: its archive is unpacked there.")
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
            files.unpack(archive, work)
            os.replace(os.path.join(work, "car_ims"), pictures)
    table = loadmat(table, squeeze_me=True)
    names = tuple(str(name) for name in table["class_names"])
    splits = {}
    for part, flag in (("train", 0), ("test", 1)):
        rows = [row for row in table["annotations"] if int(row["test"]) == flag]
        photos = [os.path.join(path, str(row["relative_im_path"])) for row in rows]
        hashes = examine(photos, strict)
        good = [i for i, photo in enumerate(photos) if hashes[photo] is not None]
        bad = sorted(photo for photo in photos if hashes[photo] is None)
        if bad and strict:
            raise ValueError(f"{bad[0]} is damaged. Remove it, or leave out `strict`.")
        labels = [int(rows[i]["class"]) - 1 for i in good]
        whole = [photos[i] for i in good]
        splits[part] = Split(names, labels, whole, bad, hashes=[hashes[photo] for photo in whole])
    if validation:
        identify = identity(path, splits.values())
        splits["train"], splits["validation"] = carve_files(
            splits["train"], validation, seed, identify
        )
    return Data(f"cars:{path}", names, **splits)
