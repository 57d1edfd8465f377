"""Scale a network as the papers scaled theirs.

Steps 0 to 8; from EfficientNetV2B0, 1 to 3 are B1 to B3, 4 nearly S, 5 nearly M, 7 L.
"""

from keras_effv2 import variants
from keras_effv2.cli import flags

USAGE = "--model=NAME|FILE.json --step=0..8 [--output=FILE.json] [--explain]"


def define(values):
    flags.model(values)
    flags.output_format(values)
    flags.integer(values, "step", None, "How far to scale, 0 to 8.", 0, 8)
    flags.integer(values, "from_step", 0, "The step that the model has already.", 0, 8)
    flags.path(values, "output", "File NAME.json to write the scaled rows to.", written=True)
    flags.boolean(
        values, "explain", False, "Tell how it came to them, and what published rows have beside."
    )


def run(values, _):
    if values.step is None:
        raise flags.UsageError("--step is missing: 0 to 8")
    try:
        scaled = variants.scale(values.model, values.step, values.from_step)
    except ValueError as error:
        raise flags.UsageError(str(error)) from None
    if values.output:
        variants.save_variant(scaled, values.output)
    info = variants.model_info(scaled)
    lines = [
        f"{scaled.name}: {info['parameters']:,} parameters, {info['macs'] / 1e9:.2f} GMACs at "
        f"{scaled.image_size} px" + (f"; wrote {values.output}" if values.output else "")
    ]
    if values.explain:
        lines.append(variants.scaling.explain(values.model, values.step, values.from_step))
    flags.show(values, info, "\n".join(lines))
