"""The contract of a model with the outside: its pixels, its pictures, its outputs."""

import json

import keras
import numpy as np
from keras import ops

from keras_effv2 import photos
from keras_effv2.layers.backend import PACKAGE

# (x - mean) / deviation, per channel, for x in 0..255.
PIXELS = {
    "imagenet": (
        tuple(255 * m for m in (0.485, 0.456, 0.406)),
        tuple(255 * s for s in (0.229, 0.224, 0.225)),
    ),
    "128": ((128.0,), (128.0,)),
    "127.5": ((127.5,), (127.5,)),
}

CONFIDENCE = ("temperature", "unknown_below", "thresholds")  # what is known of it; see `Pixels`

SIDE = 224  # of the pictures of a model that says nothing else, in pixels


def check_pixels(pixels, channels=3):
    """Returns `pixels` if it names a contract that fits `channels`, else raises `ValueError`."""
    if pixels not in PIXELS:
        raise ValueError(f"`pixels` is one of {sorted(PIXELS)}. Received: pixels={pixels!r}.")
    if pixels == "imagenet" and channels != 3:
        raise ValueError(
            f"`pixels='imagenet'` normalises 3 channels, the input has {channels}. "
            "Pass pixels='128' or pixels='127.5'."
        )
    return pixels


def normalize(x, pixels):
    """Maps 0..255 to the network's range under a contract, with `keras.ops` or NumPy arithmetic."""
    mean, deviation = PIXELS[pixels]
    return (x - np.asarray(mean, "float32")) / np.asarray(deviation, "float32")


@keras.saving.register_keras_serializable(PACKAGE)
class Pixels(keras.layers.Layer):
    """The model's contract with the outside: which pixels it takes and what its outputs mean.

    The layer has no weights. It normalises 0..255 in float32 under every dtype policy, and it
    travels with the model: in its config (`.keras`, exports) and in `.weights.h5` files, where
    loading a file made for other pixels is an error.

    Args:
        pixels: `"imagenet"` ((x - mean) / std of ImageNet), `"128"` ((x - 128) / 128) or
            `"127.5"` (x / 127.5 - 1).
        enabled: Whether the layer normalises; if not, it expects pixels already normalised.
        image_size: Side in pixels at which the model is evaluated.
        crop: `"none"` (the whole image is squeezed to a square), `"automl"` (a centre square of
            side `int(size / (size + 32) * min(height, width))`), or a share such as 0.95 (the
            shorter side is resized to `size / 0.95`, then the centre cut), see `photos.prepare`.
        resize: `"bilinear"`, `"bicubic"` or `"pillow-bicubic"`.
        activation: Activation the head was trained with, `"softmax"` or `"sigmoid"`.
        class_names: Optional list of the outputs' names.
        temperature: What the logits were divided by to make confidences honest, or None.
        unknown_below: Confidence below which a picture is said to be of none of the classes, or
            None.
        thresholds: Of sigmoids: for each label the probability from which on it is said, a list, or
            None.
        features: Optional dictionary from `reduction_1` .. to the names of the layers that give
            these feature maps.
    """

    def __init__(
        self,
        pixels="128",
        enabled=True,
        image_size=None,
        crop="none",
        resize="bilinear",
        activation="softmax",
        class_names=None,
        temperature=None,
        unknown_below=None,
        thresholds=None,
        features=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pixels = check_pixels(pixels)
        self.enabled = enabled
        self.image_size = image_size
        photos.check_geometry(crop, resize)
        self.crop = crop
        self.resize = resize
        self.activation = activation
        self.class_names = tuple(class_names) if class_names else None
        self.temperature, self.unknown_below = temperature, unknown_below
        self.thresholds = thresholds
        self.features = dict(features or {})
        self.supports_masking = True
        self.autocast = False  # bfloat16 cannot tell 254 from 255

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        if self.enabled:
            mean, deviation = PIXELS[self.pixels]
            x = (x - ops.convert_to_tensor(mean, "float32")) / ops.convert_to_tensor(
                deviation, "float32"
            )
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def forget_confidence(self):
        """Says nothing of confidence any more: the head has been trained since it was judged."""
        for key in CONFIDENCE:
            setattr(self, key, None)

    def contract(self):
        """Everything the layer says, as a dictionary that JSON can hold."""
        later = {key: getattr(self, key) for key in CONFIDENCE}
        return {
            "pixels": self.pixels,
            "enabled": self.enabled,
            "image_size": self.image_size,
            "crop": self.crop,
            "resize": self.resize,
            "activation": self.activation,
            "class_names": list(self.class_names) if self.class_names else None,
            # left out where nothing is said: earlier versions do not know them
            **{key: value for key, value in later.items() if value is not None},
        }

    def get_config(self):
        return {**super().get_config(), **self.contract(), "features": dict(self.features)}

    def save_own_variables(self, store):
        store["contract"] = np.frombuffer(json.dumps(self.contract()).encode(), np.uint8)

    def load_own_variables(self, store):
        if "contract" not in store:
            return  # a file that Keras' own models wrote
        read = json.loads(np.asarray(store["contract"]).astype(np.uint8).tobytes())
        if read["pixels"] != self.pixels:
            raise ValueError(
                f"These weights were made for pixels={read['pixels']!r}, the model was built with "
                f"pixels={self.pixels!r}. Build it with pixels={read['pixels']!r}."
            )
        self.activation = read["activation"]
        for key in ("image_size", "crop", "resize"):
            setattr(self, key, read[key] or getattr(self, key))
        photos.check_geometry(self.crop, self.resize)
        self.class_names = tuple(read["class_names"]) if read["class_names"] else None
        for key in CONFIDENCE:
            setattr(self, key, read.get(key))


def find_pixels(model):
    """Returns the model's `Pixels` layer, searching nested models too, or None."""
    for layer in walk(model):
        if isinstance(layer, Pixels):
            return layer
    return None


def walk(model):
    """Yields the layers of a model and of the models nested in it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from walk(layer)


def takes_hub_images(model):
    """Whether a model is built on a layer that takes [0, 1], as TF Hub's do, and scales none itself."""
    found = list(walk(model))
    scaling = (Pixels, keras.layers.Rescaling, keras.layers.Normalization)
    on_hub = any(getattr(layer, "takes_hub_images", False) for layer in found)
    return on_hub and not any(isinstance(layer, scaling) for layer in found)


def check_preprocessing(model):
    """Refuses a model that does not normalise pixels itself."""
    pixels = find_pixels(model)
    if pixels is not None and not pixels.enabled:
        raise ValueError(
            f"Model {model.name!r} was built with include_preprocessing=False and takes what "
            "preprocess_input(x, model=model) makes; here models take pixels 0..255. Build it with "
            "include_preprocessing=True and load its weights."
        )
