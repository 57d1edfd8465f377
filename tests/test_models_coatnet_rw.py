"""timm's CoAtNets: the numbers that timm gives, its counts, and what else a model of ours can do."""

import dataclasses
import json
import zipfile

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
    logits, *maps = map(keras.ops.convert_to_numpy, outputs)
    key = f"{case.timm}/{size[1]}"
    pairs = [(logits, golden[f"{key}/logits"])]
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


# -------------------------------------------------------------------- what a model of ours can do


@pytest.fixture(scope="module")
def published(golden, tmp_path_factory):
    """A file under the name of a release, whose contract it therefore has."""
    case = next(case for case in CASES if case.row == "CoAtNet0RW")
    path = tmp_path_factory.mktemp("files") / "coatnet_0_rw_224.sw_in1k.safetensors"
    safetensors.numpy.save_file(tensors_of(case, golden), path)
    return path


def test_a_released_file_has_the_contract_of_its_release(published, tmp_path):
    model = coatnet_rw.build(small("CoAtNet0RW"), weights=str(published))
    wanted = {"pixels": "127.5", "crop": 0.95, "resize": "pillow-bicubic", "image_size": 224}
    assert model.get_layer("pixels").contract().items() >= wanted.items()
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    again = coatnet_rw.build(small("CoAtNet0RW"), weights=str(tmp_path / "m.weights.h5"))
    for copy in (keras.models.load_model(tmp_path / "m.keras"), again):
        assert copy.get_layer("pixels").contract().items() >= wanted.items()
        np.testing.assert_array_equal(copy.get_weights()[0], model.get_weights()[0])


def test_a_fresh_head_and_parts_of_the_network(published):
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    row, whole = small("CoAtNet0RW"), dict(weights=str(published))
    model = coatnet_rw.build(row, classes=3, **whole)
    assert model(images).shape == (2, 3)
    vector = coatnet_rw.build(row, include_top=False, pooling="avg", **whole)
    both = keras.Model(model.input, model.get_layer("avg_pool").output)
    np.testing.assert_array_equal(vector(images), both(images))
    pyramid = coatnet_rw.build(row, features=["reduction_2", "reduction_5"], **whole)(images)
    assert {key: x.shape for key, x in pyramid.items()} == {
        "reduction_2": (2, 16, 24, 32),
        "reduction_5": (2, 2, 3, 128),
    }


@pytest.mark.parametrize(
    "lack", ["stages.2.blocks.1.attn.proj.bias", "norm.weight", "head.fc.bias"]
)
def test_every_tensor_is_used_and_every_variable_filled(lack, golden, tmp_path):
    case = next(case for case in CASES if case.row == "CoAtNet1RW")
    tensors = tensors_of(case, golden)
    with pytest.raises(ValueError, match="unexpected stages.0.blocks.7.extra"):
        load(case, {**tensors, "stages.0.blocks.7.extra": np.ones(3)}, SQUARE, tmp_path)
    del tensors[lack]
    with pytest.raises(ValueError, match="missing"):
        load(case, tensors, SQUARE, tmp_path)


def test_what_no_reader_takes(published, tmp_path):
    content = published.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut.safetensors is a damaged safetensors file"):
        weights.read(tmp_path / "cut.safetensors")
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with zipfile.ZipFile(tmp_path / "new.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    for name in ("old.pth", "new.bin"):
        with pytest.raises(ValueError, match="runs whatever code.*Take the same weights as .safe"):
            weights.read(tmp_path / name)


def test_the_papers_networks_name_the_ones_with_weights():
    with pytest.raises(ValueError, match="No weights of CoAtNet0 were ever released.*CoAtNet0RW"):
        kev.CoAtNet0(weights="imagenet")
    rows = [row for name in coatnet_rw.VARIANTS for row in kev.list_weights(name)]
    assert len(rows) == 16 and all("Apache-2.0" in row.source for row in rows)
    for name, variant in coatnet_rw.VARIANTS.items():
        assert variant.weights in [row.tag for row in kev.list_weights(name)]


def test_softmax_is_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = coatnet_rw.build(small("CoAtNet0RW"), weights=None, classes=10)
    finally:
        keras.config.set_dtype_policy("float32")
    attention = model.get_layer("block3a_attention")
    x = timm_golden.images((4, 4))[..., :1].repeat(64, -1)
    found = attention(x, return_attention=True)[1]
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(np.sum(found, -1), 1, atol=1e-6)
