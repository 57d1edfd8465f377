"""List models, their sizes, weights and pixels.

A pattern such as '*V2*' lists those that it fits.
"""

from keras_effv2 import variants
from keras_effv2.cli import flags

USAGE = "['PATTERN'] [--format=json]"
POSITIONAL = True


def define(values):
    flags.choice(values, "format", "text", ["text", "markdown", "json"], "How the list is printed.")


def run(values, positional):
    patterns = positional or ["*"]
    names = [name for pattern in patterns for name in variants.list_models(pattern)]
    if not names:
        known = variants.list_models()
        found = f"no model is called {patterns[0]!r}{flags.hint(patterns[0], known)}"
        raise flags.UsageError(f"{found}; models: {', '.join(known)}")
    rows = [_row(name) for name in dict.fromkeys(names)]
    flags.show(values, rows, (_markdown if values.format == "markdown" else _text)(rows))


def _row(name):
    from keras_effv2.weights import list_weights

    info = variants.model_info(name)
    facts = {key: info[key] for key in ("name", "parameters", "image_size", "macs")}
    return {**facts, "weights": {row.tag: row.pixels for row in list_weights(name)}}


def _text(rows):
    lines = [
        f"{'model':<17} {'parameters':>13} {'pixels':>6} {'GMACs':>7}  weights (pixel contract)"
    ]
    for row in rows:
        tags = ", ".join(f"{t} ({p})" for t, p in row["weights"].items()) or "none released"
        lines.append(
            f"{row['name']:<17} {row['parameters']:>13,} {row['image_size']:>6} "
            f"{row['macs'] / 1e9:>7.2f}  {tags}"
        )
    return "\n".join(lines)


def _markdown(rows):
    lines = [
        "| model | parameters | image size | GMACs | weights |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        tags = ", ".join(f"`{tag}`" for tag in row["weights"]) or "none released"
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['image_size']} "
            f"| {row['macs'] / 1e9:.2f} | {tags} |"
        )
    return "\n".join(lines)
