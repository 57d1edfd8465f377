"""Exports: reusable SavedModels for TF Hub, lean SavedModels, TFLite and ONNX.

Whatever is written is written beside its place, compared with the live model, and only then moved
there: what exists is whole and was verified.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import graph, layers

KINDS = ("classification", "feature_vector")
FORMATS = ("saved_model", "tflite", "onnx")


@dataclasses.dataclass(frozen=True)
class Report:
    """How an export compares with the live model, on given or random images.

    Attributes:
        path: What was written.
        format: Its format.
        megabytes: Its size.
        max_drift: Largest difference of an output.
        rms_drift: Root mean square of the differences.
        top1_agreement: Part of the images with the same best class.
        images: Number of images compared.
        milliseconds: Median latency of one image in the export.
        milliseconds_live: The same of the live model in a `tf.function`.
    """

    path: str
    format: str
    megabytes: float
    max_drift: float
    rms_drift: float
    top1_agreement: float
    images: int
    milliseconds: float
    milliseconds_live: float

    def __str__(self):
        return (
            f"{self.path}: {self.format}, {self.megabytes:.1f} MB; against the live model on "
            f"{self.images} images: largest difference {self.max_drift:.2g}, RMS "
            f"{self.rms_drift:.2g}, same top 1 {self.top1_agreement:.1%}; one image "
            f"{self.milliseconds:.1f} ms, live {self.milliseconds_live:.1f} ms"
        )


# ---------------------------------------------------------------------------------------- TF Hub


def export_hub(model, path, kind="classification", labels=None):
    """Writes a reusable SavedModel that TF Hub's users can fine-tune.

    The loaded object is callable with images float32 in [0, 1], `(batch, height, width, channels)`
    of any batch and size, and a Python bool `training`; it has `variables`,
    `trainable_variables`, `regularization_losses` and the signature `serving_default`. Models of
    this package also get `features`, a function and a signature: images to a dictionary of the
    feature maps `reduction_1` .. `reduction_5`, in inference mode.

    A model without a `Pixels` layer is given 0..255, or [0, 1] where a `HubLayer` takes its input.

    Args:
        model: A functional `keras.Model` with one image input.
        path: Folder to write, or a name that ends in `.tar.gz`, in the layout of TF Hub and Kaggle.
        kind: `"classification"` gives logits, `"feature_vector"` the pooled features.
        labels: Names of the classes; None takes those that the model carries.

    Returns:
        The path, when a fresh process has loaded the export and found the same outputs.

    Raises:
        ValueError: If `kind` is unknown or the model does not have it.
        FileExistsError: If `path` exists.
        RuntimeError: If the written model computes something else; nothing is left then.

    Source: https://www.tensorflow.org/hub/reusable_saved_models
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` is one of {', '.join(KINDS)}. Received: {kind!r}.")
    layers.require_tensorflow("Export")
    if kind == "classification":
        _check_outputs(model)
        _check_head(model)
    net = model if graph.is_dynamic(model) else graph.dynamic_clone(model)
    pixels = layers.find_pixels(net)
    if labels is None and pixels is not None:
        labels = pixels.class_names
    view = graph.logits_of(net) if kind == "classification" else _pooled(net)
    if labels is not None and kind == "classification" and len(labels) != view.output_shape[-1]:
        raise ValueError(
            f"There are {len(labels)} labels for {view.output_shape[-1]} classes. Give one a class."
        )
    with _constant_rates(net), _in_place(path) as folder:
        root = _reusable(net, view, labels, folder)
        # the first trace becomes the default of calls without `training`
        signatures = {"serving_default": root.serve}
        if hasattr(root, "features"):
            signatures["features"] = root.features
        tf.saved_model.save(root, str(folder), signatures=signatures)
        _write_card(folder, net, view, kind, labels)
        _verify(folder, root, net.inputs[0].shape[-1])
    return str(path)


def _reusable(net, view, labels, folder):
    """The object that is saved: TF Hub's interface around a Keras model."""
    channels = net.inputs[0].shape[-1]
    pixels = layers.find_pixels(net)

    pyramid = _pyramid(net)
    whole = keras.Model(net.inputs, {"outputs": view.outputs[0], **pyramid})

    def compute(images, training):
        if not _takes_hub_images(net):
            images = images * 255.0
        if pixels is not None and not pixels.enabled:
            images = layers.normalize(images, pixels.pixels)
        with layers.portable():  # whoever loads it may have other devices
            outputs = whole(images, training=training)
        return {key: tf.cast(x, tf.float32) for key, x in outputs.items()}

    spec = tf.TensorSpec((None, None, None, channels), tf.float32, name="inputs")

    # each graph is written once, however many functions call it
    infer = tf.function(lambda inputs: compute(inputs, False), [spec])
    learn = tf.function(lambda inputs: compute(inputs, True), [spec])

    @tf.function
    def call(inputs, training=False):
        return (learn if training else infer)(inputs)["outputs"]

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    call.get_concrete_function(spec)

    root = tf.train.Checkpoint()
    root.__call__ = call
    root.serve = tf.function(lambda inputs: {"outputs": infer(inputs)["outputs"]}, [spec])
    if pyramid:
        root.features = tf.function(
            lambda inputs: {k: v for k, v in infer(inputs).items() if k in pyramid}, [spec]
        )
    root.variables = [v.value for v in view.weights]
    root.trainable_variables = [v.value for v in view.trainable_weights]
    root._modules = _modules(net)
    root.regularization_losses = [
        _penalty(v) for v in view.trainable_weights if getattr(v, "regularizer", None) is not None
    ]
    weights = {id(v) for v in net.weights}
    root._seeds = [v.value for v in net.variables if id(v) not in weights]
    if labels is not None:
        file = pathlib.Path(folder).parent / "labels.txt"
        file.write_text("\n".join(labels) + "\n", encoding="utf-8")
        root.labels = tf.saved_model.Asset(str(file))
    return root


def _modules(net):
    """The SavedModels inside a model; they have variables that are no weights, such as seeds."""
    return [layer.module for layer in layers.walk(net) if hasattr(layer, "module")]


def _penalty(weight):
    """A function without arguments; made here so that it closes over one weight only."""
    return tf.function(lambda: weight.regularizer(weight.value), [])


def _takes_hub_images(net):
    """Whether the model is built on a layer that takes [0, 1], as TF Hub's models do."""
    on_hub = any(getattr(layer, "takes_hub_images", False) for layer in layers.walk(net))
    return on_hub and layers.find_pixels(net) is None


def _check_outputs(model):
    """Refuses a model of several inputs or outputs, or of maps, before anything is written."""
    outputs = model.outputs
    if len(model.inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            f"Model {model.name!r} has {len(model.inputs)} inputs and outputs of shapes "
            f"{', '.join(str(tuple(x.shape)) for x in outputs)}; exports are of models with one "
            "image and one output (batch, n). Build it without `features`, or with pooling='avg'."
        )


def _check_head(model):
    """Refuses a model whose outputs are features, no classes."""
    pooled = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    if isinstance(model.layers[-1], pooled):
        raise ValueError(
            f"Model {model.name!r} ends in its pooled features, so it has no classes: export it "
            "with kind='feature_vector'."
        )


def _pyramid(net):
    """The feature maps by name, where the builder of the model said which they are."""
    pixels = layers.find_pixels(net)
    outputs = {layer.name: layer.output for layer in net.layers}
    names = pixels.features if pixels is not None else {}
    return {key: outputs[name] for key, name in sorted(names.items()) if name in outputs}


def _pooled(net):
    """The model up to its pooled features `(batch, channels)`."""
    if len(net.output_shape) == 2 and not isinstance(graph.head_of(net), keras.layers.Dense):
        return net
    for layer, _, (made, *_) in reversed(graph.calls(net)):
        if isinstance(layer, keras.layers.GlobalAveragePooling2D) and len(made.shape) == 2:
            return keras.Model(net.inputs, made)
    raise ValueError(
        f"Model {net.name!r} has no layer GlobalAveragePooling2D of its own, so there is no feature "
        "vector. Build it with include_top=True or pooling='avg'."
    )


@contextlib.contextmanager
def _constant_rates(model):
    """Bakes the rates of dropping into what is traced within; afterwards they may vary again."""
    with contextlib.ExitStack() as stack:
        for layer in layers.walk(model):
            if hasattr(layer, "fixed_rate"):
                stack.enter_context(layer.fixed_rate())
        yield


def _write_card(folder, net, view, kind, labels):
    pixels = layers.find_pixels(net)
    contract = pixels.contract() if pixels is not None else {}
    card = {
        "version": 1,
        "variant": net.name,
        "kind": kind,
        "pixels": contract.get("pixels"),
        "activation": contract.get("activation"),
        "classes": view.output_shape[-1] if kind == "classification" else None,
        "class_names": list(labels) if labels else None,
        "image_size": contract.get("image_size"),
        "crop": contract.get("crop"),
        "resize": contract.get("resize"),
        "variables": [v.path for v in view.weights],
    }
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / "keras_effv2.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    (extra / "MODEL_CARD.md").write_text(_model_card(net, card), encoding="utf-8")


def _model_card(net, card):
    size = card["image_size"] or "any"
    count = sum(int(np.prod(v.shape)) for v in net.weights)
    side = card["image_size"] or 224
    cost = f"{multiply_adds(net, side) / 1e9:.3g} billion at {side} x {side}"
    if _modules(net):
        cost += ", without those of the SavedModel inside"
    return f"""# {card["variant"]}, {card["kind"]}

* Parameters: {count:,}
* Multiply-adds: {cost}
* Input: RGB images, float32 in [0, 1], any batch and size; made for {size} x {size} pixels
  (crop {card["crop"]}, resize {card["resize"]}). Normalisation is inside ({card["pixels"]}).
* Output: {"logits of " + str(card["classes"]) + " classes" if card["classes"] else "pooled features"}
* Training data, evaluation: fill in what you measured.
* Licence: fill in yours; released ImageNet weights are Apache-2.0.

```python
module = tf.saved_model.load(path)                      # plain TensorFlow
outputs = module(images, training=False)
layer = hub.KerasLayer(path, trainable=True)            # tf_keras
layer = keras_effv2.HubLayer(path, trainable=True)      # Keras 3
```
"""


def multiply_adds(model, side):
    """Counts the multiply-adds of convolutions and matrix products on one square image.

    What happens inside nested SavedModels is not counted.
    """
    image = tf.TensorSpec((1, side, side, model.inputs[0].shape[-1]), tf.float32)
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(image)
    total = 0
    for op in traced.graph.get_operations():
        if op.type in ("Conv2D", "DepthwiseConv2dNative"):
            height, width, channels, _ = op.inputs[1].shape
            each = height * width * (channels if op.type == "Conv2D" else 1)
        elif op.type in ("MatMul", "BatchMatMulV2"):
            turned = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            each = op.inputs[0].shape[-2 if turned else -1]
        elif op.type == "Einsum":
            given, result = op.get_attr("equation").decode().split("->")
            sides = {}
            for labels, tensor in zip(given.split(","), op.inputs):
                sides.update(zip(labels, tensor.shape))
            each = math.prod(n for label, n in sides.items() if label not in result)
        else:
            continue
        total += each * op.outputs[0].shape.num_elements()
    return total


@contextlib.contextmanager
def _in_place(path):
    """A temporary folder that becomes `path` if the block ends well, and vanishes if not."""
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists. Remove it, or choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
        folder = pathlib.Path(work) / "export"
        yield folder
        if path.name.endswith((".tar.gz", ".tgz")):
            archive = pathlib.Path(work) / "archive"
            with tarfile.open(archive, "w:gz") as tar:
                for child in sorted(folder.iterdir()):  # at the root, as TF Hub wants it
                    tar.add(child, arcname=child.name)
            os.replace(archive, path)
        elif folder.is_dir() or folder.is_file():
            os.replace(folder, path)
        else:
            raise RuntimeError(f"Nothing was written for {path}.")


_CHECK = """
import sys, numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
case = np.load(sys.argv[2])
outputs = loaded(tf.constant(case["images"]), training=False).numpy()
served = loaded.signatures["serving_default"](tf.constant(case["images"]))["outputs"].numpy()
scale = max(1.0, float(np.abs(case["outputs"]).max()))
drift = max(np.abs(outputs - case["outputs"]).max(), np.abs(served - case["outputs"]).max())
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(loaded(tf.constant(case["images"]), training=True) ** 2)
gradients = tape.gradient(loss, loaded.trainable_variables)
missing = sum(g is None for g in gradients)
if not drift <= 1e-5 * scale or missing:
    sys.exit(f"outputs differ by {drift}, {missing} variables get no gradient")
"""


def _verify(folder, root, channels):
    """Loads the export in a process without this package and compares outputs and gradients."""
    images = np.random.default_rng(0).uniform(0, 1, (2, 64, 96, channels)).astype("float32")
    with tempfile.TemporaryDirectory() as work:
        case = os.path.join(work, "case.npz")
        with tf.device("CPU:0"):  # this process may hold all the memory of an accelerator
            outputs = root.__call__(tf.constant(images), training=False).numpy()
        np.savez(case, images=images, outputs=outputs)
        done = subprocess.run(
            [sys.executable, "-c", _CHECK, str(folder.resolve()), case],
            capture_output=True,
            text=True,
            cwd=work,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PYTHONPATH": "",
                "CUDA_VISIBLE_DEVICES": "-1",
            },
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"The export failed its check in a fresh process: {last}.")


# ----------------------------------------------------------------------------------- lean exports


def export(
    model,
    path,
    format="saved_model",
    fold_batch_norm=True,
    *,
    quantize=None,
    images=None,
    min_agreement=0.95,
    force=False,
):
    """Writes a model for inference only, and measures what it costs and how far it drifts.

    The input stays the model's: pixels 0..255, float32. (Only `export_hub` takes [0, 1].)

    Args:
        model: A functional `keras.Model` with one image input.
        path: Folder (SavedModel) or file to write.
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
        ValueError: If format and quantize do not fit, or an int8 export agrees too little.
        FileExistsError: If `path` exists.
        ImportError: If a converter is not installed; says which.
        RuntimeError: If the written model computes something else; nothing is left then.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` is one of {', '.join(FORMATS)}. Received: {format!r}.")
    if quantize not in (None, "float16", "int8") or (quantize and format != "tflite"):
        raise ValueError(
            "`quantize` is None, 'float16' or 'int8', and goes with format='tflite'. Received: "
            f"quantize={quantize!r}, format={format!r}."
        )
    layers.require_tensorflow("Export")
    _check_outputs(model)
    layers.check_preprocessing(model)
    net = model if graph.is_dynamic(model) else graph.dynamic_clone(model)
    pixels = layers.find_pixels(net)
    if images is None:
        size = (pixels and pixels.image_size) or 224
        shape = (16, size, size, net.inputs[0].shape[-1])
        images = np.random.default_rng(0).uniform(0, 255, shape)
    images = np.asarray(images, "float32")
    channels = net.inputs[0].shape[-1]
    if images.ndim != 4 or not len(images) or images.shape[-1] != channels:
        raise ValueError(
            f"`images` is an array (n, height, width, {channels}), 0..255. Received shape: "
            f"{images.shape}."
        )
    lean = fold(net) if fold_batch_norm else net
    with _constant_rates(net), _in_place(path) as target:
        run = _WRITERS[format](lean, target, quantize, images)
        report, scale = _compare(net, run, images, path, format, target)
        # EfficientNetV2-B0 with its ImageNet weights drifts by 3e-6 in float32, 0.1 in bfloat16
        if quantize is None and not report.rms_drift <= 0.3 * scale:  # not a number either
            raise RuntimeError(
                f"The export's outputs differ from the model's by {report.rms_drift:.2g}, and those "
                f"are {scale:.2g} large (RMS); it was not written. Try fold_batch_norm=False."
            )
        if quantize == "int8" and report.top1_agreement < min_agreement and not force:
            raise ValueError(
                f"The int8 export keeps the best class of {report.top1_agreement:.1%} of the "
                f"images, wanted {min_agreement:.0%}; it was not written. Give more and typical "
                "`images`, use float16, or pass force=True."
            )
        text = json.dumps(dataclasses.asdict(report), indent=1)
        if target.is_dir():
            (target / "assets.extra").mkdir(exist_ok=True)
            (target / "assets.extra" / "export.json").write_text(text, encoding="utf-8")
    if pathlib.Path(path).is_file():
        pathlib.Path(f"{path}.json").write_text(text, encoding="utf-8")
    logging.info("%s", report)
    return report


def _inference(net):
    """The network as a function of images, its weights as constants of the graph."""
    trainable = [v.numpy() for v in net.trainable_variables]
    others = [v.numpy() for v in net.non_trainable_variables]

    def compute(inputs):
        # made in the graph: constants from outside would be inputs of it
        constants = ([tf.constant(array) for array in arrays] for arrays in (trainable, others))
        outputs, _ = net.stateless_call(*constants, inputs, training=False)
        return {"outputs": tf.cast(outputs, tf.float32)}

    spec = tf.TensorSpec((None, None, None, net.inputs[0].shape[-1]), tf.float32, name="inputs")
    return tf.function(compute, [spec])


def _write_saved_model(net, target, quantize, images):
    root = tf.train.Checkpoint()
    root.serve = _inference(net)
    root._modules = _modules(net)
    tf.saved_model.save(root, str(target), signatures={"serving_default": root.serve})
    loaded = tf.saved_model.load(str(target))
    serve = loaded.signatures["serving_default"]
    return lambda batch, keep=loaded: serve(tf.constant(batch))["outputs"].numpy()


def _write_tflite(net, target, quantize, images):
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
    target.write_bytes(converter.convert())
    interpreter = _interpreter(str(target))
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(batch):
        interpreter.resize_tensor_input(given["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(wanted["index"])

    return run


def _interpreter(path):
    """LiteRT's interpreter where it is installed, else TensorFlow's, which says it will go."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Interpreter(path, num_threads=os.cpu_count())


def _write_onnx(net, target, quantize, images):
    try:
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            f"ONNX exports need {error.name}: pip install 'keras_effv2[export]'."
        ) from None
    function = _inference(net)
    tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=17, output_path=str(target)
    )
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


_WRITERS = {"saved_model": _write_saved_model, "tflite": _write_tflite, "onnx": _write_onnx}


def _compare(net, run, images, path, format, target):
    live = tf.function(lambda x: net(x, training=False), reduce_retracing=True)
    theirs, ours = [], []
    for image in images:
        theirs.append(np.ravel(run(image[None])))
        ours.append(np.ravel(live(tf.constant(image[None]))))
    drift = np.stack(theirs) - np.stack(ours)
    agreement = np.mean(np.argmax(theirs, 1) == np.argmax(ours, 1))
    seconds = [[], []]
    for _ in range(9):  # in turn: machines are noisy
        for side, function in enumerate((run, lambda x: live(tf.constant(x)).numpy())):
            start = time.perf_counter()
            function(images[:1])
            seconds[side].append(time.perf_counter() - start)
    size = sum(f.stat().st_size for f in ([target] if target.is_file() else target.rglob("*")))
    report = Report(
        str(path),
        format,
        size / 1e6,
        float(np.abs(drift).max()),
        float(np.sqrt(np.mean(drift**2))),
        float(agreement),
        len(images),
        1000 * statistics.median(seconds[0]),
        1000 * statistics.median(seconds[1]),
    )
    return report, float(np.sqrt(np.mean(np.square(ours))))


# ---------------------------------------------------------------------------------------- folding


def fold(model):
    """Merges batch normalisation into its neighbours: same outputs, fewer layers.

    A normalisation that follows a convolution or dense layer, and is all that follows it, goes into
    that layer. One that only feeds a 1x1 convolution goes into that one. Others stay: across a
    padding the constant would be wrong at the border. So do layers that are called twice.

    Args:
        model: A functional `keras.Model`.

    Returns:
        A new model for inference.
    """
    calls = graph.calls(model)
    times = collections.Counter(id(operation) for operation, _, _ in calls)
    makers = {id(x): operation for operation, _, made in calls for x in made}
    readers = {}
    for operation, given, _ in calls:
        for tensor in given:
            readers.setdefault(id(tensor), []).append(operation)
    outputs = {id(tensor) for tensor in model.outputs}

    def only_reader(tensor):
        found = readers.get(id(tensor), ())
        return found[0] if len(found) == 1 and id(tensor) not in outputs else None

    before, after = {}, {}  # name of the linear layer -> the normalisation
    folded = set()
    for norm, (given, *_), (made, *_) in calls:
        if not isinstance(norm, keras.layers.BatchNormalization) or times[id(norm)] > 1:
            continue
        source, reader = makers.get(id(given)), only_reader(made)
        if _is_linear(source) and times[id(source)] == 1 and only_reader(given) is norm:
            after[source.name] = norm
        elif _is_pointwise(reader) and times[id(reader)] == 1:
            before[reader.name] = norm
        else:
            continue
        folded.add(norm.name)

    def clone(layer):
        config = layer.get_config()
        if layer.name in folded:
            return _Folded(name=layer.name, dtype=config["dtype"])
        if layer.name in before or layer.name in after:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    lean = keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        if layer.name in folded or not layer.weights:
            continue
        if layer.name not in before and layer.name not in after:
            lean.get_layer(layer.name).set_weights(layer.get_weights())
            continue
        kernel, *bias = (w.astype("float64") for w in layer.get_weights())
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        channels = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[-1]
        bias = bias[0] if bias else np.zeros(channels)
        if layer.name in before:
            gain, shift = _affine(before[layer.name])
            bias = bias + shift @ kernel.reshape(-1, channels)
            kernel = kernel * gain[:, None]
        if layer.name in after:
            gain, shift = _affine(after[layer.name])
            kernel = kernel * (gain.reshape(kernel.shape[2:]) if depthwise else gain)
            bias = bias * gain + shift
        lean.get_layer(layer.name).set_weights([kernel, bias])
    return lean


class _Folded(keras.layers.Layer):
    """Stands where a normalisation was."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _is_linear(layer):
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return isinstance(layer, kinds) and layer.activation is keras.activations.linear


def _is_pointwise(layer):
    one = isinstance(layer, keras.layers.Conv2D) and tuple(layer.kernel_size) == (1, 1)
    return one and layer.groups == 1


def _affine(norm):
    """The normalisation as `x * gain + shift`, float64."""
    gain = 1.0 / np.sqrt(norm.moving_variance.numpy().astype("float64") + norm.epsilon)
    gain = gain * norm.gamma.numpy() if norm.scale else gain
    shift = -norm.moving_mean.numpy() * gain
    return gain, shift + norm.beta.numpy() if norm.center else shift


# -------------------------------------------------------------------------------------- publishing


def publish(path, to, handle, dry_run=True):
    """Uploads an export to Kaggle or Hugging Face, or shows what would be sent.

    Args:
        path: Folder that `export_hub` wrote.
        to: `"kaggle"` (kagglehub) or `"hf"` (huggingface_hub).
        handle: Name there, such as `"user/model/tensorFlow2/name"` or `"user/name"`.
        dry_run: Only list the files.

    Returns:
        A list of `(file, bytes)`.

    Raises:
        ValueError: If `to` is unknown.
        FileNotFoundError: If there is no export at `path`.
        ImportError: If the uploader is not installed.
        OSError: If the upload fails.
    """
    if to not in ("kaggle", "hf"):
        raise ValueError(f"`to` is 'kaggle' or 'hf'. Received: {to!r}.")
    folder = pathlib.Path(path)
    if not (folder / "saved_model.pb").exists():
        raise FileNotFoundError(
            f"{path} is no folder with a SavedModel. Make it with export_hub first."
        )
    files = [
        (str(f.relative_to(folder)), f.stat().st_size) for f in folder.rglob("*") if f.is_file()
    ]
    if dry_run:
        return sorted(files)
    try:
        if to == "kaggle":
            import kagglehub

            kagglehub.model_upload(handle, str(folder))
        else:
            import huggingface_hub

            huggingface_hub.create_repo(handle, exist_ok=True)
            huggingface_hub.upload_folder(repo_id=handle, folder_path=str(folder))
    except ImportError as error:
        raise ImportError(f"Publishing needs {error.name}: pip install {error.name}.") from None
    except Exception as error:  # whatever the uploader of the day raises
        raise OSError(f"{handle} could not be uploaded: {error}. Are you logged in?") from error
    return sorted(files)


__all__ = ["Report", "export", "export_hub", "fold", "publish"]
