"""Lean exports in the interpreters that they are made for."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported import close, lively, pictures, small, tiny

import keras_effv2 as kev
from keras_effv2.exporting import formats


def in_saved_model(path, images):
    signature = tf.saved_model.load(path).signatures["serving_default"]
    return signature(tf.constant(images))["outputs"].numpy()


def in_tflite(path, images):
    interpreter = formats.tflite_interpreter(path)  # LiteRT's, or TensorFlow's own
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    if list(given["shape"]) != [1, *images.shape[1:]]:
        interpreter.resize_tensor_input(given["index"], [1, *images.shape[1:]])
    interpreter.allocate_tensors()
    outputs = []
    for image in images:  # one at a time, as on a phone
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(wanted["index"])[0])
    return np.stack(outputs)


def in_onnx(path, images):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


RUN = {"saved_model": in_saved_model, "tflite": in_tflite, "onnx": in_onnx}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "family, format, quantize, tolerance",
    [
        ("efficientnet", "saved_model", None, 1e-4),
        ("efficientnet", "tflite", None, 1e-4),
        ("efficientnet", "tflite", "float16", 1e-2),
        ("efficientnet", "tflite", "int8", 0.3),
        ("efficientnet", "onnx", None, 1e-4),
        ("coatnet", "tflite", None, 1e-4),
        ("coatnet_rw", "tflite", None, 1e-4),
        pytest.param("coatnet_rw", "saved_model", None, 1e-4, marks=pytest.mark.slow),
        pytest.param("coatnet_rw", "onnx", None, 1e-4, marks=pytest.mark.slow),
        pytest.param("coatnet", "onnx", None, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_lean_exports_run_elsewhere(family, format, quantize, tolerance, tmp_path):
    model, images = lively(tiny(family)), pictures(8)
    path = tmp_path / "lean"
    report = kev.export(model, path, format, quantize=quantize, images=images, force=True)
    wanted = model(images, training=False).numpy()
    found = RUN[format](str(path), images)
    close(found, wanted, tolerance)
    assert report.max_drift == pytest.approx(np.abs(found - wanted).max(), rel=0.1, abs=3e-5)
    agreement = np.mean(found.argmax(1) == wanted.argmax(1))
    assert report.images == 8 and report.top1_agreement == pytest.approx(agreement)
    beside = path / "assets.extra/export.json" if path.is_dir() else tmp_path / "lean.json"
    assert json.loads(beside.read_text())["max_drift"] == report.max_drift
    odd = pictures(1, 96, 64)
    one_size = format == "tflite" and family.startswith("coatnet")  # that of its attention
    if quantize != "int8" and not one_size:
        close(RUN[format](str(path), odd), model(odd).numpy(), tolerance)


def test_an_onnx_file_has_the_convolutions_of_the_network(tmp_path):
    """Runtimes have kernels for them; those of squeeze-excite are products on TensorFlow's CPUs."""
    onnx = pytest.importorskip("onnx")
    model = tiny("efficientnet")
    kev.export(model, tmp_path / "m.onnx", "onnx", images=pictures(1, 32, 32))
    nodes = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    assert nodes.count("Conv") == sum(isinstance(layer, kinds) for layer in model.layers)
    assert nodes.count("MatMul") + nodes.count("Gemm") == 1  # the head


def test_lean_export_around_a_hub_layer(tmp_path):
    hub = kev.export_hub(small(), tmp_path / "hub")
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Dense(4)(kev.HubLayer(hub)(inputs)))
    images = pictures(2) / 255
    kev.export(model, tmp_path / "lean", images=images)
    close(in_saved_model(str(tmp_path / "lean"), images), model(images))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_full_disk_is_no_fault_of_the_model(tmp_path, monkeypatch):
    """TensorFlow says it in its own class."""

    def write(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "/x/variables; No space left on device")

    monkeypatch.setitem(formats._WRITERS, "saved_model", write)
    with pytest.raises(OSError, match="lean could not be written .No space left.*Make room"):
        kev.export(lively(tiny("efficientnet")), tmp_path / "lean", images=pictures(1))
    assert list(tmp_path.iterdir()) == []


def test_int8_that_agrees_too_little_is_refused(tmp_path):
    model, images = small(), pictures(16, 32, 32)
    kernel, bias = model.get_layer("head").get_weights()
    ties = kernel[:, :1] + 1e-3 * kernel  # ten classes that int8 can hardly tell apart
    model.get_layer("head").set_weights([ties, 0 * bias])
    options = {"format": "tflite", "quantize": "int8", "images": images}
    with pytest.raises(ValueError, match="wanted 95%.*force=True"):
        kev.export(model, tmp_path / "x.tflite", **options)
    assert list(tmp_path.iterdir()) == []
    report = kev.export(model, tmp_path / "x.tflite", force=True, **options)
    found = in_tflite(str(tmp_path / "x.tflite"), images).argmax(1)
    agreement = np.mean(found == model(images).numpy().argmax(1))
    assert report.top1_agreement == agreement < 0.95
