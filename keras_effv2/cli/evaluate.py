"""Evaluate a model, write a report."""

import dataclasses

from absl import logging

from keras_effv2.cli import flags

USAGE = "--model_file=... --data=... [FLAGS]"


def define(values):
    flags.model_and_weights(values)
    flags.output_format(values)
    flags.data(values)
    flags.choice(
        values,
        "split",
        None,
        ["train", "validation", "test"],
        "Default: test, else validation, else all; of a folder without splits all, but of the one "
        "that the model was trained on what was held out.",
    )
    flags.path(values, "report_dir", "Folder for report.html.", local=True)
    flags.batch_size(values, 32, "Pictures at a time.")
    flags.image_size(values)


def run(values, _):
    flags.check_model(values)
    flags.require(values, "data")

    from keras_effv2.evaluation import evaluate

    result = evaluate(
        flags.load_model(values),
        _data(values),
        values.report_dir,
        split=values.split,
        batch_size=values.batch_size,
        image_size=values.image_size,
    )
    parts = [
        f"{name} {part:.2%} ({low:.1%} to {high:.1%})"
        for name, part, (low, high) in (
            ("top 1", result.top1, result.top1_interval),
            ("top 5", result.top5, result.top5_interval),
        )
    ]
    text = f"{result.split}: {', '.join(parts)} of {result.images} pictures"
    flags.show(values, result.summary(), text)


def _data(values):
    """The data, whole where it has no splits, but without what the model was trained on."""
    from keras_effv2.data import resolved
    from keras_effv2.data.split import of_names
    from keras_effv2.training.records import learnt_from

    if values.split:
        return flags.load_data(values)  # split as for training
    trained_on = set(map(resolved, learnt_from(values.model_file or values.weights or "")))
    if trained_on:
        try:
            parts = flags.load_data(values)
        except ValueError:  # too few to be split, so nothing was trained on them
            parts = None
        if parts and parts.train:
            content = parts.train.fingerprint()
            if {resolved(parts.name), content, of_names(content)} & trained_on:
                return parts
    whole = flags.load_data(values, validation=0)
    if whole.validation or whole.test:
        return whole
    logging.info("All of %s is evaluated; --split=test takes a part as for training.", whole.name)
    return dataclasses.replace(whole, test=whole.train)
