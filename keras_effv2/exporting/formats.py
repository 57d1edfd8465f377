"""Lean exports for inference: SavedModel, TFLite, ONNX."""

import dataclasses
import json
import os

import keras
import numpy as np
import numpy.typing
import tensorflow as tf

from keras_effv2 import errors, files, graph, layers, needs
from keras_effv2.arguments import check_array, check_number
from keras_effv2.exporting.card import card_of
from keras_effv2.exporting.folding import fold
from keras_effv2.exporting.metadata import into_onnx, into_tflite
from keras_effv2.exporting.verification import Report, compare, is_exact
from keras_effv2.exporting.views import any_size, constant_rates, labels_of, saved_models_in
from keras_effv2.model_files.runtimes import CARD, tflite_interpreter
from keras_effv2.photos import check_range

FORMATS = ("saved_model", "tflite", "onnx")


def export(
    model: keras.Model,
    path: str | os.PathLike,
    format: str = "saved_model",
    fold_batch_norm: bool = True,
    *,
    quantize: str | None = None,
    images: numpy.typing.ArrayLike | None = None,
    min_agreement: float = 0.95,
    force: bool = False,
) -> Report:
    """Writes a model for inference only, and measures what it costs and how far it drifts.

    Labels, size, crop and thresholds travel inside the file: `effv2 predict` and `evaluate` take it as
    they take the model; MediaPipe's image classifier takes the TFLite file. The input stays the
    model's: pixels 0..255, float32. (Only `export_hub` takes [0, 1].) A model
    that computes one size alone, such as one with `Flatten`, is exported at that size.

    Args:
        model: A functional `keras.Model` with one image input.
        path: Folder (SavedModel) or file to write, here or in a store (`gs://...`).
        format: `"saved_model"`, `"tflite"` or `"onnx"`.
        fold_batch_norm: Whether to merge batch normalisation into convolutions.
        quantize: None, `"float16"` or `"int8"`; TFLite only.
        images: float32 `(n, h, w, c)`, 0..255: for calibration and comparison. None makes 16
            random ones at the model's size, which say little about accuracy. A TFLite export
            has their size.
        min_agreement: Part of `images` that must keep its best class for an int8 export to be
            written.
        force: Write it all the same.

    Returns:
        A `Report`; it is also written into `assets.extra/export.json` or `FILE.json`.

    Raises:
        ValueError: If format and quantize do not fit, an int8 export agrees too little, or `path`
            is in a store that TensorFlow does not know.
        FileExistsError: If `path` exists.
        ImportError: If a converter is not installed; says which.
        RuntimeError: If the written model computes something else, or the converter does not know
            an operation of the model; nothing is left then.

    Example:

    >>> import tempfile
    >>> inputs = keras.Input((None, None, 3))
    >>> x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    >>> model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    >>> report = export(model, tempfile.mkdtemp() + "/pets", images=np.zeros((1, 64, 64, 3)))
    >>> report.format, report.max_drift < 1e-4
    ('saved_model', True)
    """
    _check_arguments(format, quantize, min_agreement)
    layers.require_tensorflow("Export")
    place = files.place(path, "The place of an export")
    graph.check_outputs(model)
    layers.check_preprocessing(model)
    graph.check_weights(model)
    pictures = _images(model, images)
    net = any_size(model)
    lean = fold(net) if fold_batch_norm else net
    with constant_rates(net), files.in_place(place) as target:
        card = _card(model)
        if format == "tflite":  # which takes one size
            card["image_size"] = pictures.shape[1]
        run = _converted(_WRITERS[format], lean, target, quantize, pictures, card)
        report, scale = compare(model, run, pictures, place, format, target)
        _check_drift(report, scale, quantize, is_exact(model))
        if quantize == "int8" and report.top1_agreement < min_agreement and not force:
            raise ValueError(
                f"The int8 export keeps the best class of {report.top1_agreement:.1%} of the "
                f"images, wanted {min_agreement:.0%}; it was not written. Give `images` of "
                "what the model's classes show, use float16, or pass force=True."
            )
        text = json.dumps(dataclasses.asdict(report), indent=1)
        if target.is_dir():
            (target / "assets.extra").mkdir(exist_ok=True)
            (target / "assets.extra" / "export.json").write_text(text, encoding="utf-8")
    if place.is_file():
        files.write_whole(place.parent / f"{place.name}.json", text)
    return report


def _check_arguments(format, quantize, min_agreement):
    if format not in FORMATS:
        raise ValueError(f"`format` is one of {', '.join(FORMATS)}. Received: {format!r}.")
    if quantize not in (None, "float16", "int8") or (quantize and format != "tflite"):
        raise ValueError(
            "`quantize` is None, 'float16' or 'int8', and goes with format='tflite'. Received: "
            f"quantize={quantize!r}, format={format!r}."
        )
    check_number("`min_agreement`", min_agreement, 0)
    if min_agreement > 1:
        raise ValueError(
            f"`min_agreement` is a part of the images, 1 for all. Received: {min_agreement}."
        )


def _images(model, images) -> np.ndarray:
    """The images to compare on, float32, of a size that the model takes."""
    _, height, width, channels = model.inputs[0].shape
    if images is None:
        pixels = layers.find_pixels(model)
        side = (pixels and pixels.image_size) or layers.SIDE
        shape = (16, height or side, width or side, channels)
        images = np.random.default_rng(0).uniform(0, 255, shape)
    size = ", ".join(map(str, (height or "height", width or "width", channels)))

    def fits(shape):
        given = zip((height, width, channels), shape[1:])
        return len(shape) == 4 and all(shape) and all(own in (None, side) for own, side in given)

    images = check_array("images", images, f"an array (n, {size}), 0..255", fits)
    if layers.find_pixels(model) is not None:
        check_range("images", images)
    return images.astype("float32", copy=False)


def _check_drift(report, scale, quantize, exact):
    """Refuses what computes something else.

    EfficientNetV2-B0 with its ImageNet weights drifts by 3e-6 in float32, 0.1 in bfloat16.
    """
    limit = 1e-3 if exact else 0.3
    if quantize is None and not report.rms_drift <= limit * scale:  # not a number either
        raise RuntimeError(
            f"The export's outputs differ from the model's by {report.rms_drift:.2g}, and those "
            f"are {scale:.2g} large (RMS); it was not written. Try fold_batch_norm=False."
        )


def _card(model):
    """What the export says of itself; of a model whose outputs are not known to be classes little."""
    try:
        outputs = "logits" if graph.activation_of(model) is None else "probabilities"
        labels = labels_of(model, "classification", None)
        return card_of(model, "classification", labels, (0, 255), outputs)
    except ValueError:
        return card_of(model, "feature_vector", None, (0, 255), "features")


def _converted(write, lean, target, quantize, images, card):
    """Runs a writer; what a converter of another project raises becomes one sentence."""
    try:
        return write(lean, target, quantize, images, card)
    except (ImportError, OSError, MemoryError):
        raise
    except Exception as error:  # of any class, from any depth of the converter
        if errors.is_full(error):
            raise
        raise RuntimeError(
            f"{lean.name} could not be converted: {errors.first_line(error)[:300]}. Nothing was "
            "written; try another format, or a model without layers of its own kind."
        ) from error


def _inference(net):
    """The network as a function of images, its weights as constants of the graph."""
    trainable = [v.numpy() for v in net.trainable_variables]
    others = [v.numpy() for v in net.non_trainable_variables]

    def compute(inputs):
        # made in the graph: constants from outside would be inputs of it
        constants = ([tf.constant(array) for array in arrays] for arrays in (trainable, others))
        outputs, _ = net.stateless_call(*constants, inputs, training=False)
        return {"outputs": tf.cast(outputs, tf.float32)}

    spec = tf.TensorSpec(tuple(net.inputs[0].shape), tf.float32, name="inputs")
    return tf.function(compute, [spec])


def _write_saved_model(net, target, quantize, images, card):
    root = tf.train.Checkpoint()
    root.serve = _inference(net)
    root._modules = saved_models_in(net)
    tf.saved_model.save(root, str(target), signatures={"serving_default": root.serve})
    (target / "assets.extra").mkdir(exist_ok=True)
    (target / "assets.extra" / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")
    loaded = tf.saved_model.load(str(target))
    serve = loaded.signatures["serving_default"]
    return lambda batch, keep=loaded: serve(tf.constant(batch))["outputs"].numpy()


def _write_tflite(net, target, quantize, images, card):
    infer = _inference(net).python_function
    # one image of a fixed size, which is what phones run fast; the interpreter can resize it
    spec = tf.TensorSpec((1, *images.shape[1:]), tf.float32, name="images")
    function = tf.function(infer, input_signature=[spec]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: ([image[None]] for image in images)
    target.write_bytes(into_tflite(converter.convert(), card, images.shape[-1]))
    interpreter = tflite_interpreter(str(target))
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(batch):
        interpreter.resize_tensor_input(given["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(wanted["index"])

    return run


def _write_onnx(net, target, quantize, images, card):
    with needs.naming("An ONNX export"):
        import onnxruntime
        import tf2onnx
    function = _inference(net)
    with layers.portable():  # convolutions stay convolutions, for other runtimes' kernels
        tf2onnx.convert.from_function(
            function, input_signature=function.input_signature, opset=17, output_path=str(target)
        )
    into_onnx(str(target), card)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


_WRITERS = {"saved_model": _write_saved_model, "tflite": _write_tflite, "onnx": _write_onnx}
