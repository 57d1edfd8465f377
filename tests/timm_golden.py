"""timm's CoAtNets at small widths, their weights by a rule in NumPy that both sides can follow.

    python tests/timm_golden.py

needs PyTorch and timm (1.0.31 was used), no Keras, and writes `tests/data/timm.npz`: the names and
shapes of each network's tensors, and a few hundred of the numbers that it gives.
"""

import dataclasses
import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "data" / "timm.npz"
SQUARE, RECTANGLE = (64, 64), (64, 96)
SMALL = {"depths": (2, 1, 2, 1), "embed_dim": (32, 64, 96, 128), "stem_width": (16, 32)}
PAPER = {  # timm's `coatnet_0_224` as the paper and Google's blocks have it
    **SMALL,
    "stem_width": 32,
    "stem_bias": True,
    "head_hidden_size": 128,
    "conv_stride_mode": "1x1",
    "conv_pool_type": "max2",
    "conv_padding": "same",
    "conv_norm_eps": 1e-3,
    "conv_act_layer": "gelu_tanh",
    "transformer_pool_type": "max2",
    "transformer_norm_eps": 1e-5,
    "transformer_act_layer": "gelu_tanh",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network of timm's and the row that is to compute the same."""

    timm: str
    row: str
    arguments: dict = dataclasses.field(default_factory=lambda: SMALL)


CASES = (
    Case("coatnet_nano_rw_224", "CoAtNetNanoRW"),
    Case("coatnet_rmlp_nano_rw_224", "CoAtNetNanoRW2"),
    Case("coatnext_nano_rw_224", "CoAtNeXtNanoRW"),
    Case("coatnet_0_rw_224", "CoAtNet0RW"),
    Case("coatnet_bn_0_rw_224", "CoAtNet0RWBN"),
    Case("coatnet_1_rw_224", "CoAtNet1RW"),
    Case("coatnet_rmlp_1_rw_224", "CoAtNet1RWMax"),
    Case("coatnet_rmlp_1_rw2_224", "CoAtNet1RW2"),
    Case("coatnet_2_rw_224", "CoAtNet2RW"),
    Case("coatnet_rmlp_2_rw_224", "CoAtNet2RW"),
    Case("coatnet_3_rw_224", "CoAtNet3RW"),
    Case("coatnet_0_224", "CoAtNet0", PAPER),
)


def state(shapes):
    """The tensors of a network: name -> shape to name -> array. No table of biases is small."""
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def _tensor(name, shape):
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype("float32")
    if name.endswith(("running_var", "gamma")):
        return 0.5 + np.abs(noise)
    if "bias_table" in name:
        return noise
    if "rel_pos.mlp" in name and len(shape) > 1:
        return 1.5 * noise / np.float32(shape[-1] ** 0.5)
    if len(shape) > 1:
        return noise / np.float32(np.prod(shape[1:]) ** 0.5)
    return 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise


def images(size, batch=2):
    """Pictures that are normalised already: `(batch, height, width, 3)`."""
    return np.random.default_rng(0).normal(size=(batch, *size, 3)).astype("float32")


def sample(feature_map):
    """Some sixty numbers of a feature map `(batch, height, width, channels)`."""
    numbers = np.asarray(feature_map, "float32").ravel()
    return numbers[:: max(1, len(numbers) // 61)]


def network(case, size, square=SQUARE, **arguments):
    """timm's network with the weights of the rule, ready to evaluate, and its state.

    The state is that of the network for square pictures; where tables are of another size in the
    network, they are resized as the paper does it.
    """
    import timm

    arguments = {**case.arguments, **arguments}
    model = timm.create_model(case.timm, **arguments, img_size=size).eval()
    if size == square:
        return model, fill(model)
    values = fill(timm.create_model(case.timm, **arguments, img_size=square))
    fill(model, values)
    return model, values


def fill(model, values=None):
    """Gives a network of PyTorch's the tensors of the rule, or `values`; returns them."""
    import torch

    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    values = values or state({key: tensor.shape for key, tensor in tensors.items()})
    for key, value in values.items():
        value = torch.from_numpy(value)
        if value.shape != tensors[key].shape:
            value = _resized(value, model.get_submodule(key.rpartition(".")[0]).window_size)
        tensors[key].copy_(value)
    return values


def _resized(table, window):
    import torch

    side = round(len(table) ** 0.5)
    table = table.T.reshape(1, -1, side, side)
    target = [2 * side - 1 for side in window]
    table = torch.nn.functional.interpolate(table, target, mode="bilinear", align_corners=False)
    return table.flatten(2)[0].T


def outputs(model, pictures):
    """Logits and five feature maps, channels last."""
    import torch

    x = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
        return model(x).numpy(), [m.numpy().transpose(0, 2, 3, 1) for m in maps]


def main():
    numbers = {}
    for case in CASES:
        for size in (SQUARE, RECTANGLE):
            model, values = network(case, size, num_classes=10)
            logits, maps = outputs(model, images(size))
            key = f"{case.timm}/{size[1]}"
            numbers[f"{key}/logits"] = logits
            numbers.update({f"{key}/map{i}": sample(m) for i, m in enumerate(maps, 1)})
        shapes = {name: value.shape for name, value in values.items()}
        numbers[f"{case.timm}/shapes"] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **numbers)


if __name__ == "__main__":
    main()
