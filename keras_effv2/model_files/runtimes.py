"""The runtimes of exports: each gives a function of images and what the file says of itself.

A file's card is the dictionary that `exporting.card` writes: `assets.extra/keras_effv2.json` of a
SavedModel, `keras_effv2.json` in the archive behind a `.tflite`, `keras_effv2` among the properties of
an `.onnx`. Of a file without one it is empty.
"""

import contextlib
import json
import os
import warnings
import zipfile

import numpy as np
from absl import logging

from keras_effv2.layers import SIDE

CARD = "keras_effv2.json"
# what TF Hub's contract of image models says of one that has no card
HUB = {"kind": "classification", "images": [0, 1], "outputs": "logits", "activation": "softmax"}


def card_beside(path):
    """The card in the folder of a SavedModel.

    Raises:
        ValueError: If it is no dictionary in JSON.
    """
    file = os.path.join(path, "assets.extra", CARD)
    if not os.path.exists(file):
        return {}
    with open(file, "rb") as opened:
        return _card(opened.read())


def _card(content):
    """The card that a file has in it; refuses what is none."""
    with contextlib.suppress(ValueError):
        card = json.loads(content)
        if isinstance(card, dict):
            return card
    raise ValueError(f"what it says of itself ({CARD}) is no dictionary in JSON")


def saved_model(path):
    """A reusable SavedModel, or a lean one with the signature `serving_default`."""
    import tensorflow as tf

    loaded, card = tf.saved_model.load(path), card_beside(path)
    if callable(loaded):

        def call(images):
            return loaded(images, training=False)

        card = {**HUB, **card} if card else _of_hub(path, loaded, call)
        if not card:
            return call, card
        labels = getattr(loaded, "labels", None)
        if labels is not None and not card.get("class_names"):
            with tf.io.gfile.GFile(labels.asset_path.numpy().decode()) as file:
                card = {**card, "class_names": file.read().splitlines()}
        return call, card if card.get("class_names") else {"classes": _outputs(loaded), **card}
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]

    def run(images, kept=loaded):  # else its variables would be gone
        (outputs,) = serve(**{name: images}).values()
        return outputs

    return run, card


def _of_hub(path, loaded, call):
    """The card of a SavedModel that says nothing of itself; empty if it cannot be one of TF Hub's."""
    given, _ = _shapes(loaded)
    if len(given) != 1 or len(given[0]) != 4:
        return HUB
    side = given[0][1]
    grey = np.full((1, side or SIDE, side or SIDE, 3), 0.5, "float32")
    scores = np.asarray(call(grey))
    if scores.min() >= 0 and abs(scores.sum() - 1) < 1e-3:
        return {}  # probabilities, as Keras 2 saved classifiers: their pixels are unknown, too
    logging.warning("%s is taken for a model of TF Hub: pixels 0..1 in, logits out.", path)
    return {**HUB, "image_size": side, "only": side is not None}


def _outputs(loaded):
    """How many numbers a reusable SavedModel gives for a picture, by its signature; None: unknown."""
    _, made = _shapes(loaded)
    return made[0][-1] if len(made) == 1 and len(made[0]) == 2 else None


def _shapes(loaded):
    """Shapes of what a reusable SavedModel takes and of what it gives, by its signature, if any."""
    signature = getattr(loaded, "signatures", {}).get("serving_default")
    if signature is None:
        return [], []
    specs = signature.structured_input_signature[1], signature.structured_outputs
    return [[tuple(spec.shape) for spec in part.values()] for part in specs]


def tflite(path):
    """A TFLite file; one picture at a time, as it was made for."""
    import tensorflow as tf

    card = _card_behind(path)
    if not card:  # LiteRT ends the process over a file that is cut off
        return None, card
    interpreter = tflite_interpreter(path)
    interpreter.allocate_tensors()
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def one_by_one(images):
        outputs = []
        for image in images:
            interpreter.set_tensor(given["index"], image[None].astype(given["dtype"]))
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(wanted["index"])[0].astype("float32"))
        return np.stack(outputs)

    card = {**card, "image_size": int(given["shape"][1]), "only": True}
    return lambda images: tf.numpy_function(one_by_one, [images], tf.float32, stateful=False), card


def _card_behind(path):
    """The card in the archive at a file's end, which is there alone if the file is whole."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        return _card(archive.read(CARD)) if CARD in archive.namelist() else {}


def tflite_interpreter(path):
    """LiteRT's interpreter where it is installed, else TensorFlow's, which says it will go."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Interpreter(path, num_threads=os.cpu_count())


def onnx(path):
    """An ONNX file, by ONNX Runtime on the processor."""
    import onnxruntime
    import tensorflow as tf

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    said = session.get_modelmeta().custom_metadata_map.get(CARD.removesuffix(".json"))

    def run(images):
        return session.run(None, {name: images})[0]

    return (
        lambda images: tf.numpy_function(run, [images], tf.float32, stateful=False),
        _card(said) if said else {},
    )
