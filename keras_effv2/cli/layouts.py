"""Compare CoAtNet's layouts at one size: which generalises, on how much data; resumes."""

from keras_effv2 import variants
from keras_effv2.cli import flags, settings
from keras_effv2.variants.layouts import LAYOUTS

USAGE = "--data=... --workdir=... [FLAGS]"


def define(values):
    flags.output_format(values)
    flags.data(values)
    flags.path(values, "workdir", "Folder of the study; one found there is resumed.", local=True)
    flags.string(
        values, "base", "CoAtNet0", "A CoAtNet, by name or NAME.json, whose size all have."
    )
    flags.image_size(values, 64, "Side in pixels, a multiple of 32.", low=64)
    flags.string(values, "recipe", "search", "Recipe; its fields: --recipe.FIELD=VALUE.")
    flags.strings(values, settings.DOTTED["recipe"], "What --recipe.NAME=VALUE stands for.")
    flags.names(values, "fractions", "0.1,0.3,1", "Parts of the training pictures.")
    flags.integer(values, "seeds", 3, "Trainings of each.", 1)
    flags.integer(values, "workers", 1, "Networks to train at a time on this machine.", 1, 64)
    flags.names(values, "names", ",".join(LAYOUTS), "Layouts to compare.")


def run(values, _):
    flags.require(values, "workdir", "data")
    try:
        fractions = tuple(map(float, values.fractions))
    except ValueError:
        raise flags.UsageError(
            f"--fractions are numbers in (0, 1]; received {','.join(values.fractions)}"
        ) from None
    try:
        for name in values.names:
            variants.layout(name, values.base)
    except ValueError as error:
        raise flags.UsageError(str(error)) from None
    recipe = None  # 20 epochs
    if values["recipe"].present or values.recipe_field:
        recipe = settings.recipe(values.recipe, values.recipe_field, "CoAtNet0")
    flags.check_data(values)

    from keras_effv2 import searching
    from keras_effv2.searching import layouts_report

    study = searching.layouts(
        flags.load_data(values),
        values.workdir,
        base=values.base,
        image_size=values.image_size,
        recipe=recipe,
        fractions=fractions,
        seeds=values.seeds,
        workers=values.workers,
        names=tuple(values.names),
    )
    differences = {f"{a} over {b}": value for (a, b), value in study.generalisation.items()}
    lines = ["capacity (training accuracy at the end):"]
    lines += [f"  {name:<8} {value:>7.1%}" for name, value in study.capacity.items()]
    lines.append("generalisation (validation accuracy at equal training loss):")
    lines += [f"  {two:<20} {100 * value:+.1f} points" for two, value in differences.items()]
    lines += [] if differences else [f"  {layouts_report.NOTHING}"]
    lines.append(f"report: {values.workdir}/layouts.html")
    result = {"generalisation": differences, "capacity": study.capacity}
    flags.show(values, result, "\n".join(lines))
