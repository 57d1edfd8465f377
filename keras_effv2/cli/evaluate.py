"""Evaluate a model, write a report."""

from keras_effv2.cli import flags

USAGE = "--model_file=... --data=... [FLAGS]"


def define(values):
    flags.model_and_weights(values)
    flags.class_names(values)
    values["model_file"].help = flags.ANY_FILE
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
    flags.folder(values, "report_dir", "Folder for report.html.")
    flags.batch_size(values, 32, "Pictures at a time.")
    flags.image_size(values)


def run(values, _):
    flags.check_model(values)
    flags.require(values, "data")
    flags.check_data(values)

    from keras_effv2.evaluation import evaluate

    # logits, which are read as the head was trained
    model = flags.load_model(values, exports=True, classifier_activation=None)
    result = evaluate(
        model,
        _data(values),
        values.report_dir,
        split=values.split,
        batch_size=values.batch_size,
        image_size=values.image_size,
    )
    flags.show(values, result.summary(), str(result))


def _data(values):
    """The split that was asked for, or what the model was not trained on."""
    from keras_effv2.training import unseen

    if values.split:
        return flags.load_data(values)  # split as for training
    return unseen(values.data, values.model_file or values.weights, strict=values.strict)
