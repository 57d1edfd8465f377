"""Measure us beside keras.applications or timm."""

import dataclasses
import importlib.util
import pathlib
import sys

from keras_effv2.cli import flags
from keras_effv2.phases import ramp

USAGE = "[FLAGS]"
MEASURES = (
    *("train", "infer", "pipeline", "export"),
    *("help", "import", "build", "first_step", "memory"),  # of fresh processes
)


def define(values):
    flags.model(values)
    flags.output_format(values)
    flags.names(values, "measure", "train,infer", f"Out of: {', '.join(MEASURES)}.")
    flags.choice(values, "peer", "keras", ["keras", "timm", "kecam"], "What to compare with.")
    flags.image_size(values, 224, "Side in pixels.")
    flags.batch_size(values, 32, "Images a step.")
    flags.integer(values, "rounds", 7, "Timings of each side.", 1, 10_000)
    flags.precision(values, "Dtype policy; auto: the one that trains faster here.")
    flags.boolean(values, "profile", False, "Show where a train step's time goes.")


def run(values, _):
    if not values.measure:
        raise flags.UsageError(f"--measure names nothing; give some of {', '.join(MEASURES)}")
    unknown = [name for name in values.measure if name not in MEASURES]
    if unknown:
        raise ValueError(f"Unknown measure {unknown[0]!r}. Measures: {', '.join(MEASURES)}.")
    settings = (values.image_size, values.batch_size)
    beyond = values.peer != "keras" or values.profile or set(values.measure) - set(MEASURES[:4])
    peers = _peers() if beyond else None
    if peers:
        peers.load(values.peer)

    import keras

    from keras_effv2 import benchmark

    keras.config.set_dtype_policy(_precision(values))
    if values.profile:
        rows = peers.profile(values.model, *settings)
        text = "\n".join(f"{kind:<40} {ms:9.1f} ms {count:>6}" for kind, ms, count in rows[:25])
        flags.show(values, rows, text)
        return
    peer = values.peer if peers else benchmark.KERAS
    measure = (peers or benchmark).run
    rows = measure(values.model, values.measure, peer, *settings, values.rounds)
    flags.show(values, [dataclasses.asdict(row) for row in rows], benchmark.table(rows))


def _precision(values):
    if values.precision != "auto":
        return values.precision

    from keras_effv2 import models, recipes
    from keras_effv2.training.precision import fastest

    phase = ramp(1, 1, image_size=(values.image_size,) * 2, batch_size=(values.batch_size,) * 2)
    recipe = recipes.Recipe("benchmark", "", 1, values.batch_size, 0.1, phases=phase)
    chosen, why = fastest(lambda: models.builder(values.model)(weights=None), recipe)
    print(why, file=sys.stderr)
    return chosen


def _peers():
    """`benchmarks/peers.py` of the checkout that the package lies in; a wheel has none."""
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "peers.py"
    if not path.exists():
        raise ValueError(
            "Other libraries, fresh processes and profiles are measured from a checkout of the "
            "project, by its benchmarks/peers.py. Leave out --peer, --profile and the measures "
            f"{', '.join(MEASURES[4:])}, or install a checkout: pip install -e ."
        )
    spec = importlib.util.spec_from_file_location("peers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
