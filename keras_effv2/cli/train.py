"""Train from scratch by a recipe; resumes."""

from keras_effv2 import variants
from keras_effv2.cli import flags, settings
from keras_effv2.phases import Phase

USAGE = "--data=... --workdir=... [FLAGS]"


def define(values):
    flags.model_and_weights(values)
    flags.run(values)
    flags.string(values, "recipe", "imagenet1k", "Recipe; its fields: --recipe.FIELD=VALUE.")
    settings.define(values)
    flags.boolean(
        values, "rollback", False, "After a loss that is not finite, go back a checkpoint."
    )
    flags.boolean(values, "jit_compile", False, "Compile the step with XLA (one device).")
    flags.boolean(
        values,
        "remat",
        False,
        "Recompute activations in the backward pass: less memory, more time.",
    )
    flags.path(values, "preview", "Only write a PNG of augmented pictures per phase.", written=True)


more_help = settings.describe


def run(values, _):
    flags.require(values, *(() if values.preview else ("workdir",)))
    recipe = settings.chosen(values)
    flags.require(values, "data")
    if values.preview:
        flags.check_file(values, "preview")
        flags.check_data(values)
        return _preview(values, recipe)
    flags.check_model(values, fresh=True)
    flags.check_data(values)

    from keras_effv2 import training
    from keras_effv2.evaluation import evaluate

    # workers have to meet before anything else uses TensorFlow
    strategy = training.make_strategy(values.strategy, values.tpu)
    data = flags.load_data(values)

    def build():
        random = {} if values.weights else {"weights": None}
        head = {"classes": len(data.class_names), "classifier_activation": recipe.loss}
        return flags.load_model(values, **head, **random)

    result = training.train(
        build,
        data,
        recipe,
        values.workdir,
        strategy,
        jit_compile=values.jit_compile,
        remat=values.remat,
        rollback=values.rollback,
    )
    if training.is_chief(strategy):
        finish(values, result, evaluate(result.model, data, values.workdir), data)


def _preview(values, recipe):
    from keras_effv2 import augment, recipes, training

    data = flags.load_data(values)
    training.check_trainable(data)
    size = variants.find(values.model).image_size
    phases = recipe.phases or (Phase(0, recipe.epochs, image_size=size),)
    chosen = recipes.augment_of(recipe, phases[0])
    augment.preview(data.train, phases, values.preview, augment=chosen)
    flags.show(values, {"preview": values.preview}, f"wrote {values.preview}")


def finish(values, result, evaluation, data):
    """Prints what a training has come to."""
    from keras_effv2.training.records import phases_table

    summary = {"steps": result.steps, "workdir": values.workdir, **evaluation.summary()}
    summary["skipped_pictures"] = list(data.train.skipped)
    lines = [*phases_table(result.history)]
    if data.train.skipped:
        lines.append(f"left out, damaged or unreadable: {', '.join(data.train.skipped)}")
    lines += [
        f"{result.steps} steps; {evaluation}",
        f"model: {values.workdir}/model.keras, report: {values.workdir}/report.html",
    ]
    flags.show(values, summary, "\n".join(lines))
