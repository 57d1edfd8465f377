"""Fine-tune on your pictures."""

from keras_effv2.arguments import check_auto
from keras_effv2.cli import flags
from keras_effv2.cli.settings import class_weight
from keras_effv2.cli.train import finish

USAGE = "--data=... --workdir=... [FLAGS]"


def define(values):
    meaning = (
        "Name of the model; effv2 models lists them; auto: the largest EfficientNetV2 whose whole plan "
        "fits into --time_limit."
    )
    flags.model(values, "auto", meaning=meaning)
    meaning = "What to start from: a tag, a path, default (the model's usual tag) or none."
    flags.path(values, "weights", meaning, default="default")
    flags.run(values)
    flags.integer(values, "epochs", None, "Epochs of the whole network; default: by the data.", 1)
    size = "Largest side in pixels; default: by machine and data."
    flags.image_size(values, meaning=size, low=32)
    flags.batch_size(values, None, "Global batch size; default: by the data.")
    flags.boolean(values, "flip", True, "Mirror half of the pictures; not for letters.")
    meaning = (
        "How much pictures count by their class: auto (classes alike), none (pictures alike), or "
        "NAME=WEIGHT,NAME=WEIGHT."
    )
    flags.string(values, "class_weight", "auto", meaning)
    meaning = (
        "Part of strange pictures that may be named, 0.01 to 0.99: the rest is said to be unknown; "
        "default: 0.05 where the data has a folder unknown, else something is always named."
    )
    flags.number(values, "unknown", meaning, 0.01, 0.99)
    meaning = (
        "Such as 90s, 20m or 1.5h in all: size and epochs that are not given are planned to fit."
    )
    flags.string(values, "time_limit", None, meaning)
    flags.precision(
        values, "mixed_* where the device is faster in it, auto: timed here; the model keeps it."
    )
    flags.integer(values, "seed", 0, "Seed.", 0, (1 << 32) - 1)
    flags.boolean(values, "hub", True, "Also export for TF Hub.")


def run(values, _):
    flags.require(values, "workdir", "data")
    weights = class_weight(values.class_weight)
    from keras_effv2.weights.loading import check_weights

    try:
        check_auto(values.model, values.weights, values.time_limit)
    except ValueError as error:
        raise flags.UsageError(str(error)) from None
    if values.weights not in ("default", "none"):
        check_weights(values.model, values.weights)
    flags.check_data(values)

    from keras_effv2 import finetuning, training

    # workers have to meet before anything else uses TensorFlow
    strategy = training.make_strategy(values.strategy, values.tpu)
    data = flags.load_data(values)
    result, evaluation = finetuning.finetune(
        values.model,
        data,
        values.workdir,
        weights=None if values.weights == "none" else values.weights,
        epochs=values.epochs,
        image_size=values.image_size,
        batch_size=values.batch_size,
        flip=values.flip,
        class_weight=weights,
        unknown=values.unknown,
        time_limit=values.time_limit,
        precision=values.precision,
        seed=values.seed,
        strategy=strategy,
        hub=values.hub,
    )
    if evaluation is not None:
        finish(values, result, evaluation, data)
