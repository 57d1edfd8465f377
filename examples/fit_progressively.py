"""Progressive learning in plain Keras: your own compile and fit, and one callback.

python examples/fit_progressively.py --epochs 12
"""

import argparse

import keras

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", default="digits", help="digits, folder:PATH or tfds:NAME")
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--smoke", action="store_true", help="64 pictures, two epochs")


def main(args):
    data = kev.data.load(args.data)
    epochs, pictures = (
        (2, data.train.select(range(64))) if args.smoke else (args.epochs, data.train)
    )
    model = kev.EfficientNetV2B0(
        weights=None, classes=len(data.class_names), input_shape=(None, None, 3)
    )
    model.compile(keras.optimizers.AdamW(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    # sizes and regularisation grow together, and the compiled step is never traced again
    learning = kev.ProgressiveLearning(
        kev.ramp(
            epochs, min(4, epochs), image_size=(32, 56), dropout=(0.0, 0.2), drop_path=(0.0, 0.1)
        )
    )
    batches = learning.dataset(pictures, batch_size=32)
    model.fit(batches, epochs=learning.epochs, callbacks=[learning], shuffle=False, verbose=2)
    if not args.smoke:
        print(f"validation: {kev.evaluate(model, data, image_size=56).top1:.1%}")


if __name__ == "__main__":
    main(parser.parse_args())
