"""Name what is on pictures.

Each picture gets its likeliest classes. A model that has thresholds says `unknown` of a picture that
it is not sure enough of; one of several labels a picture says all that reach theirs.
"""

import collections
import csv
import errno
import glob
import io
import itertools
import os
import sys
from concurrent import futures

from keras_effv2 import files, stores
from keras_effv2.cli import flags

USAGE = "PICTURE|FOLDER|GLOB|- ... [FLAGS]"
POSITIONAL = True
FEW = 4  # pictures that are predicted sooner than a graph is made; see `evaluation.probabilities`
UNKNOWN = "unknown"  # what is said of a picture of none of the model's classes


def define(values):
    flags.model_and_weights(values)
    flags.class_names(values)
    values["model_file"].help = flags.ANY_FILE
    flags.output_format(values)
    flags.integer(values, "top", 5, "How many classes to name.", 1)
    meaning = "File for a table: a row a picture, with what is said, its classes and their scores."
    flags.path(values, "csv", meaning, written=True)
    meaning = (
        "Folder to copy the pictures into, one folder a class and unknown; nothing is replaced."
    )
    flags.folder(values, "sort_into", meaning)
    flags.image_size(values)
    flags.batch_size(values, 16, "Pictures at a time.")


def run(values, positional):
    found = pictures(positional)
    if not found:
        raise flags.UsageError("no pictures: give files, folders, globs, or - for a list on stdin")
    if not any(map(files.exists, found)):
        for file in found:
            print(f"effv2 predict: {file}: {os.strerror(errno.ENOENT)}.", file=sys.stderr)
        return flags.FAILED
    if values.csv:
        flags.check_file(values, "csv")
    flags.check_model(values)
    # logits, which are read as the head was trained
    model = flags.load_model(values, exports=True, classifier_activation=None)
    results = list(_predictions(model, found, values))
    lines = []
    for result in results:
        lines.append(_one_line(result["file"]))
        if result["said"] != [result["classes"][0]["name"]]:
            lines.append(f"  {_one_line(', '.join(result['said']) or UNKNOWN)}")
        lines += [f"  {c['score']:6.1%}  {_one_line(c['name'])}" for c in result["classes"]]
    if values.csv:
        # names of files that are no text are escaped, as where they are printed
        table = _table(results).encode("utf-8", "backslashreplace")
        files.write_whole(files.place(values.csv, "The table"), table)
    if values.sort_into:
        _sort(results, files.place(values.sort_into, "The folder to sort into"))
    flags.show(values, results, "\n".join(lines))
    failed = len(found) - len(results)
    if failed:
        print(f"effv2 predict: {failed} of {len(found)} pictures failed.", file=sys.stderr)
    return flags.FAILED if failed else flags.DONE


def _predictions(model, found, values):
    """File and best classes of every picture that can be read; of others it says why not."""
    import numpy as np

    from keras_effv2 import evaluation, graph, imagenet

    graph.side_of(model, values.image_size)  # once, not of every picture
    names = imagenet.class_names(model)
    predict = evaluation.probabilities(model, traced=len(found) > FEW)
    images = readable(model, found, values.image_size, 2 * values.batch_size)
    while batch := list(itertools.islice(images, values.batch_size)):
        scores = evaluation.by_class(predict(np.stack([image for _, image in batch])))
        said = evaluation.said(model, scores)
        for (file, _), row, own in zip(batch, scores, said, strict=True):
            best = np.argsort(-row, kind="stable")[: values.top]
            classes = [{"index": int(i), "name": names[i], "score": float(row[i])} for i in best]
            yield {"file": file, "said": [names[i] for i in own], "classes": classes}


def _table(results):
    """Text of a CSV file: `file,said,class,score,class 2,score 2,...`."""
    most = max((len(result["classes"]) for result in results), default=1)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    numbers = ["", *(f" {i}" for i in range(2, most + 1))]
    columns = [f"{column}{i}" for i in numbers for column in ("class", "score")]
    rows.writerow(["file", "said", *columns])
    for result in results:
        cells = [(c["name"], f"{c['score']:.6f}") for c in result["classes"]]
        said = "|".join(result["said"]) or UNKNOWN
        rows.writerow([result["file"], said, *(cell for pair in cells for cell in pair)])
    return table.getvalue()


def _sort(results, folder):
    """Copies every picture into the folders of what is said of it; equal names get a number."""
    for result in results:
        for said in result["said"] or [UNKNOWN]:
            name = said.replace("/", "_").replace("\\", "_")
            target = folder / ("_" if name in ("", ".", "..") else name)
            target.mkdir(parents=True, exist_ok=True)
            picture = files.place(result["file"], "A picture")
            files.copy(picture, _free(target, picture))


def _free(folder, path):
    """A path in a folder, called as the given one, at which there is nothing yet."""
    names = (f"{path.stem}-{i}{path.suffix}" for i in itertools.count(2))
    names = itertools.chain([path.name], names)
    return next(free for free in (folder / name for name in names) if not free.exists())


def readable(model, pictures, image_size=None, ahead=32):
    """Path and pixels of every picture that can be read; of others it prints why not.

    Threads read so many pictures ahead of the one that is asked for.
    """
    from keras_effv2.imagenet import prepare_image

    left = iter(pictures)
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin(count):
            for path in itertools.islice(left, count):
                yield path, pool.submit(prepare_image, model, path, image_size)

        reading = collections.deque(begin(ahead))
        while reading:
            path, image = reading.popleft()
            reading.extend(begin(1))
            try:
                yield path, image.result()
            except (ValueError, OSError) as error:
                print(f"effv2: {flags.sentence(error)}", file=sys.stderr)


def _one_line(text):
    return " ".join(text.splitlines())


def pictures(arguments):
    """The files that a list of files, folders, globs and `-` names."""
    found = []
    for text in arguments:
        if text == "-":
            found += [line.strip() for line in sys.stdin if line.strip()]
            continue
        text = files.expand(text)
        path = files.place(text, "A picture")
        if path.is_dir():
            from keras_effv2.data import find_pictures

            found += find_pictures(text)
        elif path.exists():
            found.append(text)
        else:
            fitting = path.parent.glob(path.name) if stores.is_address(text) else glob.glob(text)
            found += sorted(map(str, fitting)) or [text]
    return found
