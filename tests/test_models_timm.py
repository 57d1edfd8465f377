"""Networks of full size against timm's own, where PyTorch and timm are installed."""

import dataclasses

import keras
import numpy as np
import pytest
import timm_golden
from test_benchmark import peers
from timm_golden import CASES

import keras_effv2 as kev
from keras_effv2 import weights
from keras_effv2.models import application, coatnet, coatnet_rw, efficientnet_v2
from keras_effv2.weights import timm as names_of_timm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZES = [(224, 224), (320, 320), (224, 320)]
PAPER = {k: v for k, v in timm_golden.PAPER.items() if k not in timm_golden.SMALL}


@pytest.fixture(autouse=True)
def with_timm():
    pytest.importorskip("timm")


def worst(model, tensors, size, theirs):
    """The largest difference of logits and maps from timm's, in parts of the largest number."""
    weights.assign(model, weights.Checkpoint(tensors, "keras", "timm"))
    names = model.get_layer("pixels").features
    maps = [model.get_layer(names[level]).output for level in application.REDUCTIONS]
    pictures = timm_golden.images(size)
    ours = keras.Model(model.input, [model.output, *maps])(pictures)
    logits, maps = timm_golden.outputs(theirs, pictures)
    pairs = zip(map(keras.ops.convert_to_numpy, ours), [logits, *maps], strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def build(family, row, size):
    ends = {"include_preprocessing": False, "classifier_activation": None}
    return family.build(row, weights=None, input_shape=(*size, 3), **ends)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: case.timm)
def test_coatnets(case, size):
    full = dataclasses.replace(case, arguments={"num_classes": 1000})
    theirs, state = timm_golden.network(full, size, square=(224, 224))
    model = build(coatnet_rw, coatnet_rw.VARIANTS[case.row], size)
    assert worst(model, names_of_timm.renamed(state), size, theirs) < 1e-5


def test_the_papers_coatnet():
    arguments = {**PAPER, "stem_width": 64, "head_hidden_size": 768}
    full = timm_golden.Case("coatnet_0_224", "CoAtNet0", arguments)
    theirs, state = timm_golden.network(full, (224, 224), square=(224, 224))
    ours = {"stem_norm": "stem_bn", "head.norm": "top_norm", "head.pre_logits.fc": "top_hidden"}
    tensors = {}
    for key, array in names_of_timm.renamed(state).items():
        for other, name in ours.items():
            key = key.replace(other, name)
        tensors[key.replace(".weight", "/0").replace(".bias", "/1")] = array
    model = build(coatnet, coatnet.VARIANTS["CoAtNet0"], (224, 224))
    assert worst(model, tensors, (224, 224), theirs) < 1e-5
    trainable = sum(p.numel() for p in theirs.parameters())  # with biases in the stem, 2 x 64
    assert trainable == kev.model_info("CoAtNet0")["trainable_parameters"]


def of_efficientnet(state, row):
    """timm's tensors of an EfficientNetV2 under our names."""
    tensors, names = {}, peers()
    for key, array in state.items():
        layer, _, leaf = key.rpartition(".")
        layer = names.our_layer(layer, row)
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if "dwconv" in layer else (2, 3, 1, 0))
        array = array.T if array.ndim == 2 else array
        tensors[f"{layer}/{names.LEAVES.index(leaf)}"] = array
    return tensors


@pytest.mark.parametrize("size", ["b0", "s"])
def test_efficientnets(size):
    import timm

    row = efficientnet_v2.VARIANTS[f"EfficientNetV2{size.upper()}"]
    theirs = timm.create_model(f"tf_efficientnetv2_{size}").eval()
    state = timm_golden.fill(theirs)
    model = build(efficientnet_v2, row, (224, 224))
    weights.assign(model, weights.Checkpoint(of_efficientnet(state, row), "keras", "timm"))
    pictures = timm_golden.images((224, 224))
    logits, _ = timm_golden.outputs(theirs, pictures)
    ours = keras.ops.convert_to_numpy(model(pictures))
    assert np.abs(ours - logits).max() < 1e-5 * np.abs(logits).max()
