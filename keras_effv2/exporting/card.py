"""What an export says of itself: a page for people and a file for programs."""

import json
import math

import numpy as np
import tensorflow as tf

from keras_effv2 import graph, layers
from keras_effv2.exporting.views import saved_models_in
from keras_effv2.model_files.runtimes import CARD


def card_of(net, kind, labels, images, outputs):
    """What a file says of itself, a dictionary that JSON can hold.

    Args:
        net: The model that is exported, or whose part is.
        kind: `"classification"` or `"feature_vector"`.
        labels: Names of the classes, or None.
        images: Lowest and highest value of a pixel.
        outputs: `"logits"`, `"probabilities"` or `"features"`.
    """
    pixels = layers.find_pixels(net)
    contract = pixels.contract() if pixels is not None else {}
    classifies = kind == "classification"
    own = graph.activation_of(net) if classifies else None
    if classifies and own is None and net.output_shape[-1] == 1:  # one logit is of a sigmoid
        own = "sigmoid"
    confidence = layers.pixels.CONFIDENCE if classifies else ()
    return {
        "version": 1,
        "variant": net.name,
        "kind": kind,
        "pixels": contract.get("pixels"),
        "images": list(images),
        "outputs": outputs,
        "activation": own or contract.get("activation"),
        "classes": net.output_shape[-1] if classifies else None,
        "class_names": list(labels) if labels else None,
        "image_size": net.inputs[0].shape[1] or contract.get("image_size"),
        "crop": contract.get("crop"),
        "resize": contract.get("resize"),
        **{key: contract[key] for key in confidence if key in contract},
    }


def write_card(folder, net, view, kind, labels):
    """Writes the card, `assets.extra/keras_effv2.json`, and `assets.extra/MODEL_CARD.md` into an export.

    Args:
        folder: `pathlib.Path` of the SavedModel.
        net: The model whose part was exported.
        view: That part.
        kind: `"classification"` or `"feature_vector"`.
        labels: Names of the classes, or None.
    """
    outputs = "logits" if kind == "classification" else "features"
    card = card_of(net, kind, labels, (0, 1), outputs)
    card["variables"] = [v.path for v in view.weights]
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")
    (extra / "MODEL_CARD.md").write_text(_model_card(net, card), encoding="utf-8")


def _model_card(net, card):
    _, height, width, _ = net.inputs[0].shape
    size = "any batch and size" if height is None else f"any batch, {height} x {width} pixels alone"
    made_for = f"{card['image_size']} x {card['image_size']}" if card["image_size"] else "any"
    count = sum(int(np.prod(v.shape)) for v in net.weights)
    side = card["image_size"] or layers.SIDE
    sides = (height or side, width or side)
    cost = f"{multiply_adds(net, *sides) / 1e9:.3g} billion at {sides[0]} x {sides[1]}"
    if saved_models_in(net):
        cost += ", without those of the SavedModel inside"
    output = f"logits of {card['classes']} classes" if card["classes"] else "pooled features"
    if card["classes"] == 1:
        output = "one logit, whose sigmoid is the probability of the second of two classes"
    return f"""# {card["variant"]}, {card["kind"]}

* Parameters: {count:,}
* Multiply-adds: {cost}
* Input: RGB images, float32 in [0, 1], {size}; made for {made_for} pixels
  (crop {card["crop"]}, resize {card["resize"]}). Normalisation is inside ({card["pixels"]}).
* Output: {output}
* Training data, results, licence: on the page that it was published with (`effv2 publish` writes
  one); released ImageNet weights are Apache-2.0.

```python
module = tf.saved_model.load(path)                      # plain TensorFlow
outputs = module(images, training=False)
layer = hub.KerasLayer(path, trainable=True)            # tf_keras
layer = keras_effv2.HubLayer(path, trainable=True)      # Keras 3
```
"""


def multiply_adds(model, height, width):
    """Counts the multiply-adds of convolutions and matrix products on one image.

    What happens inside nested SavedModels is not counted.
    """
    image = tf.TensorSpec((1, height, width, model.inputs[0].shape[-1]), tf.float32)
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
