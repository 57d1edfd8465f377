"""Latency of a network's doors, all in one run, and how often they agree on real pictures.

    python benchmarks/doors.py --weights b0.weights.h5 --data folder:flowers --peer timm.onnx

Every round times each door once, so that a slow minute of the machine hits all alike, and after an
untimed call of the same door, since threads of one runtime go on spinning when another is called. The
table has medians, and ratios to keras.applications in a `tf.function`.
"""

import argparse
import contextlib
import importlib.util
import io
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import onnxruntime
import tensorflow as tf

import keras_effv2 as kev
from keras_effv2 import processor

BASE = "keras.applications tf.function"
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--weights", default="imagenet", help="tag or path, of EfficientNetV2-B0")
parser.add_argument("--image_size", type=int, default=224)
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--peer", help="ONNX file that takes NCHW, such as timm's by torch.onnx.export")
parser.add_argument("--data", help="folder:PATH to count agreements on")
parser.add_argument("--pictures", type=int, default=100)


def tflite(path):
    interpreter = tf.lite.Interpreter(path, num_threads=2)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    wanted = interpreter.get_output_details()[0]["index"]

    def one(image):
        interpreter.set_tensor(given, image[None])
        interpreter.invoke()
        return interpreter.get_tensor(wanted)[0]

    return lambda images: np.stack([one(image) for image in images])


def onnx(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def channels_first(path):
    """Another's file; its pictures are laid out before they are timed."""
    call, laid_out = onnx(path), {}

    def run(images):
        if len(images) not in laid_out:
            laid_out[len(images)] = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return call(laid_out[len(images)])

    return run


def openvino(path):
    import openvino

    call = openvino.compile_model(path, "CPU")
    return lambda images: call(images)[0]


def saved_model(path):
    serve = tf.saved_model.load(path).signatures["serving_default"]
    return lambda images: serve(tf.constant(images))["outputs"].numpy()


def converted(model, path, examples=None):
    """What TensorFlow's converter makes of a Keras network; int8 with examples."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if examples is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in examples)
    with contextlib.redirect_stdout(io.StringIO()):  # a line a variable
        path.write_bytes(converter.convert())
    return tflite(str(path))


def doors(args, folder):
    ours = kev.EfficientNetV2B0(weights=args.weights)
    size = args.image_size
    theirs = keras.applications.EfficientNetV2B0(weights=None, input_shape=(size, size, 3))
    theirs.set_weights([w for layer in ours.layers for w in layer.get_weights()])
    graph = tf.function(lambda x: theirs(x, training=False))
    examples = np.random.default_rng(0).uniform(0, 255, (16, size, size, 3)).astype("float32")
    if args.data:
        split = kev.data.load(args.data).train
        examples = next(iter(split.eval_batches(image_size=size, batch_size=16)))[0].numpy()
    for name, form, options in (
        ("plain", "saved_model", {"fold_batch_norm": False}),
        ("folded", "saved_model", {}),
        ("m.tflite", "tflite", {}),
        ("float16.tflite", "tflite", {"quantize": "float16"}),
        ("int8.tflite", "tflite", {"quantize": "int8", "force": True}),
        ("m.onnx", "onnx", {}),
    ):
        kev.export(ours, folder / name, form, images=examples, **options)
    others = {}
    if importlib.util.find_spec("openvino"):
        others["OpenVINO"] = openvino(str(folder / "m.onnx"))
    if args.peer:
        others[f"{pathlib.Path(args.peer).stem}, ONNX Runtime"] = channels_first(args.peer)
    return {
        BASE: lambda x: graph(tf.constant(x)).numpy(),
        "keras.applications predict_on_batch": theirs.predict_on_batch,
        "keras.applications TFLite": converted(theirs, folder / "k.tflite"),
        "keras.applications TFLite int8": converted(theirs, folder / "k8.tflite", examples),
        "SavedModel": saved_model(str(folder / "plain")),
        "SavedModel, folded": saved_model(str(folder / "folded")),
        "TFLite": tflite(str(folder / "m.tflite")),
        "TFLite float16": tflite(str(folder / "float16.tflite")),
        "TFLite int8": tflite(str(folder / "int8.tflite")),
        "ONNX Runtime": onnx(str(folder / "m.onnx")),
        **others,
    }


def latency(calls, images, rounds):
    times = {name: [] for name in calls}
    for round in range(rounds + 1):
        for name, call in calls.items():
            call(images)
            start = time.perf_counter()
            call(images)
            if round:  # the first warms up
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def main(args):
    with tempfile.TemporaryDirectory() as folder:
        calls = doors(args, pathlib.Path(folder))
        shape = (args.image_size, args.image_size, 3)
        noise = np.random.default_rng(0).uniform(0, 255, (32, *shape)).astype("float32")
        took = [
            latency(calls, noise[:1], 3 * args.rounds),
            latency(calls, noise[:8], args.rounds),
            latency(calls, noise, args.rounds),
        ]
        same = dict.fromkeys(calls, "")
        if args.data:
            split = kev.data.load(args.data).test.select(range(args.pictures))
            batches = split.eval_batches(image_size=args.image_size, batch_size=args.pictures)
            images = next(iter(batches))[0].numpy()
            ours = [name for name in calls if args.peer is None or name != list(calls)[-1]]
            answers = {name: calls[name](images).argmax(-1) for name in ours}
            first = answers[BASE]
            same |= {name: f"{(a == first).mean():.0%}" for name, a in answers.items()}
    print(
        "| door | batch 1, ms | ratio | batch 8, ms | ratio | batch 32, ms | ratio | same top 1 |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in calls:
        cells = [f"{ms[name]:.1f} | {ms[BASE] / ms[name]:.2f}" for ms in took]
        print(f"| {name} | {' | '.join(cells)} | {same[name]} |")
    print(f"{processor.instructions()}, oneDNN {processor.onednn()}")


if __name__ == "__main__":
    main(parser.parse_args())
