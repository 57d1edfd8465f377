"""Send a finished run to Hugging Face or Kaggle."""

import dataclasses

from keras_effv2.cli import flags

USAGE = "--workdir=... --to=hf:OWNER/NAME|kaggle:OWNER/MODEL/keras/VARIATION [FLAGS]"


def define(values):
    flags.output_format(values)
    flags.folder(values, "workdir", "Folder of the finished run.")
    flags.string(values, "to", None, "hf:OWNER/NAME or kaggle:OWNER/MODEL/keras/VARIATION.")
    meaning = "The hub's identifier of the licence that you give."
    flags.string(values, "licence", "apache-2.0", meaning)
    flags.boolean(values, "private", False, "Make a new repository of Hugging Face private.")
    flags.boolean(values, "dry_run", False, "Make and show everything, send nothing.")


def run(values, _):
    flags.require(values, "workdir", "to")

    from keras_effv2.weights.handles import destination

    destination(values.to)

    from keras_effv2 import exporting

    published = exporting.publish(
        values.workdir,
        values.to,
        licence=values.licence,
        private=values.private,
        dry_run=values.dry_run,
    )
    told = "Would send" if values.dry_run else "Sent, fetched again and compared"
    lines = [f"{told}:"] + [f"{size:>12,} bytes  {name}" for name, size in published.files]
    if values.dry_run:
        lines += ["", "README.md:", "", published.page]
    else:
        lines += [f"Licence {values.licence}. See {published.address}"]
    flags.show(values, dataclasses.asdict(published), "\n".join(lines))
