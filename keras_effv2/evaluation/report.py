"""The report of an evaluation: `report.html`, a page that stands alone, and `evaluation.json`."""

import base64
import contextlib
import html
import importlib.resources
import io
import json
import math
import string
import warnings

import numpy as np
from absl import logging

from keras_effv2 import files
from keras_effv2.evaluation.calibration import coverage_and_risk
from keras_effv2.evaluation.explanations import gradcam

WORST = 12  # mistakes shown
SUREST = 6  # pictures shown with Grad-CAM


def report(result, model, pictures, folder, name, *, image_size, crop="none", resize="bilinear"):
    """Writes `report.html` and `evaluation.json` into a folder.

    Args:
        result: An `Evaluation`.
        model: The model that was evaluated.
        pictures: The `Split` of the pictures in `result`, in the same order.
        folder: `pathlib.Path` of an existing folder.
        name: What to call the data.
        image_size: Side in pixels.
        crop: How pictures are cut, as in `Split.eval_batches`.
        resize: How they are resized.
    """
    numbers = json.dumps(result.summary(), indent=2) + "\n"
    files.write_whole(folder / "evaluation.json", numbers)
    wrong = np.flatnonzero(result.probabilities.argmax(1) != result.labels)
    worst = wrong[np.argsort(-result.probabilities[wrong].max(1))][:WORST]
    sure = np.argsort(-result.probabilities.max(1))[:SUREST]
    chosen = pictures.select(np.r_[worst, sure])
    batches = chosen.eval_batches(
        image_size=image_size, batch_size=len(chosen), crop=crop, resize=resize
    )
    images = next(iter(batches))[0].numpy()
    title = f"{model.name} on {name}, {result.split}, {image_size} px"
    with _readable_names():
        page = _page(title, result, _figures(result, model, images, worst, sure))
    files.write_whole(folder / "report.html", page)


# ----------------------------------------------------------------------------------------- page


def _page(title, result, figures):
    template = importlib.resources.files(__package__).joinpath("report.html")
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        recalls=html.escape(
            ", ".join(f"{name} {recall:.1%} of {n}" for name, recall, n in result.lowest_recalls)
        ),
        cards="".join(
            f'<div class="card"><b>{value}</b><span>{text}</span></div>'
            for value, text in _cards(result)
        ),
        rows="".join(_rows(result)),
        figures="".join(
            f'<section><h2>{head}</h2><p>{text}</p><img alt="{head}" src="{_embed(figure)}">'
            "</section>"
            for head, text, figure in figures
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


def _rows(result):
    """A row of the table for every class that has pictures."""
    from sklearn.metrics import precision_recall_fscore_support

    numbers = precision_recall_fscore_support(
        result.labels,
        result.probabilities.argmax(1),
        labels=np.arange(len(result.class_names)),
        zero_division=0,
    )
    intervals = {name: interval for name, _, _, *interval in result.class_recalls}
    for name, precision, recall, f1, count in zip(result.class_names, *numbers, strict=True):
        if count:
            low, high = intervals[name]
            yield (
                f"<tr><td>{html.escape(name)}</td><td>{count}</td><td>{precision:.1%}</td>"
                f"<td>{recall:.1%}</td><td>{low:.1%} to {high:.1%}</td><td>{f1:.3f}</td></tr>"
            )


def _embed(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# -------------------------------------------------------------------------------------- figures


def _figures(result, model, images, worst, sure):
    """The figures of the page: `(heading, what is seen, figure)`.

    Args:
        result: An `Evaluation`.
        model: The model that was evaluated.
        images: The pictures `worst`, then the pictures `sure`: `(n, side, side, 3)`.
        worst: Indices of mistakes.
        sure: Indices of the pictures that the model is surest of.
    """
    yield "Confusion matrix", "Rows are the true classes.", _confusion_figure(result)
    text = "How often the model is right when it is this sure."
    yield "Confidence", text, _calibration_figure(result)
    text = "What part is wrong of those that it is surest of; a threshold is a dotted line."
    yield "Coverage and risk", text, _risk_figure(result)
    if len(worst):
        text = "Where the model was surest and wrong: true class, then what it said."
        yield "Worst mistakes", text, _panel(result, worst, images[: len(worst)])
    try:
        heat = gradcam(model, images[len(worst) :])
    except ValueError as error:  # somebody's own architecture
        logging.warning("The report has no Grad-CAM: %s", error)
    else:
        text = "Grad-CAM of the pictures that it is surest of."
        yield "What it looks at", text, _panel(result, sure, images[len(worst) :], heat)


# fonts of other scripts, in the order of trying; Matplotlib's own has Latin, Greek and Cyrillic
_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
)


@contextlib.contextmanager
def _readable_names():
    """Class names in any script that this machine has a font for; `$` is no formula."""
    import matplotlib
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    family = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    with matplotlib.rc_context({"font.family": family, "text.parse_math": False}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            yield


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _confusion_figure(result):
    """The classes that occur; coloured by the part of the true class, named up to thirty."""
    from sklearn.metrics import ConfusionMatrixDisplay

    used = np.flatnonzero(result.confusion.sum(0) + result.confusion.sum(1))
    counts = result.confusion[np.ix_(used, used)]
    named = len(used) <= 30
    figure = _figure(*(min(12, 3.5 + 0.42 * len(used)),) * 2)
    display = ConfusionMatrixDisplay(
        counts / np.maximum(counts.sum(1, keepdims=True), 1),
        display_labels=[result.class_names[i] for i in used],
    ).plot(
        ax=figure.subplots(),
        cmap="Blues",
        include_values=named,
        xticks_rotation=45,
        colorbar=False,
        im_kw={"vmin": 0, "vmax": 1},
    )
    if named:
        for text, count in zip(display.text_.flat, counts.flat, strict=True):
            text.set_text(str(count) if count else "")
    else:
        display.ax_.set(xticks=[], yticks=[])
    display.ax_.set(xlabel="predicted", ylabel="true")
    return figure


def _calibration_figure(result):
    from sklearn.calibration import CalibrationDisplay

    figure = _figure(4.5, 4)
    axis = figure.subplots()
    CalibrationDisplay.from_predictions(
        result.probabilities.argmax(1) == result.labels,
        result.probabilities.max(1),
        n_bins=10,
        pos_label=True,
        name="the model",
        ax=axis,
    )
    axis.set(xlabel="confidence", ylabel="part that is right", xlim=(0, 1), ylim=(0, 1))
    return figure


def _risk_figure(result):
    sure = result.probabilities.max(1)
    coverage, risk = coverage_and_risk(sure, result.probabilities.argmax(1) == result.labels)
    figure = _figure(4.5, 4)
    axis = figure.subplots()
    axis.plot(coverage, risk)
    if "rejected" in (result.rejection or {}):
        axis.axvline(1 - result.rejection["rejected"], ls=":", color="black")
    axis.set(xlabel="part of the pictures that is named", ylabel="part of these that is wrong")
    axis.set(xlim=(0, 1), ylim=(0, None))
    axis.grid(alpha=0.3)
    return figure


def _panel(result, indices, images, heat=None):
    """Pictures in rows of six: the true class, what the model said, and how sure it was."""
    columns = min(6, len(indices))
    rows = math.ceil(len(indices) / columns)
    figure = _figure(2 * columns, 2.35 * rows)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis in axes:
        axis.axis("off")
    for axis, i, image, k in zip(axes, indices, images, range(len(indices))):
        axis.imshow(image.clip(0, 255).astype("uint8"))
        if heat is not None:
            axis.imshow(heat[k], cmap="jet", alpha=0.4)
        said = int(result.probabilities[i].argmax())
        axis.set_title(
            f"{result.class_names[result.labels[i]]}\n{result.class_names[said]} "
            f"{result.probabilities[i, said]:.0%}",
            fontsize=8,
        )
    return figure
