"""Write a model for TF Hub, TFLite or ONNX."""

from keras_effv2 import files
from keras_effv2.cli import flags, predict

USAGE = "--model_file=... --output=... [FLAGS]"

_LEAN = ("saved_model", "tflite", "onnx")
_FORMATS = {  # flag -> the formats that it goes with
    "kind": ("hub",),
    "fold_batch_norm": _LEAN,
    "images": _LEAN,
    "quantize": ("tflite",),
    "force": ("tflite",),
}
_MOST_IMAGES = 256


def define(values):
    flags.model_and_weights(values)
    flags.class_names(values)
    flags.choice(values, "format", "hub", ["hub", *_LEAN], "What to write.")
    flags.path(values, "output", "Where to write it.", written=True)
    kinds = ["classification", "feature_vector"]
    flags.choice(values, "kind", "classification", kinds, "Of a hub export.")
    meaning = "Merge batch normalisation into convolutions."
    flags.boolean(values, "fold_batch_norm", True, meaning)
    flags.choice(values, "quantize", None, ["float16", "int8"], "Smaller numbers, TFLite only.")
    flags.path(values, "images", "Folder of pictures for calibration and comparison.")
    flags.boolean(values, "force", False, "Write an int8 export that agrees too little.")


def run(values, _):
    flags.require(values, "output")
    for flag, formats in _FORMATS.items():
        if values[flag].present and values.format not in formats:
            raise flags.UsageError(
                f"--{flag} goes with --format={' or '.join(formats)}; received "
                f"--format={values.format}"
            )
    if values.images and not files.place(values.images, "--images").is_dir():
        raise flags.UsageError(f"--images={values.images} is no folder")
    files.check_free(files.place(values.output, "The place of an export"))
    flags.check_model(values)
    (_hub if values.format == "hub" else _lean)(values)


def _hub(values):
    from keras_effv2 import exporting

    head = {} if values.kind == "classification" else {"include_top": False, "pooling": "avg"}
    model = flags.load_model(values, **head)
    flags.write(str(exporting.export_hub(model, values.output, values.kind)))


def _lean(values):
    from keras_effv2 import exporting

    model = flags.load_model(values)
    images = _read(values.images, model) if values.images else None
    report = exporting.export(
        model,
        values.output,
        values.format,
        values.fold_batch_norm,
        quantize=values.quantize,
        images=images,
        force=values.force,
    )
    flags.write(f"{report}\nThe input is pixels 0..255, float32.")


def _read(folder, model):
    import numpy as np

    from keras_effv2 import graph
    from keras_effv2.data import find_pictures

    graph.side_of(model)  # once, not of every picture
    found = find_pictures(folder)
    step = -(-len(found) // _MOST_IMAGES) or 1  # of every class: they are sorted by folder
    images = [image for _, image in predict.readable(model, found[::step])]
    if not images:
        raise flags.UsageError(f"--images={folder} holds no pictures that can be read")
    return np.stack(images)
