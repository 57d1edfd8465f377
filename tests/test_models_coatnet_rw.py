"""timm's CoAtNets: the numbers that timm gives, its counts, and what else a model of ours can do."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import safetensors.numpy
import timm_golden
from timm_golden import CASES, RECTANGLE, SQUARE

import keras_effv2 as kev
from keras_effv2 import weights
from keras_effv2.models import application, coatnet, coatnet_rw

# trainable parameters with 1000 classes as timm counts them; below, what we have in other places
COUNTS = {
    "CoAtNetNanoRW": 15_141_244,
    "CoAtNet0RW": 27_435_562,
    "CoAtNet0RWBN": 27_435_562,
    "CoAtNet1RW": 41_721_502,
    "CoAtNet2RW": 73_868_400,
    # a network of offsets has 17,048 weights where our tables have 13,176
    "CoAtNetNanoRW2": 15_145_116 - 3_872,
    "CoAtNet1RWMax": 41_691_982 + 29_520,
    "CoAtNet1RW2": 41_724_622 - 1_968,
    # two scales a transformer block, one a ConvNeXt block: multiplied into the weights before them
    "CoAtNet3RW": 165_173_428 - 2 * (14 * 768 + 2 * 1536),
    "CoAtNeXtNanoRW": 14_701_244 - (3 * 64 + 4 * 128),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(timm_golden.GOLDEN) as numbers:
        return dict(numbers)


def tensors_of(case, golden):
    shapes = json.loads(golden[f"{case.timm}/shapes"].tobytes())
    return timm_golden.state(shapes)


def small(name, **changes):
    """The row of a case at the widths of the golden networks."""
    row = kev.models.VARIANTS[name]
    stages = tuple(
        dataclasses.replace(stage, repeats=n, channels=c)
        for stage, n, c in zip(row.stages, (2, 1, 2, 1), (32, 64, 96, 128), strict=True)
    )
    hidden = {"hidden": 128} if row.hidden else {}
    return dataclasses.replace(row, stages=stages, stem=32, image_size=64, **hidden, **changes)


def family(name):
    return coatnet if name == "CoAtNet0" else coatnet_rw


def load(case, tensors, size, tmp_path, **changes):
    """Our network of a case with its logits and maps, from a file as timm would publish it."""
    path = tmp_path / f"{case.timm}.safetensors"
    safetensors.numpy.save_file(tensors, path)
    checkpoint = weights.read(path)
    if case.row == "CoAtNet0":  # none is published: its head has no place in the reader
        checkpoint = dataclasses.replace(checkpoint, tensors=paper_names(checkpoint.tensors))
    model = family(case.row).build(
        small(case.row, **changes),
        weights=None,
        classes=10,
        input_shape=(*(size or (None, None)), 3),
        include_preprocessing=False,
        classifier_activation=None,
    )
    weights.assign(model, checkpoint)
    names = model.get_layer("pixels").features
    maps = [model.get_layer(names[level]).output for level in application.REDUCTIONS]
    return keras.Model(model.input, [model.output, *maps])


def paper_names(tensors):
    ours = {"stem_norm": "stem_bn", "head.norm": "top_norm", "head.pre_logits.fc": "top_hidden"}
    renamed = {}
    for key, array in tensors.items():
        for theirs, name in ours.items():
            key = key.replace(theirs, name)
        renamed[key.replace(".weight", "/0").replace(".bias", "/1")] = array
    return renamed


def worst(outputs, case, size, golden):
    """The largest difference from timm's numbers, in parts of the largest number."""
    logits, *maps = outputs
    key = f"{case.timm}/{size[1]}"
    pairs = [(np.asarray(logits), golden[f"{key}/logits"])]
    pairs += [(timm_golden.sample(m), golden[f"{key}/map{i}"]) for i, m in enumerate(maps, 1)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.timm)
def test_equals_timm(case, golden, tmp_path):
    tensors = tensors_of(case, golden)
    fixed = load(case, tensors, SQUARE, tmp_path)
    assert worst(fixed(timm_golden.images(SQUARE)), case, SQUARE, golden) < 1e-5
    # networks of offsets are computed for the map that is known; tables are resized, then as here
    computed = any("rel_pos.mlp" in key for key in tensors)
    other = load(case, tensors, RECTANGLE if computed else None, tmp_path)
    assert worst(other(timm_golden.images(RECTANGLE)), case, RECTANGLE, golden) < 1e-5


def qkv_outermost(key, array):
    if ".qkv." not in key:
        return array
    heads = len(array) // 96
    order = np.arange(len(array)).reshape(3, heads, 32).transpose(1, 0, 2).ravel()
    return array[order]


def flipped(key, array):
    return array[::-1].copy() if "bias_table" in key else array


def transposed(key, array):
    if "bias_table" not in key:
        return array
    side = round(len(array) ** 0.5)
    return array.reshape(side, side, -1).transpose(1, 0, 2).reshape(array.shape).copy()


@pytest.mark.parametrize("mistake", [qkv_outermost, flipped, transposed], ids=lambda m: m.__name__)
def test_a_mistake_in_the_weights_is_seen(mistake, golden, tmp_path):
    case = next(case for case in CASES if case.row == "CoAtNet1RW")
    tensors = {key: mistake(key, array) for key, array in tensors_of(case, golden).items()}
    outputs = load(case, tensors, SQUARE, tmp_path)(timm_golden.images(SQUARE))
    assert worst(outputs, case, SQUARE, golden) > 1e-4


@pytest.mark.parametrize(
    "column, mistaken",
    [
        ("pre_activation", False),
        ("excite", "late"),
        ("excite_activation", "silu"),
        ("pool", "max"),
        ("stride_at", "pool"),
    ],
)
def test_a_mistake_in_a_column_is_seen(column, mistaken, golden, tmp_path):
    case = next(case for case in CASES if case.row == "CoAtNet1RW")
    tensors = tensors_of(case, golden)
    model = load(case, tensors, SQUARE, tmp_path, **{column: mistaken})
    assert worst(model(timm_golden.images(SQUARE)), case, SQUARE, golden) > 1e-4


def test_padding_behind_is_seen(golden, tmp_path, monkeypatch):
    case = next(case for case in CASES if case.row == "CoAtNet1RW")
    edge = {"padding": ((0, 1), (0, 1))}
    real = keras.layers.ZeroPadding2D
    monkeypatch.setattr(keras.layers, "ZeroPadding2D", lambda size, name: real(name=name, **edge))
    model = load(case, tensors_of(case, golden), SQUARE, tmp_path)
    assert worst(model(timm_golden.images(SQUARE)), case, SQUARE, golden) > 1e-4


@pytest.mark.parametrize("name", coatnet_rw.VARIANTS)
def test_counts_are_those_of_timm(name):
    assert kev.model_info(name)["trainable_parameters"] == COUNTS[name]


@pytest.mark.parametrize("name", ["CoAtNetNanoRW", "CoAtNet0RWBN", "CoAtNeXtNanoRW"])
def test_built_models_have_the_counts(name):
    model = getattr(kev, name)(weights=None)
    assert model.count_params() == kev.model_info(name)["parameters"]
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trainable == COUNTS[name]


def test_columns_have_known_words():
    with pytest.raises(ValueError, match="`pool` of a variant is one of mean, max.*'avg'"):
        small("CoAtNet0RW", pool="avg")
    with pytest.raises(ValueError, match="`stride_at` of a variant is one of expand, depthwise"):
        dataclasses.replace(coatnet.VARIANTS["CoAtNet0"], stride_at="pool")
