"""Name what is on pictures."""

import errno
import glob
import os
import sys

from keras_effv2 import files
from keras_effv2.cli import flags

USAGE = "PICTURE|FOLDER|GLOB|- ... [FLAGS]"
POSITIONAL = True


def define(values):
    flags.model_and_weights(values)
    flags.output_format(values)
    flags.integer(values, "top", 5, "How many classes to name.", 1)
    flags.image_size(values)
    flags.batch_size(values, 16, "Pictures at a time.")


def run(values, positional):
    found = pictures(positional)
    if not found:
        raise flags.UsageError("no pictures: give files, folders, globs, or - for a list on stdin")
    if not any(map(os.path.exists, found)):
        for file in found:
            print(f"effv2 predict: {file}: {os.strerror(errno.ENOENT)}.", file=sys.stderr)
        return flags.FAILED
    flags.check_model(values)
    model = flags.load_model(values, classifier_activation=None)  # logits, read as trained
    results = list(_predictions(model, found, values))
    lines = []
    for result in results:
        lines.append(_one_line(result["file"]))
        lines += [f"  {c['score']:6.1%}  {_one_line(c['name'])}" for c in result["classes"]]
    flags.show(values, results, "\n".join(lines))
    failed = len(found) - len(results)
    if failed:
        print(f"effv2 predict: {failed} of {len(found)} pictures failed.", file=sys.stderr)
    return flags.FAILED if failed else flags.DONE


def _predictions(model, found, values):
    """File and best classes of every picture that can be read; of others it says why not."""
    import numpy as np

    from keras_effv2 import evaluation, imagenet

    names, predict = imagenet.class_names(model), evaluation.probabilities(model)
    for start in range(0, len(found), values.batch_size):
        batch = list(readable(model, found[start : start + values.batch_size], values.image_size))
        if not batch:
            continue
        scores = evaluation.by_class(predict(np.stack([image for _, image in batch])))
        for (file, _), row in zip(batch, scores, strict=True):
            best = np.argsort(-row, kind="stable")[: values.top]
            classes = [{"index": int(i), "name": names[i], "score": float(row[i])} for i in best]
            yield {"file": file, "classes": classes}


def readable(model, pictures, image_size=None):
    """Path and pixels of every picture that can be read; of others it prints why not."""
    from keras_effv2.imagenet import prepare_image

    for path in pictures:
        try:
            yield path, prepare_image(model, path, image_size)
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
        if os.path.isdir(text):
            from keras_effv2.data import find_pictures

            found += find_pictures(text)
        else:
            found += [text] if os.path.exists(text) else sorted(glob.glob(text)) or [text]
    return found
