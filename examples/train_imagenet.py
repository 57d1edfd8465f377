"""Trains on ImageNet by the paper's recipe, on as many GPUs as there are, or on a TPU.

    python examples/train_imagenet.py --model EfficientNetV2S --workdir runs/s
    python examples/train_imagenet.py --model CoAtNet0 --strategy tpu --workdir runs/c0

TFDS wants ImageNet's archives in its manual folder (https://www.tensorflow.org/datasets/catalog/imagenet2012).
The recipe's learning rate is for its batch; a smaller --batch_size scales it down in proportion.
"""

import argparse
import dataclasses

import keras_effv2 as kev
from keras_effv2.training import STRATEGIES, make_strategy

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", default="tfds:imagenet2012", help="or folder:PATH")
parser.add_argument("--model", default="EfficientNetV2S", choices=kev.list_models())
parser.add_argument("--recipe", default="imagenet1k", choices=sorted(kev.recipes.RECIPES))
parser.add_argument("--batch_size", type=int)
parser.add_argument("--workdir", default="runs/imagenet")
parser.add_argument("--strategy", default="auto", choices=STRATEGIES)
parser.add_argument("--tpu", default="local")
parser.add_argument("--smoke", action="store_true", help="two steps on digits")


def main(args):
    recipe = kev.recipes.get(args.recipe, model=args.model)
    if args.batch_size:
        rate = recipe.learning_rate * args.batch_size / recipe.batch_size
        recipe = dataclasses.replace(recipe, batch_size=args.batch_size, learning_rate=rate)
    if args.smoke:
        args.model, args.data = "EfficientNetV2B0", "digits"
        args.workdir += "-smoke"
        first = recipe.phases[0] if recipe.phases else kev.Phase(0, 1)
        phases = (dataclasses.replace(first, image_size=32, stop_epoch=1),)
        recipe = dataclasses.replace(recipe, epochs=1, batch_size=16, phases=phases)
    strategy = make_strategy(args.strategy, args.tpu)  # before anything else uses TensorFlow
    data = kev.data.load(args.data)
    if args.smoke:
        data = dataclasses.replace(data, train=data.train.select(range(32)), validation=None)
    result = kev.train(
        lambda: getattr(kev, args.model)(weights=None, classes=len(data.class_names)),
        data,
        recipe,
        args.workdir,
        strategy,
    )
    print(f"{result.steps} steps; see {args.workdir}")


if __name__ == "__main__":
    main(parser.parse_args())
