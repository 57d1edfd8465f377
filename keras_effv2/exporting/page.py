"""The README.md of a published model: what it is, how well it does, on what, and what it cannot."""

import importlib.metadata
import json
import os

from keras_effv2 import layers, needs
from keras_effv2.weights import list_weights

_MOST_CLASSES = 40  # named on the page; labels.txt has all


def page(workdir, model, names, place, licence):
    """The page of a finished run, Markdown with the hub's metadata before it.

    Args:
        workdir: `pathlib.Path` of the run's folder.
        model: Its `keras.Model`.
        names: Of the files that are published with it.
        place: `"hf:owner/name"` or `"kaggle:owner/model/framework/variation"`.
        licence: Identifier of the licence, such as `"apache-2.0"`.
    """
    run = {"labels": (workdir / "labels.txt").read_text(encoding="utf-8").splitlines()}
    for file in ("summary", "recipe", "evaluation", "start"):
        path = workdir / f"{file}.json"
        run[file] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data = _nameless(run["summary"].get("data") or "pictures of my own")
    history = "![accuracy and image size, epoch by epoch](history.png)"
    sections = [
        _head(run, model, place, data),
        _use(place),
        _results(run["evaluation"]),
        _training(run, data),
        history if "history.png" in names else "",
        _limits(run, model),
        _files(names),
    ]
    body = "\n\n".join(filter(None, sections))
    return f"---\n{_metadata(run, place, data, licence)}\n---\n\n{body}\n"


def _nameless(data):
    """The name of a data set without folders of somebody's machine; names of hubs keep their owner."""
    kind, colon, rest = data.partition(":")
    rest = rest.partition("?")[0].rstrip("/")
    local = rest.startswith((".", "/", "~")) or os.path.isdir(rest)
    of_a_hub = kind in ("tfds", "kaggle", "keras") or (kind == "hf" and not local)
    return f"{kind}{colon}{rest if of_a_hub else os.path.basename(rest)}"


def _metadata(run, place, data, licence):
    with needs.naming("A model's page", extra="publish"):
        from huggingface_hub import EvalResult, ModelCardData
    found, results = run["evaluation"], None
    if found:
        span = found.get("top1_interval", (0, 1))  # of several labels a picture there is none
        interval = "{:.1%} to {:.1%}".format(*span)
        told = {"images": found["images"], "interval_95": span}
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=data.partition(":")[0],
                dataset_name=data,
                dataset_split=found["split"],
                metric_type=kind,
                metric_name=name,
                metric_value=found[key],
                metric_args=told if key == "top1" else None,
            )
            for kind, key, name in (
                ("accuracy", "top1", f"top 1, 95 % interval {interval}"),
                ("balanced_accuracy", "balanced_accuracy", "mean recall of the classes"),
                ("mean_average_precision", "mean_average_precision", "mean over the labels"),
            )
            if key in found
        ]
    row = _row(run)
    return ModelCardData(
        license=licence,
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["keras_effv2", "image-classification", "tflite"],
        base_model=row.repository if row is not None else None,
        model_name=place.split("/")[-1],
        eval_results=results,
    ).to_yaml()


def _row(run):
    """The released checkpoint that the run began from, or None."""
    began = run["start"]
    rows = list_weights(began["model"]) if began.get("model") else []
    return next((row for row in rows if row.tag == began.get("weights")), None)


def _head(run, model, place, data):
    labels, found = run["labels"], run["evaluation"]
    network = run["start"].get("model") or model.name
    text = f"# {place.split('/')[-1]}\n\n{network}, which names {len(labels)} classes"
    if found:
        unseen = "that it had not seen" if found["split"] == "test" else f"of `{found['split']}`"
        judged = f"{found['images']:,} pictures {unseen}"
    if found and "top1" not in found:
        precision = found["mean_average_precision"]
        text += (
            f", any number of them a picture: mean average precision {precision:.1%} on {judged}"
        )
    elif found:
        low, high = found["top1_interval"]
        text += (
            f": right on {found['top1']:.1%} of {judged} (95 % interval {low:.1%} to {high:.1%})"
        )
    named = ", ".join(labels[:_MOST_CLASSES]) + (", ..." if len(labels) > _MOST_CLASSES else "")
    return f"{text}. Trained on `{data}`.\n\nClasses: {named}."


def _use(place):
    where, _, handle = place.partition(":")
    load = f'model = keras.saving.load_model("hf://{handle}")'
    if where == "kaggle":
        load = (
            f'folder = kagglehub.model_download("{handle}")\n'
            'model = keras.saving.load_model(f"{folder}/model.keras")'
        )
    imports = "import keras\nimport keras_effv2 as kev"
    imports = f"import kagglehub\n{imports}" if where == "kaggle" else imports
    return f"""## Use

```python
{imports}  # pip install 'keras_effv2[{"hub" if where == "hf" else "train,publish"}]'

{load}
image = kev.prepare_image(model, "photo.jpg")[None]
scores = model.predict(image)[0]
print(sorted(zip(scores, kev.class_names(model)), reverse=True)[:3])
```"""


def _results(found):
    if not found:
        return "## Results\n\nNot evaluated."
    if "top1" not in found:
        rows = [
            f"| {row['label']} | {row['images']} | {row['f1']:.3f} | {row['threshold']:.3f} |"
            for row in found["labels_table"]
        ]
        head = "| label | pictures | F1 | said from |\n| --- | --- | --- | --- |"
        return "\n".join(["## Results\n", head, *rows])
    rows = [
        ("top 1", f"{found['top1']:.1%} ({{:.1%}} to {{:.1%}})".format(*found["top1_interval"])),
        ("balanced accuracy", f"{found['balanced_accuracy']:.1%}"),
        ("cross-entropy", f"{found['loss']:.3f}"),
        ("calibration error", f"{found['calibration_error']:.3f}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    recalls = ", ".join(
        f"{row['class']} {row['recall']:.0%} of {row['images']}" for row in found["lowest_recalls"]
    )
    return (
        f"## Results\n\n{found['images']:,} pictures of the split `{found['split']}`, each once; 95 % "
        f"Wilson interval in brackets.\n\n| | |\n| --- | ---: |\n{table}\n\nLowest recalls: {recalls}."
    )


def _training(run, data):
    recipe, summary, row = run["recipe"], run["summary"], _row(run)
    began = " from random weights" if run["start"] else ""
    if row is not None:
        began = f" from the weights `{row.tag}` ({row.source})"
    elif run["start"].get("weights"):
        began = f" from the weights `{os.path.basename(run['start']['weights'])}`"
    counts = summary.get("pictures") or {}
    used = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    sizes = dict.fromkeys(phase["image_size"] for phase in recipe.get("phases", ()))
    lines = [
        f"Data: `{data}`" + (f", pictures: {used}." if used else "."),
        f"{len(summary.get('skipped_pictures', ()))} damaged pictures were left out.",
        f"{summary.get('epochs')} epochs{began}, recipe `{recipe.get('name')}`, batch "
        f"{recipe.get('batch_size')}, sizes {', '.join(map(str, sizes))} pixels, seed "
        f"{recipe.get('seed')}.",
    ]
    return "## Data and training\n\n" + "\n".join(f"* {line}" for line in lines)


def _limits(run, model):
    pixels = layers.find_pixels(model)
    contract = pixels.contract() if pixels is not None else {}
    found = run["evaluation"]
    lines = [
        "It names one of its classes whatever is on the picture, also where there is none of them."
    ]
    if contract.get("thresholds"):
        lines = ["It says each label from a threshold of its own on; a picture may have none."]
    elif contract.get("unknown_below"):
        lines = [
            f"What it is less sure of than {contract['unknown_below']:.1%} is of none of its classes as "
            "far as it knows; `effv2 predict` says `unknown` then."
        ]
    if contract.get("image_size"):
        lines.append(
            f"It was evaluated at {contract['image_size']} pixels (crop {contract['crop']}, resize "
            f"{contract['resize']}), on pictures 0..255; the normalisation is inside."
        )
    if found and found["images"] < 400 and "top1" in found:
        low, high = found["top1_interval"]
        lines.append(
            f"{found['images']} test pictures are few: anything from {low:.0%} to {high:.0%} may be "
            "its accuracy on more of the same kind. On pictures of another kind it is unknown."
        )
    elif found:
        lines.append("On pictures of another kind than those of the test its accuracy is unknown.")
    return "## Limits\n\n" + "\n".join(f"* {line}" for line in lines)


_TOLD = {
    "model.keras": "the Keras model",
    "config.json": "the same unpacked, for `hf://`: configuration,",
    "metadata.json": "version of Keras,",
    "model.weights.h5": "weights",
    "hub/saved_model.pb": "TF Hub: SavedModel that can be trained, images in [0, 1]; "
    "`keras_effv2.HubLayer` takes it by the name of this model",
    "model.tflite": "for phones, pixels 0..255",
    "labels.txt": "names of the classes, in the order of the outputs",
    "evaluation.json": "the results",
}


def _files(names):
    rows = [f"| `{name}` | {told} |" for name, told in _TOLD.items() if name in names]
    made = (
        f"Made with [keras_effv2]({_home()}) by `effv2 publish`. EfficientNetV2: "
        "[arXiv 2104.00298](https://arxiv.org/abs/2104.00298); CoAtNet: "
        "[arXiv 2106.04803](https://arxiv.org/abs/2106.04803)."
    )
    return "## Files\n\n| file | |\n| --- | --- |\n" + "\n".join(rows) + f"\n\n{made}"


def _home():
    """The project's address, as its metadata has it."""
    try:
        urls = importlib.metadata.metadata("keras_effv2").get_all("Project-URL") or ()
    except importlib.metadata.PackageNotFoundError:
        urls = ()
    found = (url.split(", ", 1)[1] for url in urls if url.startswith("Homepage"))
    return next(found, "https://pypi.org/project/keras_effv2/")
