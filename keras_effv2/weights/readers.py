"""A checkpoint in any format that is known here becomes a dictionary of arrays."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import tempfile
import zipfile
import zlib

import numpy as np

from keras_effv2 import errors, needs, stores
from keras_effv2.files import expand, fetched, open_regular, place, unpack
from keras_effv2.weights import timm


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Arrays read from somewhere, and what is known of them.

    Attributes:
        tensors: Name -> array, named as `layout` says.
        layout: `"keras"`: `layer name/position`; `"indexed"`: `class name_index/position`;
            `"automl"`: the variable names of google/automl without the scope.
        origin: What to call it in messages.
        classes: Outputs of its head; None without head.
        pixels: The contract it was made for; None if the file does not say.
        activation: Activation its head was trained with; None if the file does not say.
        class_names: Names of its outputs, if known.
        use: `image_size`, `crop` and `resize` of its pictures, `temperature`, `unknown_below` and
            `thresholds` of its head, as far as the file says.
        built_for: Side in pixels that its tables of biases are for; None: the variant's own.
    """

    tensors: dict
    layout: str
    origin: str
    classes: int | None = None
    pixels: str | None = None
    activation: str | None = None
    class_names: tuple | None = None
    use: dict = dataclasses.field(default_factory=dict)
    built_for: int | None = None


def read(path):
    """Reads a checkpoint of any supported format, told apart by content.

    Args:
        path: A file, a folder or the prefix of a TF1 checkpoint; of a store (`gs://...`) a file or a
            folder, which is fetched to read it.

    Returns:
        A `Checkpoint`.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is damaged or of no known format.
    """
    path = expand(path)
    if stores.is_address(path):
        with fetched(place(path, "A weights file")) as copy:
            return dataclasses.replace(read(copy), origin=path)
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            return _read_saved_model(path)
        prefixes = sorted(pathlib.Path(path).rglob("*.index"))
        if len(prefixes) == 1:
            return _read_automl(str(prefixes[0])[: -len(".index")])
        raise ValueError(
            f"{path} is a folder without a SavedModel (saved_model.pb) and without exactly one "
            f"TF1 checkpoint (*.index; found {len(prefixes)})."
        )
    if os.path.exists(path + ".index"):
        return _read_automl(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no weights file {path}. Check the path.")
    with open_regular(path) as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        return _read_hdf5(path, os.path.getsize(path), path)
    if timm.is_pickle(path):
        raise ValueError(
            f"{path} is a pickle of PyTorch's. Reading one runs whatever code its author put there, "
            "so it is refused. Take the same weights as .safetensors, as timm publishes them."
        )
    if timm.is_safetensors(path):
        return _with_classes(Checkpoint(timm.read_safetensors(path), "keras", path))
    if start.startswith(b"PK"):
        return _read_keras_archive(path)
    if start.startswith(b"\x1f\x8b"):
        with tempfile.TemporaryDirectory() as folder:
            unpack(path, folder)
            return dataclasses.replace(read(folder), origin=path)
    raise ValueError(
        f"{path} ({os.path.getsize(path)} bytes) is no weights file that is known here: it is "
        "neither HDF5 (.h5), a .keras archive, a .safetensors, a .tgz nor a TF checkpoint. It may be "
        "cut off or a web page saved under that name."
    )


def _read_hdf5(file, size, origin):
    import h5py

    try:
        with h5py.File(file, "r") as root:
            _check_content(root, size, origin)
            if "layer_names" in root.attrs or "model_weights" in root:
                return _read_legacy(root.get("model_weights", root), origin)
            if "layers" in root:
                return _read_keras3(root["layers"], origin)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{origin} is a damaged HDF5 file ({error}). It may be cut off: get it again."
        ) from error
    raise ValueError(
        f"{origin} is an HDF5 file, but holds neither Keras 3 weights (a group `layers`) nor "
        "Keras 2 weights (an attribute `layer_names`)."
    )


_MOST_UNPACKED = 100  # times the size of the file; weights compress to half, zeros to a thousandth


def _check_content(root, size, origin):
    """Refuses links, circles and arrays far larger than their file, before any of it is read."""
    import h5py

    seen, declared, groups = set(), 0, [root]
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise ValueError(f"{origin} holds the group {group.name} twice; refused.")
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{origin} links to other data at {group.name}/{name}; refused.")
            child = group[name]
            if isinstance(child, h5py.Group):
                groups.append(child)
            elif child.external or child.is_virtual:
                raise ValueError(f"{origin} refers to other files at {child.name}; refused.")
            else:
                declared += child.nbytes
    if declared > _MOST_UNPACKED * size:
        raise ValueError(f"{origin} has {size} bytes and unpacks to {declared}; refused.")


def _read_legacy(root, origin):
    """Keras 2: one group a layer, its variables listed in an attribute."""

    def text(value):
        return value.decode() if isinstance(value, bytes) else value

    tensors = {}
    for layer in map(text, root.attrs["layer_names"]):
        for position, name in enumerate(map(text, root[layer].attrs.get("weight_names", ()))):
            tensors[f"{layer}/{position}"] = np.asarray(root[layer][name])
    # keras.applications' own normalisation; here it is a contract, not weights
    tensors = {k: v for k, v in tensors.items() if not k.startswith(("normalization", "rescaling"))}
    return _with_classes(Checkpoint(tensors, "keras", origin))


def _read_keras3(layers, origin):
    """Keras 3: groups by class name and running index; the layer's own name is an attribute."""
    tensors, contract, named = {}, {}, True
    for key, group in layers.items():
        variables = group.get("vars", {})
        if "contract" in variables:
            contract = json.loads(np.asarray(variables["contract"], np.uint8).tobytes())
            continue
        if not len(variables) or key.startswith(("normalization", "rescaling")):
            continue
        name = variables.attrs.get("name")
        named = named and name is not None
        for position in variables:
            tensors[(name, key, position)] = np.asarray(variables[position])
    tensors = {f"{name if named else key}/{i}": array for (name, key, i), array in tensors.items()}
    if named:  # a model that was built into another one, under a name of its own
        stems = (re.match(r"(.*)stem_conv1?/0", name) for name in tensors)
        prefix = next((stem[1] for stem in stems if stem), "")
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    checkpoint = Checkpoint(
        tensors,
        "keras" if named else "indexed",
        origin,
        pixels=contract.get("pixels"),
        activation=contract.get("activation"),
        class_names=tuple(contract["class_names"]) if contract.get("class_names") else None,
        use=_use(contract),
    )
    return _with_classes(checkpoint)


def _use(contract):
    from keras_effv2.layers.pixels import CONFIDENCE  # Keras, which the list of models goes without

    keys = ("image_size", "crop", "resize", *CONFIDENCE)
    return {key: contract[key] for key in keys if contract.get(key)}


def _read_keras_archive(path):
    """`.keras`: a zip whose `model.weights.h5` is all that is read; no code runs."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("model.weights.h5")
            too_large = info.file_size > _MOST_UNPACKED * max(1, info.compress_size)
            if too_large or info.file_size > 1 << 34:
                raise ValueError(f"{path} unpacks to {info.file_size} bytes; refused.")
            return _read_hdf5(io.BytesIO(archive.read(info)), info.file_size, path)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ValueError(
            f"{path} is not a whole .keras file ({error}). It may be cut off: get it again."
        ) from error


def _with_classes(checkpoint):
    """Reads the number of classes off the bias of the head."""
    head = checkpoint.tensors.get(_HEAD_BIAS[checkpoint.layout])
    return dataclasses.replace(checkpoint, classes=None if head is None else len(head))


_HEAD_BIAS = {"keras": "predictions/1", "indexed": "dense/1", "automl": "head/dense/bias"}


def _read_automl(prefix):
    """google/automl's TF1 checkpoints: variables by name, under one scope."""
    with needs.naming("Reading a checkpoint of TensorFlow's"):
        import tensorflow as tf

    with _naming_damage(f"{prefix} is a damaged TF checkpoint"):
        reader = tf.train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
        arrays = {name: reader.get_tensor(name) for name in names if _is_plain(name)}
    return _automl_checkpoint(arrays, prefix)


@contextlib.contextmanager
def _naming_damage(what):
    """Within the block: what TensorFlow's reader raises becomes one sentence."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{what} ({errors.first_line(error)}). Get it again.") from error


def _is_plain(name):
    """Leaves out averages, optimizer slots and counters; the plain names hold the averages."""
    leaf = name.rsplit("/", 1)[-1]
    return leaf in _AUTOML_LEAVES and "_CHECKPOINTABLE" not in name


BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


_AUTOML_LEAVES = ("kernel", "depthwise_kernel", "bias", *BATCH_NORM)


def _automl_checkpoint(arrays, origin):
    stems = [name for name in arrays if name.endswith("stem/conv2d/kernel")]
    if len(stems) != 1:
        raise ValueError(
            f"{origin} is no google/automl EfficientNetV2 checkpoint: it has {len(stems)} "
            "variables named */stem/conv2d/kernel instead of one."
        )
    scope = stems[0].removesuffix("stem/conv2d/kernel")
    tensors = {name.removeprefix(scope): array for name, array in arrays.items()}
    return _with_classes(Checkpoint(tensors, "automl", origin))


def _read_saved_model(path):
    """Ours, or TF Hub's: variables by the object graph, without running the graph."""
    from keras_effv2.model_files.runtimes import card_beside

    with needs.naming("Reading a SavedModel"):
        import tensorflow as tf
        from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    with _naming_damage(f"{path} is a damaged SavedModel"):
        reader = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
        graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        arrays = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
        card = card_beside(path)
    if not card:
        named = {
            attribute.full_name: arrays[attribute.checkpoint_key]
            for node in graph.nodes
            for attribute in node.attributes
            if attribute.name == "VARIABLE_VALUE" and _is_plain(attribute.full_name)
        }
        return _automl_checkpoint(named, path)
    if "variables" not in card:
        raise ValueError(
            f"{path} is an export for inference alone, whose weights are constants of its graph. Give "
            "the .keras file that it was made of, or its export for TF Hub."
        )
    children = {child.local_name: child.node_id for child in graph.nodes[0].children}
    listed = graph.nodes[children["variables"]].children
    nodes = {int(child.local_name): child.node_id for child in listed if child.local_name.isdigit()}
    tensors, positions = {}, {}
    for index, name in enumerate(card["variables"]):
        layer = name.rsplit("/", 1)[0]
        position = positions[layer] = positions.get(layer, -1) + 1
        key = graph.nodes[nodes[index]].attributes[0].checkpoint_key
        tensors[f"{layer}/{position}"] = arrays[key]
    return _with_classes(
        Checkpoint(
            tensors,
            "keras",
            path,
            pixels=card["pixels"],
            activation=card["activation"],
            class_names=tuple(card["class_names"]) if card["class_names"] else None,
            use=_use(card),
        )
    )
