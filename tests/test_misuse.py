"""Misuse of public functions: one sentence of ours that names what came, and nothing left behind."""

import dataclasses
import inspect
import pathlib
import traceback

import keras
import numpy as np
import pytest
from conftest import build_convnet, dense, tiny_data

import keras_effv2 as kev
from keras_effv2 import evaluation
from keras_effv2.data import Data, Split
from keras_effv2.models import VARIANTS
from keras_effv2.phases import Phase
from keras_effv2.recipes import Recipe

PACKAGE = str(pathlib.Path(kev.__file__).parent)
# an expression, words of its error
ROWS = [
    # builders and rows
    ('b0(weights="imagenet1k")', "has no weights 'imagenet1k'. Known tags: imagenet"),
    ('b0(weights="none.h5")', "There is no weights file none.h5"),
    ("b0(weights=3)", "`weights` is a tag, a path or None. Received: int 3."),
    ("b0(weights=None, classes=0)", "`classes`"),
    ("b0(weights=None, classes=2.5)", "`classes`"),
    ('b0(weights=None, pooling="mean", include_top=False)', "pooling"),
    ("b0(weights=None, classes=True)", "`classes` is a whole number from 1. Received: True."),
    ('b0("no", None)', "`include_top` is True or False. Received: str 'no'."),
    ("b0(10)", "`include_top` is True or False. Received: int 10."),
    ("b0(weights=None, include_preprocessing=None)", "`include_preprocessing` is True or False."),
    ("b0(weights=None, input_shape=(32,))", "input_shape"),
    ("b0(weights=None, input_shape=64)", "`input_shape` is (height, width, channels), whole"),
    ("b0(weights=None, input_shape=('64', 64, 3))", "Received: input_shape=('64', 64, 3)."),
    ("b0(weights=None, input_shape=(64.0, 64, 3))", "Received: input_shape=(64.0, 64, 3)."),
    ("b0(weights=None, input_shape=(64, 64, 0))", "Received: input_shape=(64, 64, 0)."),
    ("b0(weights=None, features=3)", "`features` is a list of names. Received: int 3."),
    ("b0(weights=None, drop_path=1.5)", "is a probability in [0, 1). Received: rate=1.5."),
    ("b0(weights=None, dropout=-0.1)", "dropout"),
    ('kev.CoAtNet0(weights="imagenet")', "No weights of CoAtNet0 were ever released"),
    ("kev.CoAtNet0(weights=None, input_shape=(100, 100, 3))", "100"),
    ('kev.models.builder("b9")', "There is no model 'b9'"),
    ('kev.load_variant("none.json")', "There is no"),
    ('kev.save_variant("EfficientNetV2B0x", "v.json")', "save_variant writes a Variant"),
    ('kev.model_info("VGG")', "There is no model 'VGG'"),
    ('kev.model_info("b0", image_size="big")', "A side of `image_size` is a whole number from 1"),
    ('kev.model_info("b0", image_size=0)', "A side of `image_size` is a whole number from 1"),
    ('kev.model_info("b0", classes=-1)', "`classes` is a whole number from 0. Received: -1."),
    ('kev.scale("CoAtNet0", 1)', "CoAtNet0"),
    ("kev.list_weights(3)", "`model` is the name of a builder. Received: int 3."),
    ('kev.unseen("nothing", None)', "No data set 'nothing'"),
    ("kev.list_models(3)", "`pattern` is a pattern of names, such as '*v2b?'. Received: int 3."),
    ('kev.coatnet.layout("TCCC")', "a C first"),
    ("kev.coatnet.layout(None)", "`letters` is a layout, such as 'CCTT'. Received: NoneType None."),
    # data
    ('kev.data.load("photos")', "No data set 'photos'"),
    ("kev.data.load(7)", "No data set '7'"),
    ('kev.data.load("digits", validation=2)', "`validation` is in [0, 0.5). Received: 2."),
    ('kev.data.load("digits", validation="a")', "`validation` is a number in [0, 0.5)"),
    ('kev.data.load("digits", seed="a")', "`seed` is a whole number in [0, 4294967296)"),
    ('kev.data.load("csv:none.csv")', "none.csv"),
    ('kev.data.load("keras:mnist")', "There is no keras:mnist"),
    (
        'Split("ab", [0, 1], pictures)',
        "`class_names` is a list of names, each once. Received: 'ab'",
    ),
    ('Split(["a", "a"], [0, 1], pictures)', "each once. Received: 'a' twice."),
    ("Split([], [], pictures[:0])", "`class_names` is a list of names, each once. Received: []."),
    (
        "Split([0, 1], [0, 1], pictures)",
        "`class_names` is a list of names, each a text. Received: i",
    ),
    ('Split([b"a", b"b"], [0, 1], pictures)', "each a text. Received: bytes b'a'."),
    ('Data("x", ["a"], None)', "x has no split: give `train`, `validation` or `test`."),
    ('Data("x", ["a"], pictures)', "`train` is a Split, or None. Received: ndarray."),
    ("replace(data, unknown=data)", "`unknown` is a Split, or None. Received: Data"),
    (
        'Data("x", ["b", "a"], Split(["a", "b"], [0, 1], pictures))',
        "in the same order. Received: a, b for b, a.",
    ),
    ('Split(["a", "b"], [0, 1], None)', "or a list of file names. Received: NoneType None."),
    ('Split(["a", "b"], [0], ["no.jpg"])', "`pictures` names 'no.jpg', and there is no such file."),
    ('Split(["a", "b"], [0], [b"GIF8\\0"])', "a list with the content of a file at position 0."),
    ('Split(["a", "b"], [0, 1], pictures[:, :0])', "Received: uint8 (2, 0, 8, 3)."),
    ('Split(["a", "b"], [0, 2], pictures)', "`labels` are integers in 0 .. 1"),
    ('Split(["a", "b"], ["a", "b"], pictures)', "give the position of each name"),
    (
        "data.train.eval_batches(image_size=0, batch_size=4)",
        "`image_size` is a whole number from 1",
    ),
    (
        "data.train.eval_batches(image_size=9, batch_size=0)",
        "`batch_size` is a whole number from 1",
    ),
    # recipes and phases
    ('kev.recipes.get("best")', "best"),
    (
        'kev.recipes.rescale(recipe, {"epochs": "three"})',
        "`epochs` of a recipe is a whole number in",
    ),
    ("replace(recipe, epochs=2.5)", "`epochs` of a recipe is a whole number in [1, "),
    ('replace(recipe, learning_rate="fast")', "`learning_rate` of a recipe is a number in [0, "),
    ("replace(recipe, learning_rate=float('nan'))", "`learning_rate` of a recipe is in [0, "),
    ("replace(recipe, crop_area=(1, 0.1))", "`crop_area` of a recipe is (low, high) in (0, 1]"),
    ('replace(recipe, optimizer="adam2")', "`optimizer` of a recipe is one of"),
    ("replace(recipe, phases=(Phase(0, 1),))", "The phases end at epoch 1, the recipe has 2"),
    ("replace(recipe, phases=(Phase(1, 2),))", "expected one that starts at epoch 0"),
    ("kev.ramp(3, 0)", "cannot have 0 phases"),
    ("kev.ramp(4, 2, image_size=(1, 2, 3))", "`image_size` is a pair (first, last)"),
    (
        "kev.ProgressiveLearning(3)",
        "`phases` is rows of Phase, such as keras_effv2.ramp(...) gives",
    ),
    ("dataset((pictures, [0, 1]), 0)", "`batch_size` is a whole number from 1. Received: 0."),
    ("dataset((pictures, [0, 1]), '2')", "`batch_size` is a whole number from 1. Received: '2'."),
    (
        "dataset((pictures, [0, 1]), 2, classes=2.5)",
        "`classes` is a whole number from 1. Received: 2",
    ),
    ("dataset((pictures, [0, 1]), 2, steps=-1)", "`steps` is a whole number from 1. Received: -1."),
    (
        "dataset((pictures, [0, 1]), 2, {'flip': 1})",
        "`augment` is an Augment, or None. Received: di",
    ),
    # training
    ('kev.train(model, "digits", recipe, "w")', "`data` is what keras_effv2.data.load(...) gives."),
    (
        'kev.train("b0", data, recipe, "w")',
        "`model` is a keras.Model, or a function that builds one",
    ),
    ('kev.train(model, data, "imagenet1k", "w")', "`recipe` is a Recipe, such as"),
    ('kev.train(model, data, recipe, "w", "many")', "`strategy` is one of"),
    (
        'kev.train(model, data, recipe, "w", callbacks=stopping)',
        "`callbacks` is a list of callbacks",
    ),
    ('kev.train(model, data, recipe, "w", steps_per_call=0)', "`steps_per_call` is a whole number"),
    (
        'kev.train(model, data, recipe, "w", steps_per_call=-1)',
        "`steps_per_call` is a whole number",
    ),
    ('kev.train(model, data, recipe, "w", start="imagenet")', "`start` is a dictionary"),
    ('kev.train(model, data, replace(recipe, batch_size=99), "w")', "A batch of 99 is larger than"),
    ('kev.train(flat, data, recipe, "w")', "inputs of shape (None, 5), no pictures"),
    ('kev.train(dense(7), data, recipe, "w")', "7 outputs"),
    ('kev.finetune("VGG", data, "w")', "There is no model 'VGG'"),
    ('kev.finetune("b0", "digits", "w")', "`data` is what keras_effv2.data.load(...) gives."),
    ('kev.finetune("b0", data, "w", weights="best")', "has no weights 'best'"),
    ('kev.finetune("b0", data, "w", epochs=0)', "`epochs` is a whole number from 1. Received: 0."),
    ('kev.finetune("b0", data, "w", epochs=1.5)', "`epochs` is a whole number from 1"),
    ('kev.finetune("b0", data, "w", batch_size=0)', "`batch_size` is a whole number from 1"),
    ('kev.finetune("b0", data, "w", class_weight="equal")', "`class_weight` is 'none', 'auto' or"),
    ('kev.finetune("b0", data, "w", unknown=2)', "in (0, 1). Received: 2."),
    ('kev.finetune("b0", data, "w", time_limit=20)', "`time_limit` is a time such as '90s'"),
    ('kev.finetune("b0", data, "w", precision="double")', "`precision` of a recipe is one of"),
    ('kev.freeze("b0", "batch_norm")', "`model` is a keras.Model. Received: str 'b0'."),
    (
        'kev.freeze(model, "some")',
        "`policy` is one of none, batch_norm, backbone. Received: 'some'.",
    ),
    # evaluation
    ('kev.evaluate("m.keras", data)', "`model` is a keras.Model. Received: str 'm.keras'."),
    ('kev.evaluate(model, "digits")', "`data` is what keras_effv2.data.load(...) gives."),
    ('kev.evaluate(model, data, split="dev")', "has no split 'dev'"),
    ("kev.evaluate(model, data, image_size=0)", "`image_size` is a whole number from 1"),
    ("kev.evaluate(model, data, batch_size=-5)", "`batch_size` is a whole number from 1"),
    ("kev.evaluate(dense(7), data)", "7 outputs and no class names, the data has 4 classes"),
    ("kev.evaluate(model, replace(data, test=data.train.select([])))", "`test` has no pictures."),
    (
        "find_doubts(zeros(2, 3), [0, 1], 'ab')",
        "an array (n, 2), a row for each of the 2 labels. R",
    ),
    ("find_doubts(zeros(3, 2), [0, 1], 'ab')", "the 2 labels. Received: float32 (3, 2)."),
    ("find_doubts(zeros(2, 2), [0, 2], 'ab')", "`labels` are integers in 0 .. 1, for 2 classes."),
    (
        "calibrate(model, data)",
        "`split` is a split of pictures, such as `data.validation`. Received:",
    ),
    ("calibrate(model, pictures)", "such as `data.validation`. Received: ndarray."),
    (
        "calibrate(model, data.train, strangers=pictures, share=0.1)",
        "`strangers` is a split of pict",
    ),
    ("calibrate(model, data.train, share='5 %')", "in (0, 1). Received: '5 %'."),
    (
        "calibrate(model, data.train, class_weights=[1, 1])",
        "is an array (4,) of numbers above 0, one",
    ),
    ("calibrate(model, data.train, class_weights={'red': 1})", "Received: dict {'red': 1}."),
    ("calibrate(model, data.train, class_weights=[1, 1, 0, 1])", "Received: [1, 1, 0, 1]."),
    ("calibrate(model, data.train, class_weights=4 * [nan.max()])", "(4,) with NaN or infinity."),
    ("calibrate_several(model, data)", "`split` is a split of pictures"),
    ("kev.gradcam(model, zeros(32, 32, 3))", "`images` is an array (n, height, width, 3)"),
    ("kev.gradcam(model, zeros(1, 32, 32, 1))", "`images` is an array (n, height, width, 3)"),
    ('kev.gradcam(model, "photo.jpg")', "`images` is an array (n, height, width, 3)"),
    ("kev.gradcam(model, nan)", "Received: float64 (1, 9, 8, 3) with NaN or infinity."),
    ("kev.gradcam(model, [[1], [1, 2]])", "as the model takes it. Received: list [[1], [1, 2]]."),
    ("kev.gradcam(model, zeros(1, 32, 32, 3), 99)", "99"),
    ("kev.gradcam(model, zeros(1, 32, 32, 3), 1.5)", "`class_index` is one class out of 0 to 3"),
    ("kev.gradcam(model, zeros(1, 32, 32, 3), 'red')", "`class_index` is one class out of 0 to 3"),
    ("attention_maps('b0', zeros(1, 32, 32, 3))", "`model` is a keras.Model. Received: str 'b0'."),
    ("attention_maps(model, zeros(32, 32, 3))", "`images` is an array (n, height, width, 3)"),
    (
        "kev.class_names(twice)",
        "takes (None, None, None, 3) and gives (None, 4), (None, 4); what is",
    ),
    ('kev.export(flat, "o")', "takes (None, 5) and gives (None, 4); what is wanted is one image"),
    (
        'kev.export_hub(flat, "o")',
        "takes (None, 5) and gives (None, 4); what is wanted is one image",
    ),
    ('kev.class_names("m.keras")', "`model` is a keras.Model. Received: str 'm.keras'."),
    ('kev.prepare_image("b0", "x.jpg")', "`model` is a keras.Model. Received: str 'b0'."),
    ("kev.prepare_image(model, zeros(8, 8))", "`picture` is a path, the bytes of a file, an image"),
    ("kev.prepare_image(model, None)", "(height, width, 3) of 0..255. Received: NoneType None."),
    ("kev.prepare_image(model, zeros(0, 8, 3))", "of 0..255. Received: float32 (0, 8, 3)."),
    ("kev.prepare_image(model, nan[0])", "Received: float64 (9, 8, 3) with NaN or infinity."),
    ("kev.prepare_image(model, picture / 255)", "0..255. Received: 0 to 0.843137. Bring them to"),
    ("kev.prepare_image(model, picture - 1)", "`picture` has pixels 0..255. Received: -1 to 214."),
    ("kev.prepare_image(model, 257 * picture.astype('int64'))", "Received: 0 to 55255."),
    ("kev.imagenet.decode_predictions(zeros(1, 7))", "`preds` is an array (batch, classes)"),
    ("kev.imagenet.preprocess_input(picture, model='b0')", "`model` is a keras.Model. Received: s"),
    ("kev.imagenet.preprocess_input('a.jpg', model=bare)", "of 0..255. Received: str 'a.jpg'."),
    ("kev.imagenet.preprocess_input([None] * 3, model=bare)", "Received: list [None, None, None]."),
    (
        "kev.imagenet.preprocess_input(zeros(1, 8, 8, 1), model=bare)",
        "Received: float32 (1, 8, 8, 1).",
    ),
    (
        "kev.imagenet.preprocess_input(zeros(1, 3, 8, 8), model=bare)",
        "(..., height, width, 3) of 0..25",
    ),
    ("kev.imagenet.preprocess_input(picture + 1j, model=bare)", "Received: complex128 (9, 8, 3)."),
    ("kev.imagenet.decode_predictions('x.npy')", "ImageNet head. Received: str 'x.npy'."),
    ("kev.imagenet.decode_predictions(zeros(1, 1000) > 0)", "Received: bool (1, 1000)."),
    ("kev.imagenet.decode_predictions(zeros(1, 1000) + nan.max())", "1000) with NaN or infinity"),
    ("kev.imagenet.decode_predictions([[0.5], [0.5, 0.5]])", "Received: list [[0.5], [0.5, 0.5]]."),
    ("kev.imagenet.decode_predictions(zeros(1, 1000), top=0)", "`top` is a whole number from 1"),
    # exports and hubs
    ('kev.export(model, "o", "pickle")', "pickle"),
    ('kev.export(model, "o", images="a.jpg")', "(n, height, width, 3), 0..255. Received: str 'a.j"),
    ('kev.export(model, "o", images=[[1], [1, 2]])', "0..255. Received: list [[1], [1, 2]]."),
    ('kev.export(model, "o", images=picture[None] > 0)', "Received: bool (1, 9, 8, 3)."),
    ('kev.export(model, "o", images=picture[None] + 1j)', "Received: complex128 (1, 9, 8, 3)."),
    ('kev.export(model, "o", images=nan)', "Received: float64 (1, 9, 8, 3) with NaN or infinity."),
    ('kev.export(model, "o", images=picture[None] / 255)', "0..255. Received: 0 to 0.843137. Br"),
    ('kev.export(model, "o", images=picture[None] * 257)', "`images` has pixels 0..255. Received:"),
    (
        'kev.export(model, "o", min_agreement=95)',
        "is a part of the images, 1 for all. Received: 95",
    ),
    (
        'kev.export(model, "o", min_agreement=nan.max())',
        "`min_agreement` is a number from 0. Receive",
    ),
    ('kev.export_hub(model, "o", labels="abcd")', "There are 1 labels for 4 classes"),
    (
        'kev.export_hub(model, "o", labels=[1, 2, 3, 4])',
        "`labels` is a list of names, each a text. R",
    ),
    ('kev.export_hub(model, "o", labels=7)', "`labels` is a list of names. Received: int 7."),
    ('kev.export(diverged(), "o")', "its weight predictions/bias holds NaN or infinity. The train"),
    (
        'kev.export_hub(diverged(), "o")',
        "its weight predictions/bias holds NaN or infinity. The train",
    ),
    ('kev.export_hub(model, "o", labels=["a"])', "There are 1 labels for 4 classes"),
    ('kev.publish("none", "hf:me/x", dry_run=True)', "holds no finished run"),
    ('kev.HubLayer("none")', "none"),
    ("kev.HubLayer(None)", "`handle` is a folder or an address of a hub. Received: NoneType None."),
    # searching
    ('kev.search(data, "w", space="huge")', "There is no space 'huge'"),
    ('kev.search("digits", "w")', "`data` is what keras_effv2.data.load(...) gives."),
    ('kev.search(data, "w", trials=0)', "`trials` is a whole number from 1. Received: 0."),
    ('kev.search(data, "w", sampler="grid")', "`sampler` is one of"),
    ('kev.layouts(data, "w", image_size=50)', "`image_size` is a multiple of 32 from 64"),
    ('kev.layouts(data, "w", seeds=0)', "`seeds` is a whole number from 1. Received: 0."),
    ('kev.layouts(data, "w", base="b0")', "`base` is a CoAtNet of four stages"),
]


def twice():
    model = dense(4)
    return keras.Model(model.inputs, 2 * model.outputs)


def diverged():
    model = build_convnet()
    model.get_layer("predictions").bias.assign([0, 1, np.nan, 3])
    return model


@pytest.fixture(scope="module")
def names():
    return {
        "kev": kev,
        "flat": keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)]),
        "b0": kev.EfficientNetV2B0,
        "attention_maps": evaluation.attention_maps,
        "dataset": kev.ProgressiveLearning(kev.ramp(2, 2, image_size=(8, 16))).dataset,
        "find_doubts": evaluation.find_doubts,
        "calibrate": evaluation.calibrate,
        "calibrate_several": evaluation.calibrate_several,
        "data": tiny_data(),
        "model": build_convnet(),
        "bare": keras.Sequential([keras.Input((None, None, 3)), kev.layers.Pixels(enabled=False)]),
        "twice": twice(),
        "diverged": diverged,
        "dense": dense,
        "pictures": np.zeros((2, 8, 8, 3), "uint8"),
        "picture": np.arange(216.0).reshape(9, 8, 3),
        "nan": np.full((1, 9, 8, 3), np.nan),
        "zeros": lambda *shape: np.zeros(shape, "float32"),
        "recipe": Recipe("tiny", "tests", 2, 16, 1e-3),
        "replace": dataclasses.replace,
        "stopping": keras.callbacks.EarlyStopping(),
        **{"Data": Data, "Split": Split, "Phase": Phase},
    }


@pytest.mark.parametrize(("expression", "words"), ROWS, ids=[row[0] for row in ROWS])
def test_one_sentence(expression, words, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = names["model"].get_weights()
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        eval(expression, dict(names))
    assert all(map(np.array_equal, names["model"].get_weights(), weights))
    message = str(caught.value)
    assert words in message and "\n" not in message.strip()
    raised_by = traceback.extract_tb(caught.value.__traceback__)[-1].filename
    assert raised_by.startswith(PACKAGE)
    assert not [*tmp_path.iterdir()]


def test_every_public_function_is_misused():
    used = " ".join(row[0] for row in ROWS)
    functions = [
        name
        for name in kev.__all__
        if inspect.isfunction(getattr(kev, name)) and name not in VARIANTS
    ]
    assert not [name for name in functions if f"kev.{name}(" not in used]
