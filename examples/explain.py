"""Shows what a network looks at: Grad-CAM, and for CoAtNet the attention of its last layer.

python examples/explain.py photo.jpg --output why.png
"""

import argparse

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_effv2 as kev
from keras_effv2.evaluation import attention_maps, gradcam

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("photo", nargs="?")
parser.add_argument("--model", default="EfficientNetV2B0", choices=kev.list_models())
parser.add_argument("--weights", default="imagenet", help="tag or path")
parser.add_argument("--model_file", help="a saved .keras model instead")
parser.add_argument("--output", default="why.png")
parser.add_argument("--smoke", action="store_true", help="noise and random weights")


def main(args):
    if args.model_file:
        model = keras.models.load_model(args.model_file)
    else:
        model = getattr(kev, args.model)(weights=None if args.smoke else args.weights)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype="uint8")
    image = kev.prepare_image(model, noise if args.smoke else args.photo)
    scores = model.predict(image[None], verbose=0)[0]
    names = kev.class_names(model)
    best = names[scores.argmax()]
    heats = {f"Grad-CAM: {best}": gradcam(model, image[None])[0]}
    if any(type(layer).__name__ == "RelativeAttention" for layer in model.layers):
        attention = attention_maps(model, image[None])[0].mean((0, 1))  # over heads and queries
        side = int(np.sqrt(attention.size))
        heats["attention, last layer"] = attention.reshape(side, side)
    figure, axes = plt.subplots(1, 1 + len(heats), figsize=(4 * (1 + len(heats)), 4))
    for axis, (title, heat) in zip(axes, {"photo": None, **heats}.items(), strict=True):
        axis.imshow(image / 255)
        if heat is not None:
            height, width = image.shape[:2]
            axis.imshow(heat, cmap="jet", alpha=0.5, extent=(0, width, height, 0))
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(args.output, dpi=100, bbox_inches="tight")
    print(f"{args.output}: {best}, {scores.max():.1%}")


if __name__ == "__main__":
    args = parser.parse_args()
    if not args.photo and not args.smoke:
        parser.error("give a photo, or --smoke")
    main(args)
