"""Progressive learning against one size, from random weights: time and accuracy, seeds alternating.

    python benchmarks/progressive.py --data folder:flowers --sizes 64,112

Both arms make the same epochs and steps and are judged at the largest size on the same test split.
The fixed arm has the largest size and the strongest regularisation from the first epoch on.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="folder:PATH, tfds:NAME or digits")
parser.add_argument("--model", default="EfficientNetV2B0", choices=kev.list_models())
parser.add_argument("--sizes", default="64,112", help="first and last size in pixels")
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--seeds", default="0,1,2")


def recipes(args, seed):
    first, last = map(int, args.sizes.split(","))
    base = kev.recipes.get("digits", model=args.model)
    base = dataclasses.replace(
        base, epochs=args.epochs, seed=seed, phases=(), flip=True, crop_area=(0.25, 1.0)
    )

    def arm(phases, low):
        ramp = kev.ramp(
            args.epochs,
            phases,
            image_size=(low, last),
            dropout=(0.0 if phases > 1 else 0.2, 0.2),
            drop_path=(0.0 if phases > 1 else 0.1, 0.1),
            randaugment=(2.0 if phases > 1 else 8.0, 8.0),
        )
        return dataclasses.replace(base, phases=ramp)

    return {"fixed": arm(1, last), "progressive": arm(4, first)}


def main(args):
    data = kev.data.load(args.data)
    rows = []
    for seed in map(int, args.seeds.split(",")):
        for name, recipe in recipes(args, seed).items():
            processor = time.process_time()
            with tempfile.TemporaryDirectory() as workdir:
                result = kev.train(
                    lambda: getattr(kev, args.model)(weights=None, classes=len(data.class_names)),
                    data,
                    recipe,
                    workdir,
                    progress=False,
                )
            processor = time.process_time() - processor
            judged = kev.evaluate(result.model, data)
            seconds = sum(row["seconds"] for row in result.history)
            row = {"seed": seed, "arm": name, "seconds": round(seconds, 1), "top1": judged.top1}
            row["processor_seconds"] = round(processor, 1)
            row["sizes"] = sorted({h["image_size"] for h in result.history})
            rows.append(row)
            print(json.dumps(row), flush=True)
    medians = {
        arm: [
            statistics.median(r[key] for r in rows if r["arm"] == arm)
            for key in ("seconds", "top1")
        ]
        for arm in ("fixed", "progressive")
    }
    print(f"time ratio {medians['progressive'][0] / medians['fixed'][0]:.2f}, medians {medians}")


if __name__ == "__main__":
    main(parser.parse_args())
