"""Progressive learning in plain Keras: your own compile and fit, and one callback.

    python examples/fit_progressively.py --data folder:photos --weights imagenet

With weights: the head first, on the frozen backbone; then everything but the statistics of batch
normalisation, which a few thousand pictures estimate worse than ImageNet did.
"""

import argparse

import keras

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", default="digits", help="digits, folder:PATH or tfds:NAME")
parser.add_argument("--weights", help="tag or path; without, training starts from random weights")
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--smoke", action="store_true", help="64 pictures, two epochs")


def fit(model, pictures, phases, rate, **augment):
    """Sizes and regularisation grow together; the compiled step is traced once for all of them."""
    model.compile(keras.optimizers.AdamW(rate), "categorical_crossentropy", metrics=["accuracy"])
    learning = kev.ProgressiveLearning(phases)
    batches = learning.dataset(pictures, 32, augment=kev.augment.Augment(**augment))
    model.fit(batches, epochs=learning.epochs, callbacks=[learning], shuffle=False, verbose=2)


def main(args):
    data = kev.data.load(args.data)
    epochs, pictures = args.epochs, data.train
    if args.smoke:
        epochs, pictures = 2, data.train.select(range(64))
    model = kev.EfficientNetV2B0(weights=args.weights, classes=len(data.class_names))
    first, last = (96, 160) if args.weights else (32, 56)
    augment = {"flip": args.data != "digits", "crop_area": (0.5, 1.0)}
    if args.weights:
        kev.freeze(model, "backbone")
        fit(model, pictures, kev.ramp(2, 1, image_size=last), 1e-3, **augment)
        kev.freeze(model, "batch_norm")
    phases = kev.ramp(epochs, min(4, epochs), image_size=(first, last), dropout=(0.0, 0.2))
    fit(model, pictures, phases, 2e-4 if args.weights else 1e-3, **augment)
    if not args.smoke:
        print(f"test: {kev.evaluate(model, data, image_size=last).top1:.1%}")


if __name__ == "__main__":
    main(parser.parse_args())
