"""Exports a network for TF Hub and uses it through three doors, with the same answer from each.

python examples/export_to_hub.py photo.jpg --model_file runs/mine/model.keras --output exports/mine
"""

import argparse
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("photo", nargs="?")
parser.add_argument("--model_file", help="a .keras file; default: EfficientNetV2-B0 on ImageNet")
parser.add_argument("--output", default="exports/mine")
parser.add_argument("--smoke", action="store_true", help="noise and random weights")


def main(args):
    if args.model_file:
        model = keras.models.load_model(args.model_file)
    else:
        model = kev.EfficientNetV2B0(weights=None if args.smoke else "imagenet")
    output = f"{tempfile.mkdtemp()}/hub" if args.smoke else args.output
    print(kev.export_hub(model, output))

    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype="uint8")
    image = kev.prepare_image(model, noise if args.smoke else args.photo)[None]

    live = model.predict(image, verbose=0)  # probabilities; pixels 0..255
    plain = tf.saved_model.load(output)  # logits; 0..1, needs nothing but TensorFlow
    layer = kev.HubLayer(output, trainable=False)  # the same in a Keras 3 model
    for door, scores in {
        "live model": live,
        "tf.saved_model.load": tf.nn.softmax(plain(image / 255, training=False)).numpy(),
        "HubLayer": tf.nn.softmax(layer(image / 255)).numpy(),
    }.items():
        print(f"{door:<20} best: {scores[0].argsort()[::-1][:5]}")
        np.testing.assert_allclose(scores, live, atol=1e-4)


if __name__ == "__main__":
    args = parser.parse_args()
    if not args.photo and not args.smoke:
        parser.error("give a photo, or --smoke")
    main(args)
