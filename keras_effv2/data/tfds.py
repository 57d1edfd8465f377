"""Data sets of TensorFlow Datasets that are prepared on this machine."""

import tensorflow as tf

from keras_effv2 import needs
from keras_effv2.data.records import Records, splits_of
from keras_effv2.data.split import Data

IN_MEMORY = 4 * 2**30  # bytes of a TFDS split that is read at once


def load_tfds(name, validation, seed):
    """A TFDS set that is prepared here: read into memory, or one by one from array_record files."""
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
    image, label, names, several = _tfds_features(name, builder.info.features, tfds)
    decoders = {image: tfds.decode.SkipDecoding()}

    def split(key):
        info = builder.info.splits[key]
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            return Records(
                names, builder.as_data_source(key, decoders=decoders), image, label, several
            )
        if info.num_bytes > IN_MEMORY:
            raise ValueError(
                f"tfds:{name}/{key} has {info.num_bytes / 2**30:.0f} GiB, too much for the memory, "
                f"and is stored as {builder.info.file_format.value}, which cannot be read in any "
                f"order. Convert it once: tfds convert_format --dataset_version_dir="
                f"{builder.data_dir} --out_file_format=array_record --out_dir=NEW/"
                f"{builder.info.full_name}, and set TFDS_DATA_DIR=NEW."
            )
        examples = builder.as_dataset(split=key, shuffle_files=False, decoders=decoders)
        return Records(names, list(examples.as_numpy_iterator()), image, label, several)

    splits = splits_of(builder.info.splits, split, validation, seed)
    if not splits:
        raise ValueError(f"tfds:{name} has no split whose pictures have labels.")
    return Data(f"tfds:{name}", names, **{"train": None, **splits})


def _tfds_features(name, features, tfds):
    """The picture's feature, the label's, the names of the classes, whether a picture has several."""
    image = next((k for k, v in features.items() if isinstance(v, tfds.features.Image)), None)
    for key, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence: several labels a picture
        if image is not None and isinstance(inner, tfds.features.ClassLabel):
            return image, key, tuple(inner.names), inner is not feature
    raise ValueError(
        f"tfds:{name} is not an image classification set: it has features {', '.join(features)}; "
        "wanted one image and class labels."
    )
