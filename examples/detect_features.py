"""Segments with the feature pyramid: reduction_2 to reduction_5 joined top down, one head.

    python examples/detect_features.py --steps 200 --output squares.png

The task is made up, bright squares on noise, so that it runs anywhere; put your masks in `batch`.
"""

import argparse

import keras
import matplotlib.image
import numpy as np

import keras_effv2 as kev

LEVELS = ["reduction_5", "reduction_4", "reduction_3", "reduction_2"]

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--weights", default="imagenet", help="tag or path")
parser.add_argument("--image_size", type=int, default=96)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--output", default="squares.png")
parser.add_argument("--smoke", action="store_true", help="two steps from random weights")


def batch(rng, count, size):
    """Noisy pictures with a square, and where the square is, at a quarter of the size."""
    images = rng.uniform(0, 160, (count, size, size, 3)).astype("float32")
    masks = np.zeros((count, size // 4, size // 4, 1), "float32")
    for image, mask in zip(images, masks, strict=True):
        y, x = rng.integers(0, size // 8, 2)
        side = rng.integers(size // 16, size // 8)
        mask[y : y + side, x : x + side] = 1
        image[4 * y : 4 * (y + side), 4 * x : 4 * (x + side)] += 90
    return images, masks


def build(weights, size):
    pyramid = kev.EfficientNetV2B0(
        weights=weights, include_top=False, features=LEVELS, input_shape=(size, size, 3)
    )
    if weights:  # small batches would spoil the statistics of ImageNet
        kev.freeze(pyramid, "batch_norm")
    x = None
    for level in LEVELS:  # coarse to fine: stride 32, 16, 8, 4
        lateral = keras.layers.Conv2D(64, 1)(pyramid.output[level])
        x = (
            lateral
            if x is None
            else keras.layers.UpSampling2D(interpolation="bilinear")(x) + lateral
        )
    x = keras.layers.Conv2D(64, 3, padding="same", activation="silu")(x)
    return keras.Model(pyramid.input, keras.layers.Conv2D(1, 1, activation="sigmoid")(x))


def main(args):
    rng = np.random.default_rng(0)
    model = build(None if args.smoke else args.weights, args.image_size)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    for step in range(2 if args.smoke else args.steps):
        loss = model.train_on_batch(*batch(rng, 4 if args.smoke else 16, args.image_size))
        if step % 10 == 0:
            print(f"step {step}: loss {float(loss):.3f}")
    images, masks = batch(rng, 4, args.image_size)
    found = model.predict(images, verbose=0)
    rows = [np.concatenate(list(part[..., 0]), axis=1) for part in (masks, found)]
    matplotlib.image.imsave(args.output, np.concatenate(rows), cmap="gray")
    print(f"{args.output}: masks above, what the network found below")


if __name__ == "__main__":
    main(parser.parse_args())
