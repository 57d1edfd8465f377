"""timm's CoAtNets in the safetensors format, read without PyTorch and named as our layers are."""

import contextlib
import dataclasses
import math
import re
import string
import zipfile

import numpy as np

from keras_effv2 import needs


def is_safetensors(path):
    """Whether a file begins as the format does: the length of a JSON header, and the header."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30


def is_pickle(path):
    """Whether a file is one of PyTorch's pickles, alone or in a zip archive."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        with contextlib.suppress(zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("data.pkl") for name in archive.namelist())
    return start in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_safetensors(path):
    """Reads a file of timm's.

    Args:
        path: A local `.safetensors` file.

    Returns:
        A dictionary, `"layer name/position"` -> array, as `renamed` makes it.

    Raises:
        ValueError: If the file is damaged, or holds no network of these.
    """
    with needs.naming("Reading a .safetensors file"):
        import safetensors
        import safetensors.numpy

    try:
        return renamed(safetensors.numpy.load_file(path))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is a damaged safetensors file ({error}). It may be cut off: get it again."
        ) from error
    except KeyError as error:
        raise ValueError(
            f"{path} is no CoAtNet of timm's: {error} is missing, or of a type that NumPy lacks."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is no CoAtNet of timm's: {error}.") from error


_LEAVES = ("weight", "bias", "running_mean", "running_var")  # the order of a layer's weights
_ENDS = {
    "stem.conv1": "stem_conv1",
    "stem.norm1": "stem_norm",
    "stem.conv2": "stem_conv2",
    "norm": "final_norm",
    "head.fc": "predictions",
}
_PIECES = {
    "shortcut.expand": "shortcut_conv",
    "pre_norm": "pre_bn",
    "conv1_1x1": "expand_conv",
    "conv2_kxk": "dwconv",
    "se.fc1": "se_reduce",
    "se.fc2": "se_expand",
    "se_early.fc1": "se_reduce",
    "se_early.fc2": "se_expand",
    "conv3_1x1": "project_conv",
    "conv_dw": "dwconv",
    "norm": "ffn_norm",
    "norm1.norm": "attention_norm",
    "mlp.fc1": "ffn_expand",
    "mlp.fc2": "ffn_project",
}
# scales of branches, and the weights of the products they are multiplied into
_SCALED = {
    "ls": ("ffn_project/0", "ffn_project/1"),
    "ls1": ("attention/3", "attention/4"),
    "ls2": ("ffn_project/0", "ffn_project/1"),
}
_NORMS = {"norm1": "expand_bn", "norm2": "bn"}  # of an MBConv block
_NORMS_OF_ATTENTION = {"norm1": "attention_norm", "norm2": "ffn_norm"}


@dataclasses.dataclass(frozen=True)
class OffsetNetwork:
    """A small network that gives the bias of any offset, as timm's "rmlp" networks have it.

    Attributes:
        weights: Kernel `(hidden, 2)` and bias `(hidden,)` of its first layer.
        heads: Kernel `(heads, hidden)` and bias `(heads,)` of its second.
    """

    weights: tuple
    heads: tuple

    @property
    def shape(self):
        return (len(self.heads[1]), None, None)

    def table(self, height, width):
        """The biases of a map of that size: `(heads, 2 * height - 1, 2 * width - 1)`."""
        sides = [np.arange(1 - side, side, dtype="float32") for side in (height, width)]
        offsets = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
        x = np.sign(offsets) * np.log1p(np.abs(offsets))
        x = np.maximum(x @ self.weights[0].T + self.weights[1], 0)
        return (x @ self.heads[0].T + self.heads[1]).transpose(2, 0, 1)


def renamed(tensors):
    """Timm's tensors as `"layer name/position"` -> array, shaped as the weights of our layers.

    Args:
        tensors: Name -> array, the state of one of timm's `coatnet_*_rw` networks.

    Returns:
        A dictionary; what has no place in our layers keeps its name.

    Raises:
        KeyError: If an attention lacks a part.
        ValueError: If a table of biases is not of a square map.
    """
    made, blocks = {}, {}
    for key, array in tensors.items():
        match = re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key)
        if key.endswith(".num_batches_tracked"):
            continue  # a counter that nothing reads
        if match:
            blocks.setdefault(match[0], {})[key.removeprefix(match[0])] = array
        else:
            made[_place(key, _ENDS) or key] = _kernel(array)
    for scope, block in blocks.items():
        stage, number = map(int, re.findall(r"\d+", scope))
        name = f"block{stage + 1}{string.ascii_lowercase[number : number + 1]}_"
        made.update(_block(block, scope, name))
    return made


def _place(key, layers, prefix=""):
    """`layer name/position` of a tensor, or None."""
    layer, _, leaf = key.rpartition(".")
    if layer in layers and leaf in _LEAVES:
        return f"{prefix}{layers[layer]}/{_LEAVES.index(leaf)}"
    return None


def _block(block, scope, name):
    attends = "attn.qkv.weight" in block
    layers = {**_PIECES, **(_NORMS_OF_ATTENTION if attends else _NORMS)}
    made = _attention(block, name + "attention") if attends else {}
    scales = {key: block.pop(f"{key}.gamma") for key in _SCALED if f"{key}.gamma" in block}
    for key, array in block.items():
        place = _place(key, layers, name)
        if key == "conv_dw.weight" and "shortcut.expand.weight" in block:
            width = block["shortcut.expand.weight"].shape[1]  # each gives len(array) / width
            made[place] = array.reshape(width, -1, *array.shape[2:]).transpose(2, 3, 0, 1)
        elif place and place.startswith(name + "dwconv/"):
            made[place] = array.transpose(2, 3, 0, 1) if array.ndim == 4 else array
        elif place and place.startswith(name + "ffn_") and array.ndim == 4:
            made[place] = array[:, :, 0, 0].T
        else:
            made[place or scope + key] = _kernel(array)
    for key, scale in scales.items():
        for target in _SCALED[key]:  # a branch scaled is its last product scaled: exact
            made[name + target] = made[name + target] * scale
    return made


def _kernel(array):
    """A kernel with its inputs and outputs last; a vector as it is."""
    return array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array


def _attention(block, layer):
    """Takes the attention out of a block. Heads are outermost in timm's rows and columns."""
    qkv, bias, out, out_bias = (
        block.pop(f"attn.{key}") for key in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias")
    )
    if "attn.rel_pos.mlp.fc1.weight" in block:
        first, second = (
            tuple(block.pop(f"attn.rel_pos.mlp.{part}.{leaf}") for leaf in _LEAVES[:2])
            for part in ("fc1", "fc2")
        )
        biases, heads = OffsetNetwork(first, second), len(second[1])
    else:
        table = block.pop("attn.rel_pos.relative_position_bias_table")
        offsets, heads = table.shape
        side = math.isqrt(offsets)
        if side * side != offsets:
            raise ValueError(
                f"The table of biases of {layer} has {offsets} offsets, which is that of no square "
                "map; give the file of a network for square pictures"
            )
        biases = table.T.reshape(heads, side, side)
    size = len(bias) // (3 * heads)
    return {
        f"{layer}/0": qkv.reshape(heads, 3, size, -1).transpose(3, 1, 0, 2),
        f"{layer}/1": bias.reshape(heads, 3, size).transpose(1, 0, 2),
        f"{layer}/2": biases,
        f"{layer}/3": out.reshape(-1, heads, size).transpose(1, 2, 0),
        f"{layer}/4": out_bias,
    }
