"""Examine this machine."""

import dataclasses

from keras_effv2.cli import flags

USAGE = "[FLAGS]"


def define(values):
    flags.output_format(values)
    flags.boolean(values, "online", False, "Also try whether weights and TF Hub can be reached.")


def run(values, _):
    from keras_effv2 import doctor

    checks = doctor.examine(values.online)
    lines = [
        f"{'ok ' if c.ok else 'BAD'} {c.name}: {c.found}" + (f" -> {c.advice}" if c.advice else "")
        for c in checks
    ]
    flags.show(values, [dataclasses.asdict(c) for c in checks], "\n".join(lines))
    return flags.DONE if all(c.ok for c in checks) else flags.FAILED
