"""What commands share: a line for every flag, exit codes, and how they fail and print."""

import contextlib
import difflib
import json
import math
import sys

from absl import flags

from keras_effv2 import files, stores, variants

DONE, FAILED, USAGE = 0, 1, 2
DATA = (
    "folder:PATH, csv:FILE, tfds:NAME, keras:cifar10, keras:cifar100, hf:NAME, kaggle:OWNER/NAME, "
    "tfrecord:PATH, webdataset:PATH, cars:PATH or digits"
)
STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")
ANY_FILE = (
    "A saved model instead: .keras, .tflite, .onnx, a SavedModel's folder, the workdir of a run, or "
    "hf://OWNER/NAME."
)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")
LARGEST_BATCH, LARGEST_SIDE = 1 << 16, 10_000


class UsageError(Exception):
    """The command cannot be understood."""


def sentence(error):
    """What went wrong, in one line that ends like a sentence."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without its number
        paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
        text = ": ".join([*filter(None, [" -> ".join(paths)]), error.strerror])
    text = " ".join(text.split()) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else text + "."


def hint(word, known):
    """What may have been meant, as the end of a sentence; "" if nothing is near."""
    near = difflib.get_close_matches(word, known, 1)
    return f". Did you mean {near[0]}?" if near else ""


# ---------------------------------------------------------------------------------- kinds of flags


def string(values, name, default, meaning):
    flags.DEFINE_string(name, default, meaning, flag_values=values)


def strings(values, name, meaning):
    """May be given many times."""
    flags.DEFINE_multi_string(name, [], meaning, flag_values=values)


def boolean(values, name, default, meaning):
    flags.DEFINE_bool(name, default, meaning, flag_values=values)


def choice(values, name, default, choices, meaning):
    flags.DEFINE_enum(name, default, choices, meaning, flag_values=values)


def integer(values, name, default, meaning, low=None, high=None):
    """Both ends are included."""
    flags.DEFINE_integer(
        name, default, meaning, lower_bound=low, upper_bound=high, flag_values=values
    )


def number(values, name, meaning, low, high):
    """A finite number or nothing; both ends are included."""
    flags.DEFINE(_Number(low, high), name, None, meaning, flag_values=values)


def path(values, name, meaning, local=False, default=None, written=False):
    """`~` and `$NAME` are replaced.

    Args:
        values: Flags.
        name: Of the flag.
        meaning: Its help.
        local: Whether the address of a store is refused.
        default: What it is when it is not given.
        written: Whether it is written to, so that a store has to be one that TensorFlow knows.
    """
    flags.DEFINE(_Path(local, written), name, default, meaning, flag_values=values)


def folder(values, name, meaning):
    """A folder to write to, which need not exist."""
    flags.DEFINE(_Folder(False, True), name, None, meaning, flag_values=values)


def names(values, name, default, meaning):
    """A list with commas."""
    flags.DEFINE_list(name, default, meaning, flag_values=values)


class _Number(flags.FloatParser):
    def convert(self, argument):
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return value


class _Path(flags.ArgumentParser):
    def __init__(self, local, written):
        self.local, self.written = local, written

    def parse(self, argument):
        if not argument.strip():
            raise ValueError("a path is missing")
        if self.local:
            files.local(argument, "It")
        elif self.written:
            files.place(argument, "It")
        return files.expand(argument)


class _Folder(_Path):
    def parse(self, argument):
        found = super().parse(argument)
        place = files.place(found, "It")
        if not stores.is_address(found) and not place.is_dir():
            if place.exists() or place.is_symlink():
                what = "a file" if place.exists() else "a link to nothing"
                raise ValueError(f"it is {what}; give a folder")
        return found


class _Model(flags.ArgumentParser):
    """A name as `variants.find` understands it, written out; the file of a row; or another word."""

    def __init__(self, *words):
        super().__init__()
        self._words = words

    def parse(self, argument):
        if argument.endswith(".json"):
            return files.expand(argument)
        if argument in self._words:
            return argument
        try:
            return variants.find(argument).name
        except ValueError:
            names = variants.list_models()
            listed = f"models: {', '.join(names)}{hint(argument, names)}"
            raise UsageError(f"there is no model {argument!r}; {listed}") from None


# ------------------------------------------------------------------------------------ shared flags


def output_format(values):
    choice(values, "format", "text", ["text", "json"], "How results are printed.")


def model(values, *words, meaning="Name of the model; effv2 models lists them."):
    flags.DEFINE(_Model(*words), "model", "EfficientNetV2B0", meaning, flag_values=values)


def model_and_weights(values):
    model(values)
    path(values, "weights", "Tag or path of weights.")
    path(values, "model_file", "A saved model instead: a .keras file.")
    strings(
        values, "trust", "Handle of a SavedModel that --model_file is or names, and that may run."
    )


def class_names(values):
    """Names that a model file does not carry."""
    meaning = "Names of the model's classes: NAME,NAME,... or a file with one a line."
    string(values, "class_names", None, meaning)


def precision(values, meaning):
    choice(values, "precision", "float32", PRECISIONS, meaning)


def image_size(values, default=None, meaning="Side in pixels; default: the model's.", low=1):
    integer(values, "image_size", default, meaning, low, LARGEST_SIDE)


def batch_size(values, default, meaning):
    integer(values, "batch_size", default, meaning, 1, LARGEST_BATCH)


def data(values):
    string(values, "data", None, f"{DATA}.")
    boolean(values, "strict", False, "Fail on a damaged picture instead of skipping it.")


def run(values):
    """What every training is told: its data, its folder and its devices."""
    output_format(values)
    data(values)
    folder(values, "workdir", "Folder of the run; a run found there is resumed.")
    choice(values, "strategy", "auto", STRATEGIES, "tf.distribute strategy.")
    string(values, "tpu", "local", "Name of the TPU.")


# ------------------------------------------------------------------------------- what flags ask for


def require(values, *names):
    """Raises `UsageError` if one of the flags was left out."""
    for name in names:
        if not values[name].value:
            wanted = f": {DATA}" if name == "data" else ""
            raise UsageError(f"--{name} is missing{wanted}")


def check_model(values, fresh=False):
    """Raises what can be said of --model, --weights and --model_file without Keras.

    Args:
        values: Parsed flags.
        fresh: Whether random weights will do, and --model tells what else is to be taken.
    """
    from keras_effv2.weights import list_weights
    from keras_effv2.weights.loading import check_weights

    if values.model_file and values.weights:
        raise UsageError("--model_file has weights of its own; leave out --weights")
    if values.model_file and values["model"].present and not fresh:
        raise UsageError("--model_file is a network of its own; leave out --model")
    if values.model_file and not values.model_file.startswith("hf://"):
        files.check_model_file(values.model_file)
    elif values.weights:
        check_weights(values.model, values.weights)
    elif not values.model_file and not fresh and not list_weights(values.model):
        raise UsageError(
            f"no weights of {values.model} were ever released; give --weights or --model_file"
        )


def check_data(values):
    """Raises what can be said of --data before anything is fetched or read."""
    from keras_effv2.data.load import check

    check(values.data)


def check_file(values, name):
    """Raises `UsageError` where a flag's file cannot be written: before the work, not after it."""
    path = files.place(values[name].value, f"--{name}")
    if path.is_dir():
        raise UsageError(f"--{name}={path} is a folder; give a file")
    if not stores.is_address(str(path)) and not path.parent.is_dir():
        raise UsageError(f"--{name}={path} lies in a folder that does not exist")


def load_model(values, *, exports=False, **arguments):
    """The model that --model_file, or --model and --weights, name.

    Args:
        values: Parsed flags.
        exports: Whether --model_file may be an export too.
        arguments: For the builder.
    """
    from keras_effv2 import model_files, models, weights

    if values.trust:
        from keras_effv2.hub import HubLayer

        HubLayer.trusted.update(values.trust)
    if values.model_file:
        file = handle = values.model_file
        if file.startswith("hf://"):
            file = weights.resolve_repository(file)
            runs_its_graph = exports and model_files.is_saved_model(file)
            if runs_its_graph and handle not in (values.trust or ()):
                raise UsageError(
                    f"{handle} holds a SavedModel, whose graph may read and write files: if you trust "
                    f"its author, add --trust={handle}"
                )
        model = (model_files.load_model if exports else model_files.load_keras)(file)
    else:
        arguments |= {"weights": values.weights} if values.weights else {}
        model = models.builder(values.model)(**arguments)
    names = "class_names" in values and values.class_names
    return _named(model, names) if names else model


def _named(model, text):
    """The model with the names of classes that a file holds, or that are given with commas."""
    from keras_effv2 import graph, layers

    names = text.split(",")
    path = files.place(text, "--class_names")
    with contextlib.suppress(OSError):  # many names are too long for that of a file
        names = path.read_text(encoding="utf-8").splitlines() if path.is_file() else names
    if not graph.are_its_classes(model, names):
        count = model.outputs[0].shape[-1]
        raise UsageError(
            f"--class_names has {len(names)} names, the model {count} outputs; received {text!r}"
        )
    pixels = layers.find_pixels(model)
    if pixels is None:
        raise UsageError(
            f"--class_names cannot be kept by {model.name}, which no builder of this package made"
        )
    pixels.class_names = tuple(names)
    return model


def load_data(values):
    """The data that --data names."""
    from keras_effv2.data import load

    return load(values.data, strict=values.strict)


# ----------------------------------------------------------------------------------------- printing


def show(values, result, text):
    """Prints a result as --format says."""
    if values.format == "json":
        try:
            text = json.dumps(result, allow_nan=False)
        except ValueError:
            raise ValueError("The result holds a number that is not finite.") from None
    write(text)


def write(text):
    """Prints; names of files that are no text of the terminal's encoding are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
