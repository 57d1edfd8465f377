"""The report of an evaluation: `report.html`, a page that stands alone, and `evaluation.json`."""

import html
import importlib.resources
import itertools
import json
import string

import numpy as np

from keras_effv2 import files
from keras_effv2.evaluation import figures
from keras_effv2.evaluation.doubts import table
from keras_effv2.evaluation.figures import png, source
from keras_effv2.evaluation.several import SeveralEvaluation

WORST = 12  # mistakes shown
SUREST = 6  # pictures shown with Grad-CAM


def report(
    result,
    model,
    pictures,
    folder,
    name,
    *,
    image_size,
    crop="none",
    resize="bilinear",
    parts=(),
):
    """Writes `report.html`, `evaluation.json` and `doubtful.csv` into a folder.

    Args:
        result: An `Evaluation` or a `SeveralEvaluation`.
        model: The model that was evaluated.
        pictures: The `Split` of the pictures in `result`, in the same order.
        folder: `pathlib.Path` of an existing folder.
        name: What to call the data.
        image_size: Side in pixels.
        crop: How pictures are cut, as in `Split.eval_batches`.
        resize: How they are resized.
        parts: For each split with doubtful labels its name, the `Split` and its doubts.
    """
    numbers = json.dumps(result.summary(), indent=2) + "\n"
    files.write_whole(folder / "evaluation.json", numbers)
    several = isinstance(result, SeveralEvaluation)
    worst = _furthest(result) if several else _surest_mistakes(result)
    sure = np.argsort(-result.probabilities.max(1))[:SUREST]

    def seen(split, indices):
        chosen = split.select(np.asarray(indices))
        how = {"image_size": image_size, "crop": crop, "resize": resize}
        return next(iter(chosen.eval_batches(batch_size=len(chosen), **how)))[0].numpy()

    images = seen(pictures, np.r_[worst, sure])
    parts = [(part, split, found) for part, split, found in parts if found]
    files.write_whole(folder / "doubtful.csv", table(parts))
    title = f"{model.name} on {name}, {result.split}, {image_size} px"
    draw = figures.of_several_labels if several else figures.of_one_label
    with figures.readable_names():
        page = _page(
            title,
            (_cards_of_several if several else _cards)(result),
            (_table_of_several if several else _table)(result),
            itertools.chain(
                draw(result, model, images, worst, sure),
                (figures.of_doubts(*part, seen) for part in parts),
            ),
        )
    files.write_whole(folder / "report.html", page)


def _surest_mistakes(result):
    wrong = np.flatnonzero(result.probabilities.argmax(1) != result.labels)
    return wrong[np.argsort(-result.probabilities[wrong].max(1))][:WORST]


def _furthest(result):
    """Pictures with a label that is furthest on the wrong side of its threshold."""
    thresholds = np.array([row[-1] for row in result.labels_table])
    over = result.probabilities - thresholds
    wrong = np.where(result.labels, -over, over).max(1)
    order = np.argsort(-wrong, kind="stable")[:WORST]
    return order[wrong[order] > 0]


# ----------------------------------------------------------------------------------------- page


def _page(title, cards, table, drawn):
    template = importlib.resources.files(__package__).joinpath("report.html")
    text, head, rows = table
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        text=html.escape(text),
        cards="".join(
            f'<div class="card"><b>{value}</b><span>{text}</span></div>' for value, text in cards
        ),
        head="".join(f"<th>{cell}</th>" for cell in head),
        rows="".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        ),
        figures="".join(
            f'<section><h2>{head}</h2><p>{text}</p><img alt="{head}" src="{source(png(figure))}">'
            "</section>"
            for head, text, figure in drawn
        ),
    )


def _cards(result):
    """The numbers at the top of the page: `(value, what it is)`."""

    def interval(low, high):
        return f"(95 %: {low:.1%} to {high:.1%})"

    five = min(5, len(result.class_names))
    return [
        (f"{result.top1:.1%}", f"top 1 {interval(*result.top1_interval)}"),
        (f"{result.top5:.1%}", f"top {five} {interval(*result.top5_interval)}"),
        (f"{result.balanced_accuracy:.1%}", "balanced accuracy, the mean recall of the classes"),
        (f"{result.macro_f1:.3f}", "macro F1, the mean F1 of the classes"),
        (f"{result.images:,}", "pictures, each once"),
        (f"{result.loss:.3f}", "cross-entropy, nats"),
        (f"{result.calibration_error:.3f}", _calibrated(result)),
        *_rejected(result.rejection or {}),
    ]


def _calibrated(result):
    before = result.calibration_error_before
    text = "calibration error"
    return text if before is None else f"{text}, without its temperature {before:.3f}"


def _rejected(found):
    """Cards on the confidence below which nothing is named."""
    if "rejected" in found:
        yield f"{found['rejected']:.1%}", f"unknown: less sure than {found['unknown_below']:.1%}"
        if found["top1_named"] is not None:
            yield f"{found['top1_named']:.1%}", "top 1 of the pictures that are named"
    if "accepted" in found:
        yield f"{found['accepted']:.1%}", f"of {found['strangers']} strange pictures are named"
    if "auroc" in found:
        yield f"{found['auroc']:.3f}", "AUROC of telling strange pictures by confidence"


def _table(result):
    """A sentence, heads of columns, and a row for every class that has pictures."""
    from sklearn.metrics import precision_recall_fscore_support

    numbers = precision_recall_fscore_support(
        result.labels,
        result.probabilities.argmax(1),
        labels=np.arange(len(result.class_names)),
        zero_division=0,
    )
    intervals = {name: interval for name, _, _, *interval in result.class_recalls}
    rows = [
        (
            name,
            str(count),
            f"{precision:.1%}",
            f"{recall:.1%}",
            "{:.1%} to {:.1%}".format(*intervals[name]),
            f"{f1:.3f}",
        )
        for name, precision, recall, f1, count in zip(result.class_names, *numbers, strict=True)
        if count
    ]
    lowest = ", ".join(f"{name} {recall:.1%} of {n}" for name, recall, n in result.lowest_recalls)
    head = ("class", "pictures", "precision", "recall", "95 % of it", "F1")
    return f"Lowest recalls: {lowest}.", head, rows


def _cards_of_several(result):
    return [
        (f"{result.mean_average_precision:.1%}", "mean average precision of the labels"),
        (f"{result.micro_f1:.3f}", "F1 of all labels together"),
        (f"{result.macro_f1:.3f}", "macro F1, the mean F1 of the labels"),
        (f"{result.exact:.1%}", "of the pictures have all labels right"),
        (f"{result.images:,}", "pictures, each once"),
        (f"{result.calibration_error:.3f}", "calibration error"),
    ]


def _table_of_several(result):
    rows = [
        (
            name,
            str(images),
            "" if average is None else f"{average:.1%}",
            *(f"{part:.1%}" for part in (precision, recall)),
            f"{f1:.3f}",
            f"{threshold:.3f}",
        )
        for name, images, average, precision, recall, f1, threshold in result.labels_table
    ]
    head = ("label", "pictures", "average precision", "precision", "recall", "F1", "threshold")
    return "A label is said from its threshold on.", head, rows
