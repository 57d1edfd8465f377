"""A Keras model around the runtime of an export."""

import keras

from keras_effv2 import layers


def wrapped(path, run, card):
    """A model of pixels 0..255 that computes what an export computes.

    Args:
        path: The export, for messages.
        run: Function of images as the export takes them, a tensor, that gives its outputs.
        card: What the file says of itself; see `runtimes`.

    Raises:
        ValueError: If it does not say what its inputs and outputs are, or has no classes.
    """
    if not card:
        raise ValueError(
            f"{path} does not say what its pixels and outputs are: it is cut off, or was not written by "
            "this version of keras_effv2. Get it again or export it anew (effv2 export), or give the "
            ".keras file it was made of."
        )
    if card.get("kind", "classification") != "classification":
        raise ValueError(f"{path} is a {card['kind']}: it gives features, no classes.")
    logits, classes = card.get("outputs", "logits") == "logits", card.get("classes")
    classes = classes or len(card.get("class_names") or ())
    if not classes:
        raise ValueError(
            f"{path} does not say how many classes it has: it has neither labels nor a signature with "
            "one output. Give the .keras file it was made of."
        )
    activation = "sigmoid" if classes == 1 else card.get("activation") or "softmax"
    side = card.get("image_size") if card.get("only") else None
    images = keras.Input((side, side, 3))
    x = _Told(
        low_to_high=card.get("images", [0, 1]),
        image_size=card.get("image_size"),
        crop=card.get("crop") or "none",
        resize=card.get("resize") or "bilinear",
        activation=activation,
        **{key: card.get(key) for key in ("class_names", *layers.pixels.CONFIDENCE)},
        name="pixels",
    )(images)
    x = _Runtime(run, classes, "linear" if logits else activation, name="export")(x)
    if logits:
        x = keras.layers.Activation(activation, dtype="float32")(x)
    return keras.Model(images, x, name=card.get("variant") or "export")


class _Told(layers.Pixels):
    """What a file says of its pixels; the export normalises them itself, but for the range."""

    def __init__(self, low_to_high, **contract):
        super().__init__(**contract)
        self.factor = low_to_high[1] / 255

    def call(self, inputs):
        return keras.ops.cast(inputs, "float32") * self.factor


class _Runtime(keras.layers.Layer):
    """An export, as a layer; its activation is what it ends in, and computed already."""

    def __init__(self, run, classes, activation, **options):
        super().__init__(dtype="float32", trainable=False, **options)
        self.run, self.classes = run, classes
        self.activation = keras.activations.get(activation)

    def call(self, images):
        outputs = self.run(images)
        return keras.ops.reshape(outputs, (-1, self.classes))

    def compute_output_spec(self, images):
        return keras.KerasTensor((None, self.classes), dtype="float32")
