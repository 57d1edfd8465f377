"""From `weights=` to a model: every tensor is used and every variable filled, or an error says why."""

import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import re
import shutil

import numpy as np
from absl import logging

from keras_effv2.arguments import check_kind
from keras_effv2.files import digest, exists, expand, place, replacing
from keras_effv2.weights import hugging_face
from keras_effv2.weights.download import fetch
from keras_effv2.weights.handles import resolve_hub
from keras_effv2.weights.readers import BATCH_NORM, read
from keras_effv2.weights.table import CHECKPOINTS, list_weights


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
    if row.repository:
        return hugging_face.fetch(row.repository)
    return fetch(row, top, check=read)


def open_checkpoint(model, weights, top=True):
    """Reads the checkpoint that `weights=` names.

    Args:
        model: Name of the builder.
        weights: None, a tag of `list_weights(model)`, `"hub:HANDLE"`, or a path: `.weights.h5`,
            `.h5`, `.keras`, timm's `.safetensors`, a TF1 checkpoint's prefix, a `.tgz` that holds
            one, or a SavedModel directory.
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
    check_kind("weights", weights, str | os.PathLike, "a tag, a path or None")
    weights = expand(weights)
    row = CHECKPOINTS.get((model, weights))
    if row is not None:
        checkpoint = read(download(row, top))
        return dataclasses.replace(_of_release(checkpoint, row), origin=f"weights={weights!r}")
    if weights.startswith("hub:"):
        return read(resolve_hub(weights.removeprefix("hub:")))
    if _looks_like_path(weights):
        return _as_released(model, read(weights), weights)
    raise _unknown(model, weights)


def check_weights(model, weights):
    """Raises if `weights=` can name nothing; reads and fetches nothing. Arguments as `open_checkpoint`.

    Raises:
        ValueError: If the tag is unknown.
        FileNotFoundError: If the path does not exist.
    """
    if (model, weights) in CHECKPOINTS or weights.startswith("hub:"):
        return
    if not _looks_like_path(weights):
        raise _unknown(model, weights)
    if not exists(weights) and not exists(weights + ".index"):
        raise FileNotFoundError(f"There is no weights file {weights}. Check the path.")


def classes_of(checkpoint):
    """How many classes the head of a checkpoint has; refuses one without, for names by chance."""
    if checkpoint.classes is None:
        raise ValueError(
            f"{checkpoint.origin} has no head, and a new one knows no class before it is trained. Give "
            "`classes` for a new one, include_top=False for none, or weights with their head."
        )
    return checkpoint.classes


def _unknown(model, weights):
    rows = list_weights(model)
    known = f"Known tags: {', '.join(row.tag for row in rows)}."
    if not rows:
        known = f"No weights of {model} were ever released; pass weights=None."
        others = dict.fromkeys(name for name, _ in CHECKPOINTS if name.startswith(f"{model}RW"))
        if others:
            known += f" There are weights of another network, timm's: {', '.join(others)}."
    return ValueError(
        f"{model} has no weights {weights!r}. {known} Or pass the path of a file you have."
    )


def _as_released(model, checkpoint, path):
    """A file that lies here under its released name has the contract of that release."""
    names = {re.sub(r"\.(tgz|safetensors)$", "", part) for part in pathlib.PurePath(path).parts}
    names |= {name.rsplit("--", 1)[-1] for name in names}  # so the hub's cache calls a folder
    for row in list_weights(model):
        if checkpoint.pixels is None and row.released_name in names:
            return _of_release(checkpoint, row)
    if checkpoint.pixels is None and checkpoint.layout == "automl":
        logging.warning(
            "%s does not say how its pixels are scaled: the releases differ. Keep the name of the "
            "archive in its path, or give `pixels`.",
            path,
        )
    return checkpoint


def _of_release(checkpoint, row):
    """The checkpoint with the contract that its row of the table says."""
    geometry = {key: getattr(row, key) for key in ("image_size", "crop", "resize")}
    return dataclasses.replace(
        checkpoint,
        pixels=row.pixels,
        activation=row.activation,
        use={key: value for key, value in geometry.items() if value} or checkpoint.use,
        built_for=row.image_size,
    )


def _looks_like_path(weights):
    return (
        os.path.exists(weights)
        or os.path.exists(weights + ".index")
        or os.sep in weights
        or weights.endswith((".h5", ".keras", ".safetensors", ".tgz", ".tar.gz"))
    )


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
        ValueError: If a tensor is missing, left over or of another shape; lists the mismatches. If
            one holds what is no number. The model is unchanged then.
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
    damaged = next((v for v, array in pairs if not np.isfinite(array).all()), None)
    if troubles:
        shown = "; ".join(troubles[:8]) + (" ..." if len(troubles) > 8 else "")
        raise ValueError(
            f"{checkpoint.origin} does not fit {model.name}: {len(troubles)} mismatches: {shown}. "
            "Is it a checkpoint of this variant?"
        )
    if damaged is not None:
        raise ValueError(
            f"{checkpoint.origin} holds NaN or infinity in {damaged.path}: the training has diverged, or "
            "the file is damaged. Take an earlier one."
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
        "stem_bn": [f"stem/tpu_batch_normalization/{leaf}" for leaf in BATCH_NORM],
        "top_conv": ["head/conv2d/kernel"],
        "top_bn": [f"head/tpu_batch_normalization/{leaf}" for leaf in BATCH_NORM],
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
            automl[block + name] = [f"{scope}{norm}/{leaf}" for leaf in BATCH_NORM]
        automl[block + "dwconv2"] = [scope + "depthwise_conv2d/depthwise_kernel"]
        for i, name in enumerate(("se_reduce", "se_expand")):
            conv = f"se/conv2d{f'_{i}' if i else ''}"
            automl[block + name] = [f"{scope}{conv}/kernel", f"{scope}{conv}/bias"]
    return {layer.name: automl.get(layer.name.removeprefix(prefix), []) for layer in own}


_SOURCES = {"keras": _by_name, "indexed": _by_index, "automl": _by_automl_name}


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
        ValueError: If `path` does not end in `.weights.h5`, or the model is none of this package.
    """
    from keras_effv2.layers import find_pixels  # Keras is not needed to read the table

    pixels = find_pixels(model)
    if pixels is None:
        raise ValueError(
            f"{model.name} does not say what pixels it takes, as models of this package do: its own "
            "save_weights writes it."
        )
    path = place(path, "A weights file")
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"Weights are written to a file *.weights.h5. Received: {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        _check_room(temporary.parent, model)
        model.save_weights(temporary)
    return {
        "model": model.name,
        "tag": tag,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest(path),
        "source": source,
        "licence": licence,
        "pixels": pixels.pixels,
        "classes": model.output_shape[-1],
        "top1": top1,
    }


def _check_room(folder, model):
    """Refuses a disk that is too full: HDF5 takes Python with it where a write fails."""
    needed = 4 * model.count_params() + 4096 * len(model.weights)  # and what names them
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
