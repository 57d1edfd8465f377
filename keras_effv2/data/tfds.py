"""Data sets of TensorFlow Datasets that are prepared on this machine."""

import os

import numpy as np
import tensorflow as tf

from keras_effv2 import needs
from keras_effv2.data import offsets
from keras_effv2.data.records import Records, columns_of, splits_of
from keras_effv2.data.shards import Examples, TFRecords
from keras_effv2.data.split import Data


def load_tfds(name, validation, seed):
    """A TFDS set that is prepared here, as TFRecord or ArrayRecord files, read by random access."""
    with needs.naming(f"tfds:{name}"):
        import tensorflow_datasets as tfds
    try:
        builder = tfds.builder(name, try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError:
        raise ValueError(f"TFDS has no data set {name!r}. See tfds.list_builders().") from None
    if not tf.io.gfile.isdir(str(builder.data_dir)):
        advice = (
            'Prepare it once: python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}').download_and_prepare()\""
        )
        if name.startswith("cars196"):
            advice = (
                "Its official download is gone: put your copies of car_ims.tgz and cars_annos.mat "
                "into a folder and use cars:PATH"
            )
        raise FileNotFoundError(f"tfds:{name} is not prepared in {builder.data_dir}. {advice}.")
    kinds = tfds.features.Image, tfds.features.ClassLabel
    image, label, names, several = columns_of(f"tfds:{name}", builder.info.features, *kinds)

    def split(key):
        source = Examples(_source(builder, key, tfds), image, label)
        return Records(names, source, image, label, several)

    splits = splits_of(builder.info.splits, split, validation, seed)
    if not splits:
        raise ValueError(f"tfds:{name} has no split whose pictures have labels.")
    return Data(f"tfds:{name}", names, **{"train": None, **splits})


def _source(builder, key, tfds):
    """The serialised examples of a split."""
    info, formats = builder.info.splits[key], tfds.core.FileFormat
    if builder.info.file_format == formats.ARRAY_RECORD:
        as_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(key, deserialize_method=as_bytes)
    if builder.info.file_format != formats.TFRECORD:
        raise ValueError(
            f"tfds:{builder.info.name} is stored as {builder.info.file_format.value}. Wanted: "
            f"tfrecord or array_record. Convert it: tfds convert_format --dataset_version_dir="
            f"{builder.data_dir} --out_file_format=array_record --out_dir=NEW/"
            f"{builder.info.full_name}, and set TFDS_DATA_DIR=NEW."
        )
    places = offsets.find([os.fspath(path) for path in info.filepaths], "tfrecord")
    cycle = 1 if builder.info.disable_shuffling else 16
    return TFRecords(info.filepaths, places, _order(places, cycle))


def _order(places, cycle):
    """The order in which TFDS gives the records, which it takes from several shards in turn."""
    ends = np.searchsorted(places.file, np.arange(places.file[-1] + 1), "right")
    starts = np.r_[0, ends[:-1]]
    shards = tf.data.Dataset.from_tensor_slices((starts, ends))
    order = shards.interleave(tf.data.Dataset.range, cycle, cycle)
    return np.concatenate([*order.batch(1 << 16).as_numpy_iterator()])
