"""The table of released checkpoints, and a loader that loads everything or raises.

A checkpoint in any of five layouts becomes a dictionary of arrays; `assign` then finds, for every
layer of a model, the arrays that belong to it, and refuses if one is missing, left over or of
another shape. TensorFlow is imported only inside the functions that read its formats.
"""

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np
from absl import logging

# ---------------------------------------------------------------------------------------- table


@dataclasses.dataclass(frozen=True)
class Row:
    """One released checkpoint.

    Attributes:
        model: Name of the builder.
        tag: What `weights=` takes.
        classes: Outputs of its head.
        pixels: The pixel contract it was trained with.
        activation: Activation its head was trained with.
        url: Where it is.
        url_notop: The same without the head, where there is one.
        hash: `"md5:..."`, or None: no hash was published, the first download's is kept.
        hash_notop: As `hash`.
        top1: Published ImageNet-1k accuracy in per cent, or None.
        source: Who released it.
    """

    model: str
    tag: str
    classes: int
    pixels: str
    activation: str
    url: str
    hash: str | None = None
    url_notop: str | None = None
    hash_notop: str | None = None
    top1: float | None = None
    source: str = "google/automl, Apache-2.0"


STORAGE = "https://storage.googleapis.com/"
_KERAS = STORAGE + "tensorflow/keras-applications/efficientnet_v2/efficientnetv2-"
_AUTOML = STORAGE + "cloud-tpu-checkpoints/efficientnet/v2/efficientnetv2-"

# fmt: off
_MD5 = {  # keras/src/applications/efficientnet_v2.py: with top, without
    "b0": ("21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff"),
    "b1": ("069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37"),
    "b2": ("424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "b3": ("1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856"),
    "s": ("e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070"),
    "m": ("a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342"),
    "l": ("27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615"),
}
# google/automl README: trained on ImageNet-1k; pretrained on 21k, fine-tuned on 1k
_TOP1 = {"b0": 78.7, "b1": 79.8, "b2": 80.5, "b3": 82.1, "s": 83.9, "m": 85.2, "l": 85.7}
_TOP1_FT = {"s": 84.9, "m": 86.2, "l": 86.9, "xl": 87.2}
# fmt: on


def _rows():
    for size in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl"):
        model = f"EfficientNetV2{size.upper()}"
        pixels = "imagenet" if size.startswith("b") else "128"
        if size in _MD5:
            top, notop = _MD5[size]
            yield Row(
                model,
                "imagenet",
                1000,
                pixels,
                "softmax",
                f"{_KERAS}{size}.h5",
                f"md5:{top}",
                f"{_KERAS}{size}_notop.h5",
                f"md5:{notop}",
                _TOP1[size],
                "keras.applications, Apache-2.0",
            )
            yield Row(
                model,
                "imagenet-automl",
                1000,
                pixels,
                "softmax",
                f"{_AUTOML}{size}.tgz",
                top1=_TOP1[size],
            )
        yield Row(model, "imagenet21k", 21843, "128", "sigmoid", f"{_AUTOML}{size}-21k.tgz")
        yield Row(
            model,
            "imagenet21k-ft1k",
            1000,
            "127.5",
            "softmax",
            f"{_AUTOML}{size}-21k-ft1k.tgz",
            top1=_TOP1_FT.get(size),
        )


CHECKPOINTS = {(row.model, row.tag): row for row in _rows()}


def list_weights(model):
    """Lists the released weights of a model.

    Args:
        model: Name of a builder, such as `"EfficientNetV2S"`.

    Returns:
        A list of `Row`; empty for CoAtNet, of which no official weights were ever released.

    Example:

    >>> [row.tag for row in list_weights("EfficientNetV2XL")]
    ['imagenet21k', 'imagenet21k-ft1k']
    """
    return [row for (name, _), row in CHECKPOINTS.items() if name == model]


# ------------------------------------------------------------------------------------ checkpoints


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
        geometry: `image_size`, `crop` and `resize` of its pictures, as far as the file says.
    """

    tensors: dict
    layout: str
    origin: str
    classes: int | None = None
    pixels: str | None = None
    activation: str | None = None
    class_names: tuple | None = None
    geometry: dict = dataclasses.field(default_factory=dict)


def open_checkpoint(model, weights, top=True):
    """Reads the checkpoint that `weights=` names.

    Args:
        model: Name of the builder.
        weights: None, a tag of `list_weights(model)`, `"hub:HANDLE"`, or a path: `.weights.h5`,
            `.h5`, `.keras`, a TF1 checkpoint's prefix, a `.tgz` that holds one, or a SavedModel
            directory.
        top: Whether the head is wanted.

    Returns:
        A `Checkpoint`, or None for None.

    Raises:
        ValueError: If the tag is unknown or the file cannot be understood.
        FileNotFoundError: If the path does not exist.
        OSError: If a download fails, or offline mode forbids it.
    """
    if weights is None:
        return None
    weights = os.fspath(weights)
    row = CHECKPOINTS.get((model, weights))
    if row is not None:
        checkpoint = read(download(row, top))
        return dataclasses.replace(
            checkpoint,
            origin=f"weights={weights!r}",
            pixels=row.pixels,
            activation=row.activation,
        )
    if weights.startswith("hub:"):
        return read(resolve_hub(weights.removeprefix("hub:")))
    if _looks_like_path(weights):
        return _as_released(model, read(weights), weights)
    rows = list_weights(model)
    known = (
        f"Known tags: {', '.join(row.tag for row in rows)}."
        if rows
        else f"No weights of {model} were ever released; pass weights=None."
    )
    raise ValueError(
        f"{model} has no weights {weights!r}. {known} Or pass the path of a file you have."
    )


def _as_released(model, checkpoint, path):
    """A file that lies here under its released name has the contract of that release."""
    parts = {part.removesuffix(".tgz") for part in pathlib.PurePath(path).parts}
    for row in list_weights(model):
        if checkpoint.pixels is None and pathlib.PurePath(row.url).stem in parts:
            return dataclasses.replace(checkpoint, pixels=row.pixels, activation=row.activation)
    if checkpoint.pixels is None and checkpoint.layout == "automl":
        logging.warning(
            "%s does not say how its pixels are scaled: the releases differ. Keep the name of the "
            "archive in its path, or give `pixels`.",
            path,
        )
    return checkpoint


def _looks_like_path(weights):
    return (
        os.path.exists(weights)
        or os.path.exists(weights + ".index")
        or os.sep in weights
        or weights.endswith((".h5", ".keras", ".tgz", ".tar.gz"))
    )


def read(path):
    """Reads a local checkpoint of any supported format, told apart by content.

    Returns:
        A `Checkpoint`.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is damaged or of no known format.
    """
    path = os.fspath(path)
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
    with open(path, "rb") as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        return _read_hdf5(path, path)
    if start.startswith(b"PK"):
        return _read_keras_archive(path)
    if start.startswith(b"\x1f\x8b"):
        with tempfile.TemporaryDirectory() as folder:
            unpack(path, folder)
            return dataclasses.replace(read(folder), origin=path)
    raise ValueError(
        f"{path} ({os.path.getsize(path)} bytes) is no weights file that is known here: it is "
        "neither HDF5 (.h5), a .keras archive, a .tgz nor a TF checkpoint. It may be cut off or "
        "a web page saved under that name."
    )


# ----------------------------------------------------------------------------------------- HDF5


def _read_hdf5(file, origin):
    import h5py

    try:
        with h5py.File(file, "r") as root:
            _refuse_links(root, origin)
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


def _refuse_links(group, origin):
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{origin} links to other data at {group.name}/{name}; refused.")
        child = group[name]
        if isinstance(child, h5py.Group):
            _refuse_links(child, origin)
        elif child.external or child.is_virtual:
            raise ValueError(f"{origin} refers to other files at {child.name}; refused.")


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
        stem = next((name for name in tensors if name.endswith("stem_bn/0")), "")
        prefix = stem.removesuffix("stem_bn/0")  # every network here has that layer
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    checkpoint = Checkpoint(
        tensors,
        "keras" if named else "indexed",
        origin,
        pixels=contract.get("pixels"),
        activation=contract.get("activation"),
        class_names=tuple(contract["class_names"]) if contract.get("class_names") else None,
        geometry=_geometry(contract),
    )
    return _with_classes(checkpoint)


def _geometry(contract):
    return {key: contract[key] for key in ("image_size", "crop", "resize") if contract.get(key)}


def _read_keras_archive(path):
    """`.keras`: a zip whose `model.weights.h5` is all that is read; no code runs."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("model.weights.h5")
            if info.file_size > 100 * max(1, info.compress_size) or info.file_size > 1 << 34:
                raise ValueError(f"{path} unpacks to {info.file_size} bytes; refused.")
            return _read_hdf5(io.BytesIO(archive.read(info)), path)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ValueError(
            f"{path} is not a whole .keras file ({error}). It may be cut off: get it again."
        ) from error


def _with_classes(checkpoint):
    """Reads the number of classes off the bias of the head."""
    head = checkpoint.tensors.get(_HEAD_BIAS[checkpoint.layout])
    return dataclasses.replace(checkpoint, classes=None if head is None else len(head))


_HEAD_BIAS = {"keras": "predictions/1", "indexed": "dense/1", "automl": "head/dense/bias"}

# ----------------------------------------------------------------------------------- TensorFlow


def _read_automl(prefix, origin=None):
    """google/automl's TF1 checkpoints: variables by name, under one scope."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
        arrays = {name: reader.get_tensor(name) for name in names if _is_plain(name)}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{prefix} is a damaged TF checkpoint ({str(error).splitlines()[0]}). Get it again."
        ) from error
    return _automl_checkpoint(arrays, origin or prefix)


def _is_plain(name):
    """Leaves out averages, optimizer slots and counters; the plain names hold the averages."""
    leaf = name.rsplit("/", 1)[-1]
    return leaf in _AUTOML_LEAVES and "_CHECKPOINTABLE" not in name


_BN = ("gamma", "beta", "moving_mean", "moving_variance")
_AUTOML_LEAVES = ("kernel", "depthwise_kernel", "bias", *_BN)


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
    import tensorflow as tf
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        reader = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is a damaged SavedModel ({str(error).splitlines()[0]})."
        ) from error
    card = os.path.join(path, "assets.extra", "keras_effv2.json")
    if not os.path.exists(card):
        arrays = {
            attribute.full_name: reader.get_tensor(attribute.checkpoint_key)
            for node in graph.nodes
            for attribute in node.attributes
            if attribute.name == "VARIABLE_VALUE" and _is_plain(attribute.full_name)
        }
        return _automl_checkpoint(arrays, path)
    with open(card, encoding="utf-8") as file:
        card = json.load(file)
    children = {child.local_name: child.node_id for child in graph.nodes[0].children}
    listed = graph.nodes[children["variables"]].children
    nodes = {int(child.local_name): child.node_id for child in listed if child.local_name.isdigit()}
    tensors, positions = {}, {}
    for index, name in enumerate(card["variables"]):
        layer = name.rsplit("/", 1)[0]
        position = positions[layer] = positions.get(layer, -1) + 1
        key = graph.nodes[nodes[index]].attributes[0].checkpoint_key
        tensors[f"{layer}/{position}"] = reader.get_tensor(key)
    return _with_classes(
        Checkpoint(
            tensors,
            "keras",
            path,
            pixels=card["pixels"],
            activation=card["activation"],
            class_names=tuple(card["class_names"]) if card["class_names"] else None,
            geometry=_geometry(card),
        )
    )


def resolve_hub(handle):
    """The local folder of a remote SavedModel, which `tensorflow_hub` fetches or has kept.

    Raises:
        ImportError: If `tensorflow_hub` is not installed.
        OSError: If it cannot be fetched, or offline mode forbids it.
    """
    try:
        import tensorflow_hub
    except ImportError:
        raise ImportError(
            f"Fetching {handle} needs tensorflow_hub: pip install 'keras_effv2[hub]'."
        ) from None
    if is_offline():
        raise OSError(f"{handle} is remote and KERAS_EFFV2_OFFLINE is set. Unset it.")
    try:
        return tensorflow_hub.resolve(handle)
    except Exception as error:  # whatever the resolver of the day raises
        raise OSError(f"{handle} could not be fetched: {error}.") from error


# --------------------------------------------------------------------------------------- assign


def assign(model, checkpoint, *, own=None, prefix="", fresh_head=False, headless=False):
    """Puts a checkpoint into a model, all of it or nothing.

    Args:
        model: A model of this package.
        checkpoint: What `open_checkpoint` returned.
        own: The layers that it is for; None: all of the model. Those that are not in the model, a
            part of a network, stay as they are, and the checkpoint may lack them.
        prefix: What the model's layer names start with.
        fresh_head: Leave the model's layer `predictions` as it is, and what else of the head the
            checkpoint lacks.
        headless: The model has no head: that of the checkpoint stays unused.

    Raises:
        ValueError: If a tensor is missing, left over or of another shape; lists the mismatches.
            The model is unchanged then.
    """
    own = model.layers if own is None else own
    sources = _SOURCES[checkpoint.layout](own, prefix)
    left, inside = set(checkpoint.tensors), set(model.layers)
    troubles, pairs = [], []
    for layer in own:
        if not layer.weights:
            continue
        name = layer.name.removeprefix(prefix)
        keys = sources[layer.name]
        of_head = f"{name}/".startswith(_HEAD["keras"])
        fresh = fresh_head and of_head and (name == "predictions" or not left & set(keys))
        if fresh or layer not in inside:
            left -= set(keys)
            continue
        for variable, key in itertools.zip_longest(layer.weights, keys):
            left.discard(key)
            if key not in checkpoint.tensors:
                troubles.append(f"missing {name}/{variable.name} {tuple(variable.shape)}")
                continue
            array = checkpoint.tensors[key]
            if array.shape != tuple(variable.shape) and hasattr(layer, "fit_weight"):
                with contextlib.suppress(ValueError):
                    array = layer.fit_weight(variable.name, array)
            if array.shape != tuple(variable.shape):
                troubles.append(
                    f"{name}/{variable.name} is {array.shape}, wanted {tuple(variable.shape)}"
                )
            pairs.append((variable, array))
    if headless:
        left = {key for key in left if not key.startswith(_HEAD[checkpoint.layout])}
    troubles += [f"unexpected {key} {checkpoint.tensors[key].shape}" for key in sorted(left)]
    if troubles:
        shown = "; ".join(troubles[:8]) + (" ..." if len(troubles) > 8 else "")
        raise ValueError(
            f"{checkpoint.origin} does not fit {model.name}: {len(troubles)} mismatches: {shown}. "
            "Is it a checkpoint of this variant?"
        )
    for variable, array in pairs:
        variable.assign(array)


_HEAD = {
    "keras": ("predictions/", "top_norm/", "top_hidden/"),
    "indexed": ("dense/",),
    "automl": ("head/dense/",),
}


def _by_name(own, prefix):
    return {
        layer.name: [f"{layer.name.removeprefix(prefix)}/{i}" for i in range(len(layer.weights))]
        for layer in own
    }


def _by_index(own, prefix):
    """Keras 3 numbers the layers of each class: conv2d, conv2d_1, .."""
    counts, sources = {}, {}
    for layer in own:
        kind = re.sub(r"\W+", "", type(layer).__name__)
        kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        index = counts[kind] = counts.get(kind, -1) + 1
        key = f"{kind}_{index}" if index else kind
        sources[layer.name] = [f"{key}/{i}" for i in range(len(layer.weights))]
    return sources


def _by_automl_name(own, prefix):
    """google/automl numbers blocks through and names the layers in a block by class and index."""
    names = [layer.name.removeprefix(prefix) for layer in own]
    blocks = {}
    for name in names:
        match = re.match(r"block(\d+)([a-z]+)_", name)
        if match:
            order = (int(match[1]), len(match[2]), match[2])
            blocks.setdefault(order, set()).add(name.removeprefix(match[0]))
    automl = {
        "stem_conv": ["stem/conv2d/kernel"],
        "stem_bn": [f"stem/tpu_batch_normalization/{leaf}" for leaf in _BN],
        "top_conv": ["head/conv2d/kernel"],
        "top_bn": [f"head/tpu_batch_normalization/{leaf}" for leaf in _BN],
        "predictions": ["head/dense/kernel", "head/dense/bias"],
    }
    for number, (order, layers) in enumerate(sorted(blocks.items())):
        block, scope = f"block{order[0]}{order[2]}_", f"blocks_{number}/"
        convs = [name for name in ("expand_conv", "project_conv") if name in layers]
        norms = [name for name in ("expand_bn", "bn", "project_bn") if name in layers]
        for i, name in enumerate(convs):
            automl[block + name] = [scope + f"conv2d{f'_{i}' if i else ''}/kernel"]
        for i, name in enumerate(norms):
            norm = f"tpu_batch_normalization{f'_{i}' if i else ''}"
            automl[block + name] = [f"{scope}{norm}/{leaf}" for leaf in _BN]
        automl[block + "dwconv2"] = [scope + "depthwise_conv2d/depthwise_kernel"]
        for i, name in enumerate(("se_reduce", "se_expand")):
            conv = f"se/conv2d{f'_{i}' if i else ''}"
            automl[block + name] = [f"{scope}{conv}/kernel", f"{scope}{conv}/bias"]
    return {layer.name: automl.get(layer.name.removeprefix(prefix), []) for layer in own}


_SOURCES = {"keras": _by_name, "indexed": _by_index, "automl": _by_automl_name}

# ------------------------------------------------------------------------------------- download


def home():
    """The folder that keeps downloads: `KERAS_EFFV2_HOME`, else `~/.keras/keras_effv2`."""
    default = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras") / "keras_effv2"
    return pathlib.Path(os.environ.get("KERAS_EFFV2_HOME") or default).expanduser()


def is_offline():
    """Whether `KERAS_EFFV2_OFFLINE` forbids the network."""
    return os.environ.get("KERAS_EFFV2_OFFLINE", "") not in ("", "0")


def download(row, top=True):
    """Fetches a released file, or finds it in the cache; checks it either way.

    The file appears in the cache only when it is whole and its hash is right. For files whose hash
    was never published the sha256 of the first download is kept beside it and has to match ever
    after. Two processes that want the same file wait for each other.

    Args:
        row: A `Row`.
        top: Whether the head is wanted; without, the smaller file is taken where there is one.

    Returns:
        Path of the file.

    Raises:
        OSError: If the network fails or offline mode is on and the file is not in the cache.
        ValueError: If the hash is wrong; nothing is kept then.
    """
    url, expected = row.url, row.hash
    if not top and row.url_notop:
        url, expected = row.url_notop, row.hash_notop
    mirror = os.environ.get("KERAS_EFFV2_MIRROR")
    if mirror and "://" not in mirror:
        raise ValueError(
            f"KERAS_EFFV2_MIRROR is an address such as https://host/path. Received: {mirror!r}."
        )
    remote = url.replace(STORAGE, mirror.rstrip("/") + "/") if mirror else url
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / url.rsplit("/", 1)[-1]
    with _lock(folder / f".{path.name}.lock"):
        if expected is None and _pin(path).exists():
            expected = "sha256:" + _pin(path).read_text(encoding="ascii").strip()
        if not path.exists():
            if is_offline():
                raise OSError(
                    f"{path.name} is not in the cache {folder} and KERAS_EFFV2_OFFLINE is set. "
                    f"Unset it, or put the file from {remote} there."
                )
            _fetch(remote, path, expected)
        elif expected is not None:
            _check_hash(path, expected, remote)
        if row.hash is None and not _pin(path).exists():
            try:
                read(path)
            except ValueError as error:
                path.unlink()
                raise ValueError(f"{remote} sent no checkpoint; it was deleted. {error}") from error
            pin = _pin(path).with_suffix(".new")
            pin.write_text(_digest(path, "sha256"), encoding="ascii")
            os.replace(pin, _pin(path))
    return path


def _pin(path):
    return path.with_name(path.name + ".sha256")


@contextlib.contextmanager
def _lock(path):
    """Keeps other processes out, where the file system has locks; the kernel lets go if this dies."""
    import fcntl

    with open(path, "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(url, path, expected):
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            try:
                with urllib.request.urlopen(url, timeout=60) as reply:
                    size = int(reply.headers.get("Content-Length") or 0)
                    logging.info("Downloading %s (%.0f MB).", url, size / 1e6)
                    shutil.copyfileobj(reply, file, 1 << 20)
            except (
                urllib.error.URLError,
                http.client.HTTPException,
                TimeoutError,
                ConnectionError,
            ) as error:
                reason = getattr(error, "reason", error)
                raise OSError(
                    f"{url} could not be downloaded: {reason}. Check the network, set "
                    f"KERAS_EFFV2_MIRROR, or put the file into {path.parent}."
                ) from error
        received = os.path.getsize(temporary)
        if size and received != size:
            raise OSError(
                f"The download of {url} broke off after {received} of {size} bytes. Try again."
            )
        if expected is not None:
            _check_hash(pathlib.Path(temporary), expected, url)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"No room in {path.parent} for {url}: make some, or point KERAS_EFFV2_HOME elsewhere",
        ) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _check_hash(path, expected, url):
    kind, value = expected.split(":")
    found = _digest(path, kind)
    if found != value:
        os.remove(path)
        whose = "of the file that was released"
        if kind == "sha256":  # none was published
            whose = f"of the first download, which {_pin(home() / url.rsplit('/', 1)[-1])} keeps"
        raise ValueError(
            f"{url} has {kind} {found}, expected {value}, {whose}. The copy was deleted; try again, "
            "or ask who serves it."
        )


def _digest(path, kind):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


MAX_FILES = 100_000  # Stanford Cars has 16,185
MAX_UNPACKED = 16 << 30  # bytes; the largest released archive holds about 2 GiB


def unpack(archive, folder):
    """Unpacks a .tgz of plain files; anything that could reach outside `folder` is refused.

    Raises:
        ValueError: If the archive is damaged, holds links or devices, leaves the folder, or unpacks
            to more than 16 GiB. Nothing outside `folder` is touched.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members, total = [], 0
            for member in tar:
                parts = pathlib.PurePosixPath(member.name)
                if parts.is_absolute() or ".." in parts.parts:
                    raise ValueError(f"{archive} wants to write to {member.name!r}; refused.")
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{archive} holds {member.name!r}, no plain file; refused.")
                total += member.size
                if total > MAX_UNPACKED or len(members) > MAX_FILES:
                    raise ValueError(
                        f"{archive} unpacks to more than 16 GiB or {MAX_FILES:,} files; refused."
                    )
                members.append(member)
            while tar.fileobj.read(1 << 20):  # to its end, where the checksum is
                pass
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"No room in {folder} to unpack {archive}") from error
        raise ValueError(
            f"{archive} is a damaged archive ({error}). It may be cut off: get it again."
        ) from error


# -------------------------------------------------------------------------------------- convert


def convert(model, path, *, tag, source, licence="Apache-2.0", top1=None):
    """Writes a model's weights as `.weights.h5`, and the row that the table would have for it.

    Args:
        model: A model of this package with its weights loaded.
        path: The file to write; ends in `.weights.h5`. It appears whole or not at all.
        tag: The tag of the row.
        source: Where the weights came from.
        licence: Their licence.
        top1: Published ImageNet-1k accuracy in per cent, if any.

    Returns:
        A dictionary: model, tag, file, bytes, sha256, source, licence, pixels, classes, top1.

    Raises:
        ValueError: If `path` does not end in `.weights.h5`.
    """
    from keras_effv2.layers import find_pixels

    path = pathlib.Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"Weights are written to a file *.weights.h5. Received: {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        model.save_weights(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {
        "model": model.name,
        "tag": tag,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": _digest(path, "sha256"),
        "source": source,
        "licence": licence,
        "pixels": find_pixels(model).pixels,
        "classes": model.output_shape[-1],
        "top1": top1,
    }
