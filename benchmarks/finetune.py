"""`kev.finetune` against the usual Keras tutorial, on the same pictures, weights and machine.

    python benchmarks/finetune.py --data folder:flowers --weights b0.weights.h5 --image_size 160

The tutorial: keras.applications' network, frozen, a new head trained with Adam at 1e-3; then
everything unfrozen, with Adam at 1e-5. Data loading is ours in both arms. The arm `careful` is the
tutorial with batch normalisation left frozen in its second part; `random` is ours from random
weights: what the pretrained ones are worth.
"""

import argparse
import functools
import json
import tempfile
import time

import keras

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="folder:PATH, tfds:NAME or digits")
parser.add_argument("--weights", default="imagenet", help="tag or path, for both arms")
parser.add_argument("--image_size", type=int, default=160)
parser.add_argument("--epochs", type=int, help="of ours; default: planned")
parser.add_argument("--tutorial_epochs", type=int, default=4, help="of each of its two parts")
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument(
    "--arms", default="ours,tutorial", help="out of: ours, tutorial, careful, random"
)


def ours(args, data, seed, weights):
    with tempfile.TemporaryDirectory() as workdir:
        _, judged = kev.finetune(
            "EfficientNetV2B0",
            data,
            workdir,
            weights=weights,
            epochs=args.epochs,
            image_size=args.image_size,
            seed=seed,
            hub=False,
        )
    return judged.top1


def tutorial(args, data, seed, careful=False):
    keras.utils.set_random_seed(seed)
    size, classes = args.image_size, len(data.class_names)
    body = keras.applications.EfficientNetV2B0(
        include_top=False, pooling="avg", input_shape=(size, size, 3), weights=None
    )
    source = kev.EfficientNetV2B0(include_top=False, pooling="avg", weights=args.weights)
    body.set_weights([w for x in source.layers for w in x.get_weights()])
    x = keras.layers.Dropout(0.2)(body.output)
    model = keras.Model(body.input, keras.layers.Dense(classes, activation="softmax")(x))
    for trainable, rate in ((False, 1e-3), (True, 1e-5)):
        body.trainable = trainable
        if careful:
            for layer in body.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
        model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy")
        for epoch in range(args.tutorial_epochs):
            batches = data.train.train_batches(
                image_size=size,
                batch_size=32,
                seed=seed,
                epoch=epoch,
                augment=kev.augment.Augment(crop_area=(0.6, 1.0)),
            )
            model.fit(batches, verbose=0, shuffle=False)
        print(
            f"  tutorial, {'all' if trainable else 'head'}: {judge(model, data, size):.3f}",
            flush=True,
        )
    return judge(model, data, size)


def judge(model, data, size):
    hits = count = 0
    for images, labels, mask in data.test.eval_batches(image_size=size, batch_size=32):
        right = model.predict_on_batch(images).argmax(1) == labels.numpy().argmax(1)
        hits, count = hits + (right * mask.numpy()).sum(), count + mask.numpy().sum()
    return float(hits / count)


def main(args):
    data = kev.data.load(args.data)
    arms = {
        "ours": functools.partial(ours, weights=args.weights),
        "random": functools.partial(ours, weights=None),
        "tutorial": tutorial,
        "careful": functools.partial(tutorial, careful=True),
    }
    for seed in map(int, args.seeds.split(",")):
        for arm in args.arms.split(","):
            start, processor = time.perf_counter(), time.process_time()
            top1 = arms[arm](args, data, seed)
            row = {"seed": seed, "arm": arm, "seconds": round(time.perf_counter() - start, 1)}
            row["processor_seconds"] = round(time.process_time() - processor, 1)
            print(json.dumps({**row, "top1": round(top1, 4)}), flush=True)


if __name__ == "__main__":
    main(parser.parse_args())
