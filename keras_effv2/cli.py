"""The command `effv2`: models, predict, train, finetune, evaluate, export, convert, benchmark, doctor."""

import dataclasses
import glob
import inspect
import itertools
import json
import os
import re
import sys
import typing
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags, logging  # noqa: E402

DONE, FAILED, USAGE = 0, 1, 2
# what --recipe.FIELD=VALUE and --ramp.ARGUMENT=VALUE become
_DOTTED = {"recipe": "recipe_field", "ramp": "ramp_argument"}
_FIXED = ("name", "source", "phases")  # recipe fields that no flag sets


class UsageError(Exception):
    """The command cannot be understood."""


def main(argv=None):
    """Runs a command line; returns the exit code: 0 done, 1 failed, 2 bad usage, 143 terminated."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return DONE if argv else USAGE
    name, *rest = argv
    if name not in COMMANDS:
        print(
            f"effv2: there is no command {name!r}. Commands: {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return USAGE
    command = COMMANDS[name]
    values = flags.FlagValues()
    flags.DEFINE_integer(
        "verbosity", 0, "-1: warnings only; 1: tracebacks too.", flag_values=values
    )
    command.define(values)
    if any(text in ("-h", "--help", "-help") for text in rest):
        print(_help(name, command, values))
        return DONE
    try:
        rest = [_undotted(text) for text in rest]
        positional = values(["effv2", *rest])[1:]
        if positional and name != "predict":
            raise UsageError(
                f"{positional[0]!r} belongs to no flag; write --flag=value, and --noflag for no"
            )
        logging.set_verbosity(values.verbosity)
        return command.run(values, positional) or DONE
    except (flags.Error, UsageError) as error:
        print(f"effv2 {name}: {_sentence(error)} See effv2 {name} --help.", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"effv2 {name}: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if values.is_parsed() and values.verbosity > 0:
            raise
        print(f"effv2 {name}: {_sentence(error)}", file=sys.stderr)
        return FAILED


def _undotted(text):
    """`--recipe.FIELD=VALUE` as a flag that absl knows."""
    return re.sub(r"^--?(recipe|ramp)\.", lambda dotted: f"--{_DOTTED[dotted[1]]}=", text)


def _sentence(error):
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return text if text.endswith((".", "!", "?")) else text + "."


@dataclasses.dataclass(frozen=True)
class Command:
    summary: str
    usage: str
    define: callable
    run: callable


def _overview():
    rows = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: effv2 COMMAND [FLAGS]\n\nEfficientNetV2 and CoAtNet: use, train, judge and ship "
        f"them.\n\n{rows}\n\neffv2 COMMAND --help tells the flags of a command."
    )


def _help(name, command, values):
    lines = [f"usage: effv2 {name} {command.usage}", "", command.summary, "", "flags:"]
    for key in sorted(set(values) - set(_DOTTED.values())):
        flag = values[key]
        default = "" if flag.default in (None, "") else f" (default {flag.default})"
        lines.append(f"  --{key}: {flag.help}{default}")
    if name == "train":
        from keras_effv2 import progressive, recipes

        fields = [key for key in typing.get_type_hints(recipes.Recipe) if key not in _FIXED]
        lines += [
            "",
            f"recipes: {', '.join(recipes.RECIPES)}",
            "recipe fields, --recipe.FIELD=VALUE:",
            *_meanings(recipes.Recipe, fields),
            "phases of progressive learning, --ramp.ARGUMENT=FIRST,LAST (what is left out stays the "
            "recipe's):",
            *_meanings(progressive.ramp, _ramp_arguments()),
        ]
    return "\n".join(lines)


def _meanings(documented, names):
    """Lines of help out of a docstring's list of arguments or attributes."""
    text = inspect.getdoc(documented)
    rows = re.findall(r"^    (\w+): ((?:.|\n        +)+)", text, re.MULTILINE)
    meanings = {key: " ".join(text.replace("`", "").split()) for key, text in rows}
    return [f"  {name}: {meanings[name]}" for name in names]


# --------------------------------------------------------------------------------- shared pieces


def _define_format(values):
    flags.DEFINE_enum(
        "format", "text", ["text", "json"], "How results are printed.", flag_values=values
    )


def _define_name(values):
    flags.DEFINE_string(
        "model",
        "EfficientNetV2B0",
        "Name of the model; effv2 models lists them.",
        flag_values=values,
    )


def _define_model(values):
    _define_name(values)
    flags.DEFINE_string("weights", None, "Tag or path of weights.", flag_values=values)
    flags.DEFINE_string("model_file", None, "A saved .keras model instead.", flag_values=values)


def _define_precision(values, meaning):
    choices = ["float32", "mixed_bfloat16", "mixed_float16"]
    flags.DEFINE_enum("precision", "float32", choices, meaning, flag_values=values)


def _define_image_size(values):
    flags.DEFINE_integer(
        "image_size",
        None,
        "Side in pixels; default: the model's.",
        lower_bound=1,
        flag_values=values,
    )


def _define_run(values):
    """What every training is told: its data, its folder and its devices."""
    from keras_effv2.training import STRATEGIES

    _define_format(values)
    _define_data(values)
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; a run found there is resumed.", flag_values=values
    )
    flags.DEFINE_enum("strategy", "auto", STRATEGIES, "tf.distribute strategy.", flag_values=values)
    flags.DEFINE_string("tpu", "local", "Name of the TPU.", flag_values=values)


def _define_data(values):
    flags.DEFINE_string(
        "data", None, "folder:PATH, tfds:NAME, cars:PATH or digits.", flag_values=values
    )
    flags.DEFINE_bool(
        "strict", False, "Fail on a damaged picture instead of skipping it.", flag_values=values
    )


def _builder(name):
    import keras_effv2

    if name not in keras_effv2.list_models():
        raise UsageError(
            f"there is no model {name!r}; models: {', '.join(keras_effv2.list_models())}"
        )
    return getattr(keras_effv2, name)


def _model(values, **arguments):
    """The model that --model_file, or --model and --weights, name."""
    import keras

    from keras_effv2 import list_weights

    if values.model_file and values.weights:
        raise UsageError("--model_file has weights of its own; leave out --weights")
    if values.model_file:
        if not os.path.exists(values.model_file):
            raise FileNotFoundError(f"There is no model file {values.model_file}.")
        if values.model_file.endswith(".keras") and not zipfile.is_zipfile(values.model_file):
            raise ValueError(
                f"{values.model_file} is no whole .keras file. It may be cut off: get it again."
            )
        try:
            return keras.models.load_model(values.model_file)
        except (ValueError, OSError, TypeError, KeyError) as error:
            raise ValueError(
                f"{values.model_file} cannot be loaded as a Keras model: {str(error)[:200]}"
            ) from error
    build = _builder(values.model)
    if values.weights:
        arguments["weights"] = values.weights
    elif "weights" not in arguments and not list_weights(values.model):
        raise UsageError(
            f"no weights of {values.model} were ever released; give --weights or --model_file"
        )
    return build(**arguments)


def _data(values, **arguments):
    from keras_effv2 import data

    if not values.data:
        raise UsageError("--data is missing: digits, folder:PATH, tfds:NAME or cars:PATH")
    return data.load(values.data, strict=values.strict, **arguments)


def _print(values, result, text):
    print(json.dumps(result) if values.format == "json" else text)


# --------------------------------------------------------------------------------------- models


def _define_models(values):
    formats = ["text", "markdown", "json"]
    flags.DEFINE_enum("format", "text", formats, "How the list is printed.", flag_values=values)


def _models(values, _):
    from keras_effv2 import list_models, list_weights, model_info

    rows = []
    for name in list_models():
        info = model_info(name)
        rows.append(
            {
                "name": name,
                "parameters": info["parameters"],
                "image_size": info["image_size"],
                "macs": info["macs"],
                "weights": {row.tag: row.pixels for row in list_weights(name)},
            }
        )
    if values.format == "markdown":
        print(_models_table(rows))
        return
    lines = [
        f"{'model':<17} {'parameters':>13} {'pixels':>6} {'GMACs':>7}  weights (pixel contract)"
    ]
    for row in rows:
        tags = ", ".join(f"{t} ({p})" for t, p in row["weights"].items()) or "none released"
        lines.append(
            f"{row['name']:<17} {row['parameters']:>13,} {row['image_size']:>6} "
            f"{row['macs'] / 1e9:>7.2f}  {tags}"
        )
    _print(values, rows, "\n".join(lines))


def _models_table(rows):
    lines = [
        "| model | parameters | image size | GMACs | weights |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        tags = ", ".join(f"`{tag}`" for tag in row["weights"]) or "none released"
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['image_size']} "
            f"| {row['macs'] / 1e9:.2f} | {tags} |"
        )
    return "\n".join(lines)


# -------------------------------------------------------------------------------------- predict


def _define_predict(values):
    _define_model(values)
    _define_format(values)
    flags.DEFINE_integer("top", 5, "How many classes to name.", lower_bound=1, flag_values=values)
    _define_image_size(values)
    flags.DEFINE_integer("batch_size", 16, "Pictures at a time.", lower_bound=1, flag_values=values)


def _predict(values, positional):
    import numpy as np

    from keras_effv2 import evaluation, graph, imagenet, layers

    files = _files(positional)
    if not files:
        raise UsageError("no pictures: give files, folders, globs, or - for a list on stdin")
    model = _model(values)
    pixels = layers.find_pixels(model)
    names, predict = _class_names(model, pixels), evaluation.probabilities(model)
    size = graph.side_of(model, values.image_size)
    results, failed = [], 0
    for start in range(0, len(files), values.batch_size):
        batch, good = [], []
        for file in files[start : start + values.batch_size]:
            try:
                image = imagenet.read_image(file)
                geometry = (pixels.crop, pixels.resize) if pixels else ("none", "bilinear")
                batch.append(imagenet.prepare(image, size, *geometry))
                good.append(file)
            except (ValueError, OSError) as error:
                failed += 1
                print(f"effv2 predict: {_sentence(error)}", file=sys.stderr)
        if not batch:
            continue
        scores = np.asarray(predict(np.stack(batch)))
        for file, row in zip(good, scores, strict=True):
            best = np.argsort(-row, kind="stable")[: values.top]
            results.append(
                {
                    "file": file,
                    "classes": [
                        {"index": int(i), "name": names[i], "score": float(row[i])} for i in best
                    ],
                }
            )
    lines = []
    for result in results:
        lines.append(result["file"])
        lines += [f"  {c['score']:6.1%}  {c['name']}" for c in result["classes"]]
    _print(values, results, "\n".join(lines))
    if failed:
        print(f"effv2 predict: {failed} of {len(files)} pictures failed.", file=sys.stderr)
    return FAILED if failed else DONE


def _class_names(model, pixels):
    from keras_effv2 import imagenet

    classes = model.output_shape[-1]
    if pixels is not None and pixels.class_names:
        return list(pixels.class_names)
    if classes in imagenet.LABELS:
        return [name for _, name in imagenet.labels(classes)]
    return [f"class {i}" for i in range(classes)]


def _files(positional):
    from keras_effv2.data import EXTENSIONS

    files = []
    for text in positional:
        if text == "-":
            files += [line.strip() for line in sys.stdin if line.strip()]
        elif os.path.isdir(text):
            files += sorted(
                os.path.join(folder, name)
                for folder, _, names in os.walk(text)
                for name in names
                if name.lower().endswith(EXTENSIONS)
            )
        else:
            files += [text] if os.path.exists(text) else sorted(glob.glob(text)) or [text]
    return files


# ---------------------------------------------------------------------------------------- train


def _define_train(values):
    _define_model(values)
    _define_run(values)
    flags.DEFINE_string(
        "recipe", "imagenet1k", "Recipe; its fields: --recipe.FIELD=VALUE.", flag_values=values
    )
    for name, flag in _DOTTED.items():
        flags.DEFINE_multi_string(
            flag, [], f"What --{name}.NAME=VALUE stands for.", flag_values=values
        )
    flags.DEFINE_bool(
        "rollback",
        False,
        "After a loss that is not finite, go back a checkpoint.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "jit_compile", False, "Compile the step with XLA (one device).", flag_values=values
    )
    flags.DEFINE_bool(
        "remat",
        False,
        "Recompute activations in the backward pass: less memory, more time.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "preview", None, "Only write a PNG of augmented pictures per phase.", flag_values=values
    )


def _train(values, _):
    import keras_effv2 as kev
    from keras_effv2 import augment, progressive, recipes, training

    if not values.workdir and not values.preview:
        raise UsageError("--workdir is missing")
    _builder(values.model)
    recipe = _recipe(values.recipe, values.recipe_field, values.model)
    recipe = _ramped(recipe, values.ramp_argument)
    # workers have to meet before anything else uses TensorFlow
    strategy = "one" if values.preview else training.make_strategy(values.strategy, values.tpu)
    data = _data(values)
    if values.preview:
        training.check_trainable(data)
        size = kev.model_info(values.model)["image_size"]
        phases = recipe.phases or (progressive.Phase(0, recipe.epochs, image_size=size),)
        settings = recipes.augment_of(recipe, phases[0])
        augment.preview(data.train, phases, values.preview, augment=settings)
        _print(values, {"preview": values.preview}, f"wrote {values.preview}")
        return DONE
    classes = len(data.class_names)

    def build():
        return _model(
            values, **({} if values.model_file else {"classes": classes, **_fresh(values)})
        )

    result = training.train(
        build,
        data,
        recipe,
        values.workdir,
        strategy,
        jit_compile=values.jit_compile,
        remat=values.remat,
        rollback=values.rollback,
    )
    if training.is_chief(strategy):
        judged = kev.evaluate(result.model, data, values.workdir)
        _finish(values, result, judged, data)


def _fresh(values):
    return {} if values.weights else {"weights": None}


def _finish(values, result, judged, data):
    summary = {"steps": result.steps, "workdir": values.workdir, **judged.summary()}
    summary["skipped_pictures"] = list(data.train.skipped)
    low, high = judged.top1_interval
    lines = [*_phases_table(result.history)]
    if data.train.skipped:
        lines.append(f"left out, damaged or unreadable: {', '.join(data.train.skipped)}")
    lines += [
        f"{result.steps} steps; {judged.split}: top 1 {judged.top1:.1%} ({low:.1%} to {high:.1%}) "
        f"of {judged.images} pictures",
        f"model: {values.workdir}/model.keras, report: {values.workdir}/report.html",
    ]
    _print(values, summary, "\n".join(lines))


def _phases_table(history):
    """A line for every phase: its epochs, size, strengths, time and accuracy at its end."""
    from keras_effv2.progressive import STRENGTHS

    keys = ("image_size", "batch_size", *STRENGTHS)
    used = [key for key in STRENGTHS if any(row[key] for row in history)]
    titles = [*used, "seconds", "images/s", "training", "validation"]
    lines = [f"{'epochs':>9} {'pixels':>6} " + " ".join(f"{title:>11}" for title in titles)]
    for _, rows in itertools.groupby(history, key=lambda row: [row[key] for key in keys]):
        rows = list(rows)
        first, last = rows[0], rows[-1]
        seconds = sum(row["seconds"] for row in rows)
        speed = sum(row["images_per_second"] * row["seconds"] for row in rows) / seconds
        cells = [f"{last[key] or 0:>11.3g}" for key in used]
        cells += [f"{seconds:>11.0f}", f"{speed:>11.0f}", f"{last['accuracy']:>11.1%}"]
        if "val_accuracy" in last:
            cells.append(f"{last['val_accuracy']:>11.1%}")
        span = f"{first['epoch'] + 1}-{last['epoch'] + 1}"
        lines.append(f"{span:>9} {last['image_size']:>6} " + " ".join(cells))
    return lines


def _recipe(name, settings, model):
    """The recipe of that name with `FIELD=VALUE` settings applied."""
    from ml_collections import config_dict

    from keras_effv2 import recipes

    changes = _pairs(settings)
    try:
        recipe = recipes.get(name, model)
    except ValueError as error:
        raise UsageError(str(error)) from None
    # a mutable mirror of the row checks names and types
    mirror = config_dict.ConfigDict(
        {
            field.name: getattr(recipe, field.name)
            for field in dataclasses.fields(recipe)
            if field.name not in _FIXED
        }
    )
    kinds = typing.get_type_hints(recipes.Recipe)
    for key, value in changes.items():
        if key not in mirror:
            raise UsageError(f"a recipe has no field {key!r}; fields: {', '.join(sorted(mirror))}")
        kind = typing.get_origin(kinds[key]) or kinds[key]
        parse = _PARSERS.get(kind, kind)
        try:
            with mirror.ignore_type():  # a whole number stands for a fraction, too
                mirror[key] = parse(value)
        except (ValueError, TypeError):
            raise UsageError(f"--recipe.{key} is a {kind.__name__}; received {value!r}") from None
    return _rescale(recipe, mirror.to_dict())


def _pairs(settings):
    return dict(text.split("=", 1) if "=" in text else (text, "") for text in settings)


_PARSERS = {
    bool: flags.BooleanParser().parse,
    tuple: lambda text: _pair(*map(float, text.split(","))),
}


def _pair(first, last):
    return first, last


def _rescale(recipe, changed):
    """The recipe with other values; its phases keep their parts of the training."""
    epochs = changed["epochs"]
    rows = recipe.phases[-epochs:]  # with fewer epochs than phases, the last
    phases = tuple(
        dataclasses.replace(row, start_epoch=start, stop_epoch=stop)
        for row, start, stop in zip(rows, *_bounds(rows, epochs), strict=True)
    )
    try:
        return dataclasses.replace(recipe, phases=phases, **changed)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _bounds(rows, epochs):
    """First and last epochs of phases that keep their parts of a training, each one at least."""
    whole = sum(row.stop_epoch - row.start_epoch for row in rows)
    stops, done = [], 0
    for i, row in enumerate(rows):
        done += row.stop_epoch - row.start_epoch
        least = stops[-1] + 1 if stops else 1
        stops.append(min(max(least, round(done * epochs / whole)), epochs - len(rows) + i + 1))
    return [0, *stops][:-1], stops


def _ramp_arguments():
    """Names of what `ramp` is told; the epochs are the recipe's."""
    from keras_effv2 import progressive

    return [name for name in inspect.signature(progressive.ramp).parameters if name != "epochs"]


def _ramped(recipe, settings):
    """The recipe with phases made anew by `ramp`; what no setting names stays as it was."""
    from keras_effv2 import progressive

    if not settings:
        return recipe
    fields = {field.name for field in dataclasses.fields(progressive.Phase)}
    known = _ramp_arguments()
    scheduled = [name for name in known if name in fields]
    count = len(recipe.phases)
    arguments = {"phases": count if count > 1 else min(4, recipe.epochs)}
    if recipe.phases:
        first, last = recipe.phases[0], recipe.phases[-1]
        pairs = {name: (getattr(first, name), getattr(last, name)) for name in scheduled}
        arguments |= {name: pair for name, pair in pairs.items() if None not in pair}
    for key, value in _pairs(settings).items():
        if key not in known:
            raise UsageError(f"ramp has no argument {key!r}; arguments: {', '.join(known)}")
        try:
            numbers = tuple(map(float, value.split(","))) if key in scheduled else int(value)
        except ValueError:
            wanted = "one number or FIRST,LAST" if key in scheduled else "a whole number"
            raise UsageError(f"--ramp.{key} is {wanted}; received {value!r}") from None
        arguments[key] = numbers * 2 if key in scheduled and len(numbers) == 1 else numbers
    try:
        phases = progressive.ramp(recipe.epochs, **arguments)
        return dataclasses.replace(recipe, phases=phases)
    except ValueError as error:
        raise UsageError(str(error)) from None


# ------------------------------------------------------------------------------------- finetune


def _define_finetune(values):
    _define_name(values)
    flags.DEFINE_string(
        "weights",
        "default",
        "What to start from: a tag, a path, default (the model's usual tag) or none.",
        flag_values=values,
    )
    _define_run(values)
    flags.DEFINE_integer(
        "epochs",
        None,
        "Epochs of the whole network; default: by the data.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        "Largest side in pixels; default: by machine and data.",
        lower_bound=32,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Global batch size; default: by the data.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "flip", True, "Mirror half of the pictures; not for letters.", flag_values=values
    )
    _define_precision(values, "mixed_* where the device is faster in it; the model keeps it.")
    flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("hub", True, "Also export for TF Hub.", flag_values=values)


def _finetune(values, _):
    from keras_effv2 import finetuning, training

    if not values.workdir:
        raise UsageError("--workdir is missing")
    _builder(values.model)
    # workers have to meet before anything else uses TensorFlow
    strategy = training.make_strategy(values.strategy, values.tpu)
    data = _data(values)
    result, judged = finetuning.finetune(
        values.model,
        data,
        values.workdir,
        weights=None if values.weights == "none" else values.weights,
        epochs=values.epochs,
        image_size=values.image_size,
        batch_size=values.batch_size,
        flip=values.flip,
        precision=values.precision,
        seed=values.seed,
        strategy=strategy,
        hub=values.hub,
    )
    if judged is not None:
        _finish(values, result, judged, data)


# ------------------------------------------------------------------------------------- evaluate


def _define_evaluate(values):
    _define_model(values)
    _define_format(values)
    _define_data(values)
    flags.DEFINE_enum(
        "split",
        None,
        ["train", "validation", "test"],
        "Default: test, else validation, else all; of a folder without splits all, but of the one "
        "that the model was trained on what was held out.",
        flag_values=values,
    )
    flags.DEFINE_string("report_dir", None, "Folder for report.html.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Pictures at a time.", lower_bound=1, flag_values=values)
    _define_image_size(values)


def _judged_data(values):
    """The data, whole where it has no splits, but what the model has learnt from is set apart."""
    if values.split:
        return _data(values)  # split as for training
    learnt_from = _learnt_from(values.model_file or values.weights or "")
    if learnt_from:
        try:
            parts = _data(values)
        except ValueError:  # too few to be split, so nothing was trained on them
            parts = None
        if parts and parts.train and {parts.name, parts.train.fingerprint()} & learnt_from:
            return parts
    whole = _data(values, validation=0)
    if whole.validation or whole.test:
        return whole
    logging.info("All of %s is judged; --split=test takes a part as for training.", whole.name)
    return dataclasses.replace(whole, test=whole.train)


def _learnt_from(model):
    """Name and fingerprint of the data of the run that a file lies in, as far as it is in one."""
    found = set()
    if not os.path.exists(model):  # a tag
        return found
    for name, key in (("summary.json", "data"), ("recipe.json", "training data")):
        path = os.path.join(os.path.dirname(model), name)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found.add(json.load(file).get(key))
    return found - {None}


def _evaluate(values, _):
    from keras_effv2 import evaluation

    model = _model(values)
    judged = evaluation.evaluate(
        model,
        _judged_data(values),
        values.report_dir,
        split=values.split,
        batch_size=values.batch_size,
        image_size=values.image_size,
    )
    parts = [
        f"{name} {part:.2%} ({low:.1%} to {high:.1%})"
        for name, part, (low, high) in (
            ("top 1", judged.top1, judged.top1_interval),
            ("top 5", judged.top5, judged.top5_interval),
        )
    ]
    text = f"{judged.split}: {', '.join(parts)} of {judged.images} pictures"
    _print(values, judged.summary(), text)


# --------------------------------------------------------------------------------------- export


def _define_export(values):
    _define_model(values)
    formats = ["hub", "saved_model", "tflite", "onnx"]
    flags.DEFINE_enum("format", "hub", formats, "What to write.", flag_values=values)
    flags.DEFINE_string("output", None, "Where to write it.", flag_values=values)
    flags.DEFINE_enum(
        "kind",
        "classification",
        ["classification", "feature_vector"],
        "Of a hub export.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "fold_batch_norm", True, "Merge batch normalisation into convolutions.", flag_values=values
    )
    flags.DEFINE_enum(
        "quantize", None, ["float16", "int8"], "Smaller numbers, TFLite only.", flag_values=values
    )
    flags.DEFINE_string(
        "images", None, "Folder of pictures for calibration and comparison.", flag_values=values
    )
    flags.DEFINE_bool(
        "force", False, "Write an int8 export that agrees too little.", flag_values=values
    )
    flags.DEFINE_enum(
        "publish", None, ["kaggle", "hf"], "Where to upload a hub export.", flag_values=values
    )
    flags.DEFINE_string("handle", None, "Name to publish under.", flag_values=values)
    flags.DEFINE_bool("dry_run", True, "Only show what would be published.", flag_values=values)


_LEAN = ("saved_model", "tflite", "onnx")
_EXPORT_FLAGS = {
    "kind": ("hub",),
    "publish": ("hub",),
    "handle": ("hub",),
    "dry_run": ("hub",),
    "fold_batch_norm": _LEAN,
    "images": _LEAN,
    "quantize": ("tflite",),
    "force": ("tflite",),
}


def _export(values, _):
    import numpy as np

    from keras_effv2 import exporting, imagenet, layers

    if not values.output:
        raise UsageError("--output is missing")
    if values.publish and not values.handle:
        raise UsageError("--publish needs --handle")
    for flag, formats in _EXPORT_FLAGS.items():
        if values[flag].present and values.format not in formats:
            raise UsageError(
                f"--{flag} goes with --format={' or '.join(formats)}; received "
                f"--format={values.format}"
            )
    if values.format == "hub":
        done = os.path.exists(os.path.join(values.output, "saved_model.pb"))
        if not (done and values.publish):  # what a dry run has shown is sent as it is
            print(exporting.export_hub(_model(values), values.output, values.kind))
        if values.publish:
            for name, size in exporting.publish(
                values.output, values.publish, values.handle, values.dry_run
            ):
                print(f"{'would send' if values.dry_run else 'sent'} {name} ({size} bytes)")
        return
    model, images = _model(values), None
    if values.images:
        pixels = layers.find_pixels(model)
        geometry = (pixels.image_size, pixels.crop, pixels.resize) if pixels else (224,)
        files = _files([values.images])
        if not files:
            raise UsageError(f"--images={values.images} holds no pictures")
        files = files[:: -(-len(files) // 256)]  # of every class: they are sorted by folder
        images = np.stack([imagenet.prepare(imagenet.read_image(f), *geometry) for f in files])
    print(
        exporting.export(
            model,
            values.output,
            values.format,
            values.fold_batch_norm,
            quantize=values.quantize,
            images=images,
            force=values.force,
        )
    )
    print("The input is pixels 0..255, float32.")


# -------------------------------------------------------------------------------------- convert


def _define_convert(values):
    _define_model(values)
    flags.DEFINE_string("output", None, "File *.weights.h5 to write.", flag_values=values)
    flags.DEFINE_string("tag", "converted", "Tag of the table's row.", flag_values=values)
    flags.DEFINE_string("licence", "Apache-2.0", "Licence of the weights.", flag_values=values)
    flags.DEFINE_float("top1", None, "Published accuracy in per cent.", flag_values=values)


def _convert(values, _):
    from keras_effv2 import weights

    source = values.weights or values.model_file
    if not source or not values.output:
        raise UsageError("--weights (or --model_file) and --output are needed")
    row = weights.convert(
        _model(values),
        values.output,
        tag=values.tag,
        source=source,
        licence=values.licence,
        top1=values.top1,
    )
    print(json.dumps(row, indent=2))


# ------------------------------------------------------------------------------------ benchmark


def _define_benchmark(values):
    from keras_effv2.benchmark import MEASURES, PEERS

    flags.DEFINE_string("model", "EfficientNetV2B0", "Name of the model.", flag_values=values)
    _define_format(values)
    flags.DEFINE_list(
        "measure", "train,infer", f"Out of: {', '.join(MEASURES)}.", flag_values=values
    )
    flags.DEFINE_enum("peer", "keras", list(PEERS), "What to compare with.", flag_values=values)
    flags.DEFINE_integer("image_size", 224, "Side in pixels.", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Images a step.", flag_values=values)
    flags.DEFINE_integer("rounds", 7, "Timings of each side.", flag_values=values)
    _define_precision(values, "Dtype policy.")
    flags.DEFINE_bool("profile", False, "Show where a train step's time goes.", flag_values=values)


def _benchmark(values, _):
    import keras

    from keras_effv2 import benchmark

    keras.config.set_dtype_policy(values.precision)
    if values.profile:
        rows = benchmark.profile(values.model, values.image_size, values.batch_size)
        text = "\n".join(f"{kind:<40} {ms:9.1f} ms {count:>6}" for kind, ms, count in rows[:25])
        _print(values, rows, text)
        return
    rows = benchmark.run(
        values.model,
        values.measure,
        values.peer,
        values.image_size,
        values.batch_size,
        values.rounds,
    )
    _print(values, [dataclasses.asdict(row) for row in rows], benchmark.table(rows))


# --------------------------------------------------------------------------------------- doctor


def _define_doctor(values):
    _define_format(values)
    flags.DEFINE_bool(
        "online", False, "Also try whether weights and TF Hub can be reached.", flag_values=values
    )


def _doctor(values, _):
    from keras_effv2 import doctor

    checks = doctor.examine(values.online)
    lines = [
        f"{'ok ' if c.ok else 'BAD'} {c.name}: {c.found}" + (f" -> {c.advice}" if c.advice else "")
        for c in checks
    ]
    _print(values, [dataclasses.asdict(c) for c in checks], "\n".join(lines))
    return DONE if all(c.ok for c in checks) else FAILED


# --------------------------------------------------------------------------------------- table

COMMANDS = {
    "models": Command(
        "List models, their sizes, weights and pixels.", "[--format=json]", _define_models, _models
    ),
    "predict": Command(
        "Name what is on pictures.", "PICTURE|FOLDER|GLOB|- ... [FLAGS]", _define_predict, _predict
    ),
    "train": Command(
        "Train from scratch by a recipe; resumes.",
        "--data=... --workdir=... [FLAGS]",
        _define_train,
        _train,
    ),
    "finetune": Command(
        "Fine-tune on your pictures.",
        "--data=... --workdir=... [FLAGS]",
        _define_finetune,
        _finetune,
    ),
    "evaluate": Command(
        "Judge a model, write a report.",
        "--model_file=... --data=... [FLAGS]",
        _define_evaluate,
        _evaluate,
    ),
    "export": Command(
        "Write a model for TF Hub, TFLite or ONNX.",
        "--model_file=... --output=... [FLAGS]",
        _define_export,
        _export,
    ),
    "convert": Command(
        "Turn any released checkpoint into .weights.h5.",
        "--model=... --weights=... --output=...",
        _define_convert,
        _convert,
    ),
    "benchmark": Command(
        "Measure us beside keras.applications or timm.", "[FLAGS]", _define_benchmark, _benchmark
    ),
    "doctor": Command("Examine this machine.", "[FLAGS]", _define_doctor, _doctor),
}
