"""Turn any released checkpoint into .weights.h5."""

import json

from keras_effv2.cli import flags

USAGE = "--model=... --weights=... --output=..."


def define(values):
    flags.model_and_weights(values)
    flags.path(values, "output", "File *.weights.h5 to write.", written=True)
    flags.string(values, "tag", "converted", "Tag of the table's row.")
    flags.string(values, "licence", "Apache-2.0", "Licence of the weights.")
    flags.number(values, "top1", "Published accuracy in per cent.", 0, 100)


def run(values, _):
    source = values.weights or values.model_file
    if not source or not values.output:
        raise flags.UsageError("--weights (or --model_file) and --output are needed")
    if not values.output.endswith(".weights.h5"):
        raise flags.UsageError(f"--output is a file *.weights.h5; received {values.output}")
    flags.check_model(values)

    from keras_effv2 import weights

    row = weights.convert(
        flags.load_model(values),
        values.output,
        tag=values.tag,
        source=source,
        licence=values.licence,
        top1=values.top1,
    )
    flags.write(json.dumps(row, indent=2))
