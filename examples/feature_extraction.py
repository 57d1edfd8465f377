"""Finds the pictures most like a picture: pooled features and nearest neighbours.

python examples/feature_extraction.py photos --query photos/roses/1.jpg --output alike.png
"""

import argparse

import keras
import matplotlib.image
import numpy as np
from sklearn.neighbors import NearestNeighbors

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", nargs="?", help="with one sub-folder a class")
parser.add_argument("--query", help="a picture; default: one of the folder")
parser.add_argument("--weights", default="imagenet", help="tag or path")
parser.add_argument("--image_size", type=int, default=160)
parser.add_argument("--output", default="alike.png")
parser.add_argument("--smoke", action="store_true", help="digits and random weights")


def main(args):
    data = kev.data.load("digits" if args.smoke else f"folder:{args.folder}", validation=0)
    order = np.random.default_rng(0).permutation(len(data.train))
    pictures = data.train.select(order[: 32 if args.smoke else 5000])
    size = 32 if args.smoke else args.image_size
    weights = None if args.smoke else args.weights
    model = kev.EfficientNetV2B0(
        weights=weights, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )
    features, images = [], []
    for batch, _, mask in pictures.eval_batches(image_size=size, batch_size=32):
        keep = mask.numpy() > 0
        features.append(model.predict_on_batch(batch)[keep])
        images.append(batch.numpy()[keep])
    features, images = np.concatenate(features), np.concatenate(images)
    query = images[0]
    if args.query:
        query = kev.prepare_image(model, args.query, size)
    index = NearestNeighbors(n_neighbors=min(6, len(features)), metric="cosine").fit(features)
    distances, nearest = index.kneighbors(model.predict_on_batch(query[None]))
    row = np.concatenate([query, *images[nearest[0]]], axis=1)
    matplotlib.image.imsave(args.output, row.clip(0, 255).astype("uint8"))
    names = [data.class_names[pictures.labels[i]] for i in nearest[0]]
    print(*(f"{name} {1 - d:.3f}" for name, d in zip(names, distances[0], strict=True)), sep="\n")
    print(f"{args.output}: the query, then its neighbours (Keras {keras.__version__})")


if __name__ == "__main__":
    args = parser.parse_args()
    if not args.folder and not args.smoke:
        parser.error("give a folder, or --smoke")
    main(args)
