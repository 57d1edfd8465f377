"""What an export says of itself: a page for people and a file for programs."""

import json
import math

import numpy as np
import tensorflow as tf

from keras_effv2 import layers
from keras_effv2.exporting.views import saved_models_in


def write_card(folder, net, view, kind, labels):
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
    if saved_models_in(net):
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
