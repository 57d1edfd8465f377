"""What a model gets right and wrong: accuracy with intervals, confusions, Grad-CAM, a report."""

import base64
import contextlib
import dataclasses
import html
import io
import json
import math
import pathlib
import warnings

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_effv2 import files, graph, layers


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        split: Which split was judged.
        images: Number of images, each counted once.
        top1: Part of the images whose best class is right.
        top5: Part of the images whose class is among the best five (of all, if fewer).
        top1_interval: 95 % Wilson interval of `top1`.
        top5_interval: The same of `top5`.
        loss: Mean cross-entropy in nats.
        calibration_error: Expected calibration error over 15 bins.
        class_names: Names of the classes that the model knows.
        confusion: int array `(true, predicted)`.
        probabilities: float32 array `(images, classes)`.
        labels: int array `(images,)`; of several labels the one that the model finds likeliest.
    """

    split: str
    images: int
    top1: float
    top5: float
    top1_interval: tuple
    top5_interval: tuple
    loss: float
    calibration_error: float
    class_names: tuple
    confusion: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray

    def summary(self):
        """The numbers that JSON can hold."""
        return {
            "split": self.split,
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "top1_interval": list(self.top1_interval),
            "top5_interval": list(self.top5_interval),
            "loss": self.loss,
            "calibration_error": self.calibration_error,
        }


def evaluate(model, data, report_dir=None, *, split=None, batch_size=32, image_size=None):
    """Judges a model on a split, every picture once.

    Args:
        model: A `keras.Model` whose outputs are classes.
        data: A `Data` of `keras_effv2.data.load`.
        report_dir: Folder for `report.html` and its numbers, or None.
        split: `"train"`, `"validation"` or `"test"`; None takes test, else validation, else train.
        batch_size: Images at a time.
        image_size: Side in pixels; None takes the model's.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If the split does not exist or the model does not know its classes.
    """
    have = [name for name in ("test", "validation", "train") if getattr(data, name) is not None]
    if split not in (None, *have):
        raise ValueError(f"{data.name} has no split {split!r}. Splits: {', '.join(have)}.")
    split = split or have[0]
    pictures = getattr(data, split)
    predict = probabilities(model)
    image_size = graph.side_of(model, image_size)
    outputs, names = match_classes(model, pictures.class_names)
    if report_dir is not None:  # before the work
        report_dir = pathlib.Path(report_dir)
        if report_dir.exists() and not report_dir.is_dir():
            raise NotADirectoryError(f"The report needs a folder; {report_dir} is a file.")
        report_dir.mkdir(parents=True, exist_ok=True)
    pixels = layers.find_pixels(model)
    geometry = {"crop": pixels.crop, "resize": pixels.resize} if pixels else {}
    batches = pictures.eval_batches(image_size=image_size, batch_size=batch_size, **geometry)
    scores, labels = [], []
    for number, (images, targets, mask) in enumerate(batches):
        if number == 0:
            warn_of_small_pixels(images)
        keep = mask.numpy() > 0
        scores.append(predict(images).numpy()[keep])
        labels.append(_labels(targets.numpy()[keep], scores[-1][:, outputs], outputs))
    scores, labels = np.concatenate(scores), np.concatenate(labels)
    if (labels < 0).any():
        logging.warning("%d pictures without a label are not counted.", (labels < 0).sum())
    counted = np.flatnonzero(labels >= 0)
    if not len(counted):
        raise ValueError(f"No picture of {data.name}, {split}, has a label.")
    result = judge(scores[counted], labels[counted], names, split)
    if report_dir is not None:
        of_counted = {"indices": counted, "image_size": image_size, **geometry}
        report(result, model, pictures, report_dir, data.name, **of_counted)
    return result


def _labels(targets, scores, outputs):
    """The model's output for each picture's label, of several the likeliest; -1 for none."""
    best = np.where(targets > 0, scores, -1.0).argmax(1)
    return np.where((targets > 0).any(1), outputs[best], -1)


def probabilities(model):
    """A function from images to probabilities, whatever the last activation of the model is."""
    layers.require_tensorflow("Evaluation")
    logits = graph.logits_of(model)
    pixels = layers.find_pixels(model)
    sigmoid = pixels is not None and pixels.activation == "sigmoid"

    @tf.function(reduce_retracing=True)
    def predict(images):
        outputs = tf.cast(logits(images, training=False), tf.float32)
        return tf.sigmoid(outputs) if sigmoid else tf.nn.softmax(outputs)

    return predict


def warn_of_small_pixels(images):
    """Warns of a batch that looks like 0..1 where 0..255 is wanted."""
    if float(np.max(images)) <= 1.0:
        logging.warning(
            "The largest pixel of the first batch is %.3g: models here take 0..255, not 0..1.",
            float(np.max(images)),
        )


def match_classes(model, class_names):
    """Finds the classes of data among those of a model, by name where the model knows names.

    Returns:
        The model's output for every class, int array, and the names of all outputs.

    Raises:
        ValueError: If a class is unknown to the model.
    """
    pixels = layers.find_pixels(model)
    outputs = model.output_shape[-1]
    own = pixels.class_names if pixels is not None else None
    if not own:
        if outputs != len(class_names):
            raise ValueError(
                f"The model has {outputs} outputs and no class names, the data has "
                f"{len(class_names)} classes. Evaluate it on data with {outputs} classes."
            )
        return np.arange(outputs), tuple(class_names)
    unknown = [name for name in class_names if name not in own]
    if unknown:
        raise ValueError(
            f"The model does not know the class {unknown[0]!r}. Its classes: "
            f"{', '.join(own[:10])}{' ...' if len(own) > 10 else ''}. Rename the class folder."
        )
    return np.array([own.index(name) for name in class_names]), tuple(own)


def judge(scores, labels, class_names, split="test"):
    """Computes all numbers from probabilities `(n, classes)` and labels `(n,)`."""
    from sklearn.metrics import confusion_matrix, log_loss

    count, classes = scores.shape
    best = np.argsort(-scores, axis=1, kind="stable")[:, : min(5, classes)]
    hits = best == labels[:, None]
    first, five = int(hits[:, 0].sum()), int(hits.any(1).sum())
    normal = scores / np.maximum(scores.sum(1, keepdims=True), 1e-12)
    return Evaluation(
        split,
        count,
        first / count,
        five / count,
        wilson(first, count),
        wilson(five, count),
        float(log_loss(labels, normal.clip(1e-7, 1), labels=np.arange(classes))),
        calibration_error(scores.max(1), hits[:, 0]),
        tuple(class_names),
        confusion_matrix(labels, best[:, 0], labels=np.arange(classes)),
        scores,
        labels,
    )


def wilson(hits, count, z=1.959963984540054):
    """95 % Wilson interval of a proportion. Source: Wilson 1927, JASA 22.

    >>> [round(x, 4) for x in wilson(95, 100)]
    [0.8882, 0.9785]
    """
    part = hits / count
    centre = part + z * z / (2 * count)
    half = z * math.sqrt(part * (1 - part) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def calibration_error(confidence, correct, bins=15):
    """Mean gap between confidence and accuracy. Source: Guo et al. 2017, arXiv 1706.04599."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = (abs((confidence - correct)[index == b].sum()) for b in range(bins))
    return float(sum(gaps) / len(confidence))


# ---------------------------------------------------------------------------------- explanations


def gradcam(model, images, class_index=None, layer=None):
    """Shows which parts of images speak for a class.

    Args:
        model: A functional classifier; models may be nested in it.
        images: `(n, h, w, c)` as the model takes them.
        class_index: Class, one number or one an image; None takes the best.
        layer: Name of the layer whose map is looked at; None takes the last with a feature map.

    Returns:
        float32 array `(n, h, w)` in [0, 1], at the size of the images.

    Raises:
        ValueError: If there is no such layer.

    Source: Selvaraju et al. 2016, https://arxiv.org/abs/1610.02391.
    """
    flat = graph.flattened(model)
    maps = {x.name: made for x, _, (made, *_) in graph.calls(flat) if len(made.shape) == 4}
    if layer is None:
        # what has no more channels than a picture is a picture
        large = [name for name, made in maps.items() if made.shape[-1] > images.shape[-1]]
        if not large:
            raise ValueError(f"Model {model.name!r} has no layer with a feature map.")
        layer = large[-1]
    if layer not in maps:
        raise ValueError(
            f"Model {model.name!r} has no feature map {layer!r}. Last: {', '.join([*maps][-6:])}."
        )
    both = keras.Model(flat.input, [maps[layer], graph.logits_of(flat).outputs[0]])
    images = tf.cast(images, tf.float32)
    with tf.GradientTape() as tape:
        features, outputs = both(images, training=False)
        if class_index is None:
            class_index = tf.argmax(outputs, -1)
        chosen = tf.one_hot(tf.broadcast_to(class_index, (images.shape[0],)), outputs.shape[-1])
        score = tf.reduce_sum(outputs * chosen)
    gradients = tape.gradient(score, features)
    weights = tf.reduce_mean(gradients, (1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, -1, keepdims=True))
    heat = tf.cast(heat, tf.float32) / tf.maximum(
        tf.cast(tf.reduce_max(heat, (1, 2, 3), keepdims=True), tf.float32), 1e-12
    )
    return tf.image.resize(heat, images.shape[1:3])[..., 0].numpy()


def attention_maps(model, images, layer=None):
    """The attention of a CoAtNet layer: float32 `(n, heads, queries, keys)`; the last by default.

    Raises:
        ValueError: If the model has no relative attention.
    """
    own = [x for x in model.layers if type(x).__name__ == "RelativeAttention"]
    if layer is not None:
        own = [x for x in own if x.name == layer]
    if not own:
        raise ValueError(f"Model {model.name!r} has no such layer of relative attention.")
    before = keras.Model(model.inputs[0], own[-1].input)(
        tf.cast(images, tf.float32), training=False
    )
    return own[-1](before, return_attention=True)[1].numpy()


# ------------------------------------------------------------------------------------------ report


def report(result, model, pictures, folder, name, indices, image_size, **geometry):
    """Writes `report.html` (self-contained) and `evaluation.json` into a folder.

    Args:
        result: An `Evaluation`.
        model: The model that was judged.
        pictures: The `Split` that it was judged on.
        folder: `pathlib.Path` of an existing folder.
        name: What to call the data.
        indices: Which of the pictures were counted.
        image_size: Side in pixels.
        **geometry: `crop` and `resize`, as in `Split.eval_batches`.
    """
    numbers = json.dumps(result.summary(), indent=2) + "\n"
    files.write_whole(folder / "evaluation.json", numbers)
    wrong = np.flatnonzero(result.probabilities.argmax(1) != result.labels)
    worst = wrong[np.argsort(-result.probabilities[wrong].max(1))][:12]
    sure = np.argsort(-result.probabilities.max(1))[:6]
    chosen = pictures.select(indices[[*worst, *sure]])
    batches = chosen.eval_batches(image_size=image_size, batch_size=len(chosen), **geometry)
    images = next(iter(batches))[0].numpy()
    try:
        heat = gradcam(model, images[len(worst) :])
    except ValueError as error:  # somebody's own architecture
        logging.warning("The report has no Grad-CAM: %s", error)
        heat = None
    with _readable_names():
        figures = [
            ("Confusion matrix", "Rows are the true classes.", _confusion_figure(result)),
            (
                "Confidence",
                "How often the model is right when it is this sure.",
                _calibration_figure(result),
            ),
        ]
        if len(worst):
            figures.append(
                (
                    "Worst mistakes",
                    "Where the model was surest and wrong: true class, then what it said.",
                    _panel(result, worst, images[: len(worst)]),
                )
            )
        if heat is not None:
            figures.append(
                (
                    "What it looks at",
                    "Grad-CAM of the pictures that it is surest of.",
                    _panel(result, sure, images[len(worst) :], heat),
                )
            )
        page = _page(result, figures, f"{model.name} on {name}, {result.split}, {image_size} px")
    files.write_whole(folder / "report.html", page)


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
    used = np.flatnonzero(result.confusion.sum(0) + result.confusion.sum(1))
    names = [result.class_names[i] for i in used]
    counts = result.confusion[np.ix_(used, used)]
    size = len(used)
    figure = _figure(*(min(12, 3.5 + 0.42 * size),) * 2)
    axis = figure.subplots()
    rows = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(rows, cmap="Blues", vmin=0, vmax=1)
    if size <= 30:
        axis.set_xticks(range(size), names, rotation=45, ha="right")
        axis.set_yticks(range(size), names)
        for i, j in np.argwhere(counts):
            color = "white" if rows[i, j] > 0.5 else "black"
            axis.text(j, i, counts[i, j], ha="center", va="center", color=color)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    return figure


def _calibration_figure(result):
    confidence = result.probabilities.max(1)
    correct = result.probabilities.argmax(1) == result.labels
    index = np.minimum((confidence * 10).astype(int), 9)
    used = [b for b in range(10) if (index == b).any()]
    figure = _figure(4.5, 4)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", ls=":")
    axis.bar(
        [(b + 0.5) / 10 for b in used],
        [correct[index == b].mean() for b in used],
        width=0.09,
        color="#3b76af",
    )
    axis.set_xlabel("confidence")
    axis.set_ylabel("part that is right")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    return figure


def _panel(result, indices, images, heat=None):
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


def _embed(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _page(result, figures, title):
    from sklearn.metrics import precision_recall_fscore_support

    predicted = result.probabilities.argmax(1)
    numbers = precision_recall_fscore_support(
        result.labels, predicted, labels=np.arange(len(result.class_names)), zero_division=0
    )
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{n}</td><td>{p:.1%}</td><td>{r:.1%}</td>"
        f"<td>{f:.3f}</td></tr>"
        for name, p, r, f, n in zip(result.class_names, *numbers, strict=True)
        if n
    )

    def interval(low, high):
        return f"(95 %: {low:.1%} to {high:.1%})"

    five = min(5, len(result.class_names))
    cards = [
        (f"{result.top1:.1%}", f"top 1 {interval(*result.top1_interval)}"),
        (f"{result.top5:.1%}", f"top {five} {interval(*result.top5_interval)}"),
        (f"{result.images:,}", "pictures, each once"),
        (f"{result.loss:.3f}", "cross-entropy, nats"),
        (f"{result.calibration_error:.3f}", "calibration error"),
    ]
    cards = "".join(
        f"<div class=card><b>{value}</b><span>{text}</span></div>" for value, text in cards
    )
    blocks = "".join(
        f'<section><h2>{head}</h2><p>{text}</p><img alt="{head}" src="{_embed(figure)}"></section>'
        for head, text, figure in figures
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1b1f24; background: #fff }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.15rem; margin: 2rem 0 .2rem }}
p {{ margin: 0 0 .5rem; color: #57606a }} img {{ max-width: 100%; background: #fff }}
.cards {{ display: flex; flex-wrap: wrap; gap: .8rem }}
.card {{ border: 1px solid #d0d7de; border-radius: .5rem; padding: .6rem 1rem }}
.card b {{ display: block; font-size: 1.5rem }} .card span {{ color: #57606a; font-size: .85rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .2rem .8rem; text-align: right;
  border-bottom: 1px solid #d0d7de; font-variant-numeric: tabular-nums }}
td:first-child, th:first-child {{ text-align: left }}
@media (prefers-color-scheme: dark) {{ body {{ background: #0d1117; color: #e6edf3 }}
  p, .card span {{ color: #9198a1 }} .card, td, th {{ border-color: #30363d }} }}
</style><h1>{html.escape(title)}</h1><div class="cards">{cards}</div>
<section><h2>Classes</h2><table><tr><th>class</th><th>pictures</th><th>precision</th>
<th>recall</th><th>F1</th></tr>{rows}</table></section>{blocks}</html>
"""
