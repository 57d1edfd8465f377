"""Recipes against their sources, and what training makes of them against written-out arithmetic."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import tiny_coatnet_row, tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2 import data, finetuning, optimizers, recipes, variants
from keras_effv2.models import coatnet_rw
from keras_effv2.phases import Phase, check, ramp
from keras_effv2.recipes import Recipe

V2 = [f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L", "XL")]
COATNET = [f"CoAtNet{number}" for number in range(6)]


def recipe(**changes):
    return Recipe(**{"name": "r", "source": "-", "epochs": 6, "batch_size": 8, **changes})


def black():
    """Black pictures of two classes: a linear model sees its bias alone."""
    labels = np.arange(8) % 2
    split = data.Split(["a", "b"], labels, np.zeros((8, 4, 4, 3), "uint8"))
    return data.Data("black", split.class_names, split)


def train(tmp_path, kernel, bias, **changes):
    images = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(images))
    x = keras.layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(2))(x)
    head = keras.layers.Dense(2, activation=changes.get("loss", "softmax"), name="head")
    model = keras.Model(images, head(x))
    head.set_weights([kernel, np.array(bias)])
    phases = (Phase(0, 6, image_size=4),)
    settings = recipe(phases=phases, crop_area=(1.0, 1.0), flip=False, **changes)
    return kev.train(model, black(), settings, tmp_path, strategy="one", progress=False)


@pytest.mark.parametrize(
    "optimizer, peak, decay, scale",
    # AdamW turns rounding errors into steps of the learning rate: small beside a large kernel
    (("adamw", 1e-3, 9.0, 100), ("sgd", 0.5, 0.1, 1), ("rmsprop", 0.5, 0.1, 1)),
)
def test_training_decays_kernels_and_leaves_norms_and_biases(
    tmp_path, optimizer, peak, decay, scale
):
    """Black pictures, equal biases and balanced labels: all gradients of the loss are 0."""
    kernel, rates = scale * np.linspace(-1, 1, 6).reshape(3, 2), []
    for step in range(6):  # one step an epoch, two of warm-up
        cosine = (1 + np.cos(np.pi * (step - 2) / 4)) / 2
        rates.append(peak * (step / 2 if step < 2 else cosine))
    result = train(
        tmp_path,
        kernel,
        [3, 3],
        optimizer=optimizer,
        learning_rate=peak,
        warmup_epochs=2,
        weight_decay=decay,
    )
    wanted, square, momentum = kernel, np.ones((3, 2)), np.zeros((3, 2))
    for rate in rates:
        if optimizer == "rmsprop":  # the gradient of decay / 2 * sum(w**2)
            square = 0.9 * square + 0.1 * (decay * wanted) ** 2
            momentum = 0.9 * momentum + rate * decay * wanted / np.sqrt(square + 1e-3)
            wanted = wanted - momentum
        else:
            wanted = wanted * (1 - rate * decay)
    ours = {weight.name: weight.numpy() for weight in result.model.trainable_weights}
    np.testing.assert_allclose(ours["kernel"], wanted, rtol=1e-4)
    for name, value in {"gamma": 2, "beta": 0, "bias": 3}.items():
        np.testing.assert_allclose(ours[name], np.full(ours[name].shape, value), atol=0.01)


@pytest.mark.parametrize("smoothing", (0.0, 0.2))
@pytest.mark.parametrize("loss", ("softmax", "sigmoid"))
def test_label_smoothing(tmp_path, loss, smoothing):
    bias = np.array([1.0, 3.0])
    result = train(
        tmp_path, np.zeros((3, 2)), bias, learning_rate=0.0, loss=loss, label_smoothing=smoothing
    )
    labels = np.eye(2) * (1 - smoothing) + smoothing / 2  # both classes occur equally often
    if loss == "softmax":
        wanted = -(labels * (bias - np.log(np.exp(bias).sum()))).sum(1).mean()
    else:
        on, off = -np.log1p(np.exp(-bias)), -np.log1p(np.exp(bias))
        wanted = -(labels * on + (1 - labels) * off).sum(1).mean()
    assert result.history[0]["loss"] == pytest.approx(wanted, rel=1e-5)


# ----------------------------------------------------------------------------------------- rows

NOT_FOR = {
    "imagenet1k": ("EfficientNetV2XL", "CoAtNet4", "CoAtNet5"),
    "imagenet1k-automl": (*V2[:4], *COATNET),
    "imagenet21k": ("CoAtNet0", "CoAtNet1", "CoAtNet5"),
    "imagenet1k-ft": (*V2, "CoAtNet4", "CoAtNet5"),
    "imagenet21k-ft1k": ("CoAtNet0", "CoAtNet1", "CoAtNet5"),
    "jft-ft1k": (*V2, "CoAtNet0", "CoAtNet1", "CoAtNet2"),
    "jft": (*V2, "CoAtNet0", "CoAtNet1", "CoAtNet2"),
}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_can_be_trained(name):
    for model in V2 + COATNET:
        if model in NOT_FOR.get(name, ()):
            with pytest.raises(ValueError, match=f"^No recipe '{name}' was published for {model}."):
                recipes.get(name, model)
            continue
        row = recipes.get(name, model)
        assert row.name == name and row.source
        optimizer = optimizers.make_optimizer(recipes.resolved(row, 224), lambda batch: 10)
        optimizer.build([keras.Variable(np.ones((2, 2), "float32"))])
        middle = float(optimizer._learning_rate(10 * row.epochs // 2))
        assert 0 < middle <= row.learning_rate * 1.000001
        for phase in check(row.phases or (Phase(0, row.epochs),)):
            recipes.augment_of(row, phase)
            if model in COATNET and phase.image_size:
                assert phase.image_size % 32 == 0


# field -> value: arXiv 2104.00298 sections 5.1 to 5.3, arXiv 2106.04803 table 10, google/automl
SOURCES = {
    ("imagenet1k", "EfficientNetV2S"): {
        "epochs": 350,
        "batch_size": 4096,
        "learning_rate": 0.256,
        "optimizer": "rmsprop",
        "decay_rate": 0.97,
        "decay_epochs": 2.4,
        "weight_decay": 1e-5,
        "ema": 0.9999,
    },
    ("imagenet21k", "EfficientNetV2L"): {"epochs": 60, "schedule": "cosine"},
    ("imagenet21k-ft1k", "EfficientNetV2L"): {"epochs": 15},
    ("cifar10", "EfficientNetV2L"): {
        "batch_size": 512,
        "learning_rate": 0.001,
        "schedule": "cosine",
        "weight_decay": 0.0,
    },
    ("imagenet1k", "CoAtNet2"): {
        "epochs": 300,
        "batch_size": 4096,
        "learning_rate": 1e-3,
        "min_learning_rate": 1e-5,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "clip": 1.0,
        "ema": 0.0,
    },
    ("imagenet1k-ft", "CoAtNet1"): {"epochs": 30, "batch_size": 512, "learning_rate": 5e-5},
    ("jft-ft1k", "CoAtNet4"): {"batch_size": 512, "weight_decay": 1e-8, "loss": "softmax"},
    ("imagenet21k", "CoAtNet3"): {"epochs": 90, "weight_decay": 0.01, "schedule": "linear"},
    ("imagenet21k-ft1k", "CoAtNet3"): {
        "epochs": 30,
        "learning_rate": 5e-5,
        "weight_decay": 1e-8,
        "ema": 0.9999,
        "schedule": "constant",
        "batch_size": 1024,
        "crop": "none",
    },
}


def test_networks_are_evaluated_at_larger_sizes_than_they_train_at():
    """arXiv 2104.00298 table 7 and google/automl's configurations."""
    sizes = {"B0": 224, "B3": 300, "S": 384, "M": 480, "L": 480}
    for size, wanted in sizes.items():
        row = recipes.get("imagenet1k", f"EfficientNetV2{size}")
        assert row.eval_size == wanted > row.phases[-1].image_size
    for size, wanted in {"B2": 256, "B3": 288, "L": 480, "XL": 512}.items():
        row = recipes.get("imagenet21k-ft1k", f"EfficientNetV2{size}")
        assert row.phases[-1].image_size == wanted


def test_stochastic_depth_of_fine_tuning_is_that_of_its_pretraining():
    """arXiv 2106.04803 table 10."""
    for name, wanted in {
        "imagenet1k-ft": {"CoAtNet0": 0.2, "CoAtNet3": 0.7},
        "imagenet21k-ft1k": {"CoAtNet2": 0.3, "CoAtNet3": 0.5, "CoAtNet4": 0.7},
        "jft-ft1k": {"CoAtNet3": 0.1, "CoAtNet4": 0.3, "CoAtNet5": 0.2},
    }.items():
        for model, rate in wanted.items():
            assert recipes.get(name, model).phases[0].drop_path == rate
    with pytest.raises(ValueError, match="published for CoAtNet1"):
        recipes.get("imagenet21k-ft1k", "CoAtNet1")


@pytest.mark.parametrize("name, model", SOURCES)
def test_rows_hold_their_sources_numbers(name, model):
    ours = dataclasses.asdict(recipes.get(name, model))
    wanted = SOURCES[name, model]
    assert {field: ours[field] for field in wanted} == wanted


@pytest.mark.parametrize(
    "name, model, sizes",
    (
        ("imagenet1k", "EfficientNetV2S", [128, 185, 243, 300]),
        ("imagenet1k", "EfficientNetV2M", [128, 212, 296, 380]),
        # google/automl starts a quarter of the way up
        ("imagenet1k-automl", "EfficientNetV2S", [171, 214, 257, 300]),
        ("imagenet1k-automl", "EfficientNetV2L", [192, 256, 320, 384]),
    ),
)
def test_sizes_of_the_phases(name, model, sizes):
    assert [phase.image_size for phase in recipes.get(name, model).phases] == sizes


@pytest.mark.parametrize("name, images", (("cifar10", 50_000), ("flowers", 2040), ("cars", 8144)))
def test_transfer_makes_10_000_steps(name, images):
    row = recipes.get(name)
    steps = images // row.batch_size  # an epoch leaves its remainder out
    assert 10_000 <= row.epochs * steps < 10_000 + 2 * steps


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(ValueError) as error:
        recipes.get("imagenet")
    assert str(error.value) == (
        f"There is no recipe 'imagenet'. Recipes: {', '.join(recipes.RECIPES)}."
    )


@pytest.mark.parametrize(
    "name, model", (("imagenet21k-ft1k", "EfficientNetS"), ("imagenet21k", "coatnet2b"))
)
def test_an_unknown_model_lists_the_known(name, model):
    with pytest.raises(ValueError) as error:
        recipes.get(name, model)
    known = ", ".join((*V2, *COATNET, "CoAtNet6", "CoAtNet7", *coatnet_rw.VARIANTS))
    meant = {"EfficientNetS": "EfficientNetV2S", "coatnet2b": "CoAtNet2"}[model]
    assert str(error.value) == (
        f"There is no model '{model}'. Did you mean {meant}? Models: {known}; or the file NAME.json "
        "of a variant."
    )


def test_timms_coatnets_have_the_recipes_of_their_size():
    paper, ours = (recipes.get("imagenet1k-ft", name) for name in ("CoAtNet3", "CoAtNet3RW"))
    assert ours == dataclasses.replace(paper, source=f"{paper.source}, for CoAtNet3")
    for name in coatnet_rw.VARIANTS:
        assert all(phase.image_size % 32 == 0 for phase in recipes.get("digits", name).phases)
    with pytest.raises(ValueError, match="published for CoAtNeXtNanoRW"):
        recipes.get("imagenet21k", "CoAtNeXtNanoRW")


def test_a_model_without_that_recipe_hears_of_its_own():
    with pytest.raises(ValueError) as error:
        recipes.get("imagenet1k", "CoAtNet4")
    assert str(error.value) == (
        "No recipe 'imagenet1k' was published for CoAtNet4. Its recipes: imagenet21k, "
        "imagenet21k-ft1k, jft, jft-ft1k, cifar10, cifar100, flowers, cars, finetune, digits, "
        "search."
    )


def test_the_row_of_fine_tuning_is_what_was_measured():
    """docs/measured.md: 1,800 flowers, batch 32 at 5e-4, 11 epochs up to 224 pixels."""
    row = recipes.get("finetune", "EfficientNetV2B0")
    assert finetuning.plan("EfficientNetV2B0", 1800, accelerator=False) == row
    assert (row.batch_size, row.learning_rate, row.epochs) == (32, 5e-4, 11)
    assert row.phases[-1].image_size == 224
    few = finetuning.plan("EfficientNetV2B0", 128, accelerator=False)
    assert (few.batch_size, few.learning_rate) == (16, 2.5e-4)


WRONG = {
    "optimizer": ("lamb", "is one of rmsprop, adamw, sgd. Received: 'lamb'"),
    "schedule": ("cos", "is one of cosine, linear, staircase, constant. Received: 'cos'"),
    "loss": ("mse", "is one of softmax, sigmoid. Received: 'mse'"),
    "precision": (
        "bf16",
        "is one of float32, mixed_bfloat16, mixed_float16, auto. Received: 'bf16'",
    ),
    "crop": ("centre", "is one of none, automl. Received: 'centre'"),
    "epochs": (0, r"is in \[1, .*Received: 0"),
    "batch_size": (0, r"is in \[1, .*Received: 0"),
    "learning_rate": (float("nan"), r"is in \[0, .*Received: nan"),
    "label_smoothing": (1.0, r"is in \[0, 1\). Received: 1.0"),
    "ema": (1.0, r"is in \[0, 1\). Received: 1.0"),
    "clip": (-1.0, r"is in \[0, .*Received: -1.0"),
    "seed": (-1, r"is in \[0, .*Received: -1"),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_named(field):
    value, message = WRONG[field]
    with pytest.raises(ValueError, match=f"`{field}` of a recipe {message}"):
        recipe(**{"learning_rate": 0.1, field: value})


def test_phases_end_with_the_recipe():
    with pytest.raises(ValueError, match=r"end at epoch 4, the recipe has 6.*ramp\(6, "):
        recipe(learning_rate=0.1, phases=ramp(4, 2))


@pytest.mark.parametrize(
    "epochs, stops",
    (
        (350, [87, 175, 262, 350]),
        (40, [10, 20, 30, 40]),
        (5, [1, 2, 4, 5]),
        (4, [1, 2, 3, 4]),
        (2, [1, 2]),
    ),
)
def test_phases_keep_their_parts_of_another_length(epochs, stops):
    row = recipes.get("imagenet1k", "EfficientNetV2S")
    other = recipes.rescale(row, {"epochs": epochs, "batch_size": 64})
    assert [phase.stop_epoch for phase in other.phases] == stops
    assert [phase.image_size for phase in other.phases] == [128, 185, 243, 300][-len(stops) :]
    assert (other.epochs, other.batch_size, other.ema) == (epochs, 64, row.ema)


def test_a_length_without_epochs_is_refused():
    with pytest.raises(ValueError, match=r"`epochs` of a recipe is in \[1, .*Received: 0"):
        recipes.rescale(recipes.get("imagenet1k", "EfficientNetV2S"), {"epochs": 0})


def test_a_network_that_was_not_published_has_the_recipes_that_fit_any(tmp_path):
    row = tiny_efficientnet_row()
    variants.save_variant(row, tmp_path / "mine.json")
    for name in ("digits", "finetune", "cifar10", "search"):
        recipe = recipes.get(name, row)
        assert recipe == recipes.get(name, tmp_path / "mine.json") and recipe.name == name
    with pytest.raises(ValueError, match="published for TinyEfficientNetV2.*digits, search"):
        recipes.get("imagenet1k", row)
    assert {
        phase.image_size % 32 for phase in recipes.get("digits", tiny_coatnet_row()).phases
    } == {0}
