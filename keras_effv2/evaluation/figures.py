"""The figures of a report: `(heading, what is seen, figure)`."""

import base64
import contextlib
import io
import math
import warnings

import numpy as np
from absl import logging

from keras_effv2.evaluation.calibration import coverage_and_risk
from keras_effv2.evaluation.doubts import name_of
from keras_effv2.evaluation.explanations import gradcam


def of_one_label(result, model, images, worst, sure):
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
        yield "Worst mistakes", text, _panel(_captions(result, worst), images[: len(worst)])
    yield from _explained(model, _captions(result, sure), images[len(worst) :])


def of_several_labels(result, model, images, worst, sure):
    """As `of_one_label`, of a `SeveralEvaluation`."""
    text = "Each label from its threshold on: dots. Those with the lowest average precisions."
    yield "Precision and recall", text, _precision_figure(result)
    if len(worst):
        text = "Where it was furthest on the wrong side of a threshold: true labels, what it said."
        captions = [_labels_caption(result, i) for i in worst]
        yield "Worst mistakes", text, _panel(captions, images[: len(worst)])
    captions = [_labels_caption(result, i) for i in sure]
    yield from _explained(model, captions, images[len(worst) :])


def of_doubts(part, split, found, seen, most=12):
    """The pictures of a split whose labels are the most doubtful.

    Args:
        part: Name of the split.
        split: The `Split`.
        found: Its doubts.
        seen: Function of a split and indices that gives the pictures.
        most: Pictures to show.
    """
    found = found[:most]
    captions = [
        f"{doubt.label} {doubt.confidence:.0%}?\n{doubt.said}\n{_end(name_of(split, doubt))}"
        for doubt in found
    ]
    text = "The label with what a model that did not train on the picture gives it; what that says. More, with paths: doubtful.csv."
    figure = _panel(captions, seen(split, [doubt.index for doubt in found]))
    return f"Doubtful labels, {part}", text, figure


def _end(name, most=24):
    """The end of a path, which tells files apart."""
    return name if len(name) <= most else f"...{name[-most:]}"


def _explained(model, captions, images):
    """Grad-CAM, where the model lets it be computed."""
    try:
        heat = gradcam(model, images)
    except ValueError as error:  # somebody's own architecture
        logging.warning("The report has no Grad-CAM: %s", error)
    else:
        text = "Grad-CAM of the pictures that it is surest of."
        yield "What it looks at", text, _panel(captions, images, heat)


def _captions(result, indices):
    """The true class, what the model said, and how sure it was."""
    for i in indices:
        said = int(result.probabilities[i].argmax())
        yield (
            f"{result.class_names[result.labels[i]]}\n{result.class_names[said]} "
            f"{result.probabilities[i, said]:.0%}"
        )


def _labels_caption(result, i):
    thresholds = np.array([row[-1] for row in result.labels_table])
    lines = []
    for columns in (result.labels[i], result.probabilities[i] >= thresholds):
        names = [result.class_names[k] for k in np.flatnonzero(columns)]
        lines.append(", ".join(names[:3]) + (" ..." if len(names) > 3 else "") or "none")
    return "\n".join(lines)


def _precision_figure(result, most=8):
    from sklearn.metrics import precision_recall_curve

    figure = new(5.5, 4.5)
    axis = figure.subplots()
    known = [(row, i) for i, row in enumerate(result.labels_table) if row[2] is not None]
    for (name, _, average, precision, recall, *_), i in sorted(known, key=lambda x: x[0][2])[:most]:
        at = precision_recall_curve(result.labels[:, i], result.probabilities[:, i])
        (line,) = axis.plot(at[1], at[0], label=f"{name} {average:.2f}")
        axis.plot(recall, precision, "o", color=line.get_color())
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


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
def readable_names():
    """Class names in any script that this machine has a font for; `$` is no formula."""
    import matplotlib
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    family = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    with matplotlib.rc_context({"font.family": family, "text.parse_math": False}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            yield


def new(width, height):
    """A figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure):
    """A figure as the bytes of a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def source(picture):
    """The bytes of a PNG as the source of an image in a page."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _confusion_figure(result):
    """The classes that occur; coloured by the part of the true class, named up to thirty."""
    from sklearn.metrics import ConfusionMatrixDisplay

    used = np.flatnonzero(result.confusion.sum(0) + result.confusion.sum(1))
    counts = result.confusion[np.ix_(used, used)]
    named = len(used) <= 30
    figure = new(*(min(12, 3.5 + 0.42 * len(used)),) * 2)
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

    figure = new(4.5, 4)
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
    figure = new(4.5, 4)
    axis = figure.subplots()
    axis.plot(coverage, risk)
    if "rejected" in (result.rejection or {}):
        axis.axvline(1 - result.rejection["rejected"], ls=":", color="black")
    axis.set(xlabel="part of the pictures that is named", ylabel="part of these that is wrong")
    axis.set(xlim=(0, 1), ylim=(0, None))
    axis.grid(alpha=0.3)
    return figure


def _panel(captions, images, heat=None):
    """Pictures in rows of six with what is said of them."""
    columns = min(6, len(images))
    rows = math.ceil(len(images) / columns)
    figure = new(2 * columns, 2.35 * rows)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis in axes:
        axis.axis("off")
    for k, (axis, caption, image) in enumerate(zip(axes, captions, images)):
        axis.imshow(image.clip(0, 255).astype("uint8"))
        if heat is not None:
            axis.imshow(heat[k], cmap="jet", alpha=0.4)
        axis.set_title(caption, fontsize=8)
    return figure
