"""Names what is on a photo.

python examples/predict.py photo.jpg
python examples/predict.py photo.jpg --model CoAtNet0 --weights my.weights.h5
"""

import argparse

import numpy as np

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("photo", nargs="?")
parser.add_argument("--model", default="EfficientNetV2B0", choices=kev.list_models())
parser.add_argument("--weights", default="imagenet", help="tag or path")
parser.add_argument("--smoke", action="store_true", help="noise and random weights")


def main(args):
    model = getattr(kev, args.model)(weights=None if args.smoke else args.weights)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype="uint8")
    # cut and scaled as the weights were trained; the model takes 0..255 and normalises itself
    image = kev.prepare_image(model, noise if args.smoke else args.photo)
    scores = model.predict(image[None], verbose=0)
    for _, name, score in kev.imagenet.decode_predictions(scores)[0]:
        print(f"{score:6.1%}  {name}")


if __name__ == "__main__":
    args = parser.parse_args()
    if not args.photo and not args.smoke:
        parser.error("give a photo, or --smoke")
    main(args)
