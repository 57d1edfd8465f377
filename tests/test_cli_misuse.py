"""Misuse of every command: one sentence, the right exit code, nothing left behind, no TensorFlow.

All rows run in one process of their own, which must not import Keras or TensorFlow for any of them.
"""

import json
import pathlib
import shlex
import subprocess
import sys

import pytest
from absl import flags

from keras_effv2 import cli
from keras_effv2.cli import app

TRAIN = "train --data=digits --workdir=w"
# command line, exit code, words of the message; {x} are files that `files` makes
ROWS = [
    ("", 2, "usage: effv2 COMMAND"),
    ("fly", 2, "there is no command 'fly'. Commands: models, predict"),
    ("predct", 2, "there is no command 'predct'. Commands: models,"),
    ("Train", 2, "Did you mean train?"),
    ("predit", 2, "Did you mean predict?"),
    ("--data=digits", 2, "there is no command '--data=digits'"),
    ("finetune finetune", 2, "'finetune' belongs to no flag"),
    ("models all", 2, "no model is called 'all'; models: EfficientNetV2B0"),
    ("doctor -x", 2, "Unknown command line flag 'x'"),
    ("models --json", 2, "Unknown command line flag 'json'"),
    ("models --noformat", 2, "Unknown command line flag 'noformat'"),
    ("models -- extra", 2, "no model is called 'extra'; models:"),
    # which model
    ("predict {photo} --model=b9", 2, "there is no model 'b9'; models: EfficientNetV2B0"),
    ("predict {photo} --model=EfficientNetV2B9", 2, "Did you mean EfficientNetV2B"),
    ("predict {photo} --model=EfficientNetB0", 2, "Did you mean EfficientNetV2B0?"),
    ("predict {photo} --model=CoAtNet9", 2, "Did you mean CoAtNet"),
    ("predict {photo} --model=resnet50", 2, "there is no model 'resnet50'; models:"),
    ("predict {photo} --model={empty}/none.json", 1, "There is no file"),
    ("predict {photo} --model={junk}", 1, "cannot be read as a variant"),
    ("predict {photo} --modle=B0", 2, "Unknown command line flag 'modle'. Did you mean: model"),
    ("predict {photo} --model=CoAtNet0", 2, "no weights of CoAtNet0 were ever released; give"),
    ("evaluate --model=CoAtNet7 --data=digits", 2, "no weights of CoAtNet7 were ever released"),
    ("export --model=coatnet-1 --output=o", 2, "no weights of CoAtNet1 were ever released"),
    ("finetune --model=B0! --data=digits --workdir=w --weights=x", 1, "has no weights 'x'"),
    ("train --model=nasnet --data=digits --workdir=w", 2, "there is no model 'nasnet'"),
    ("convert --model=vit --weights=imagenet --output=o.weights.h5", 2, "no model 'vit'"),
    ("benchmark --model=VGG16", 2, "there is no model 'VGG16'"),
    # which weights
    ("predict {photo} --weights=best", 1, "has no weights 'best'. Known tags: imagenet,"),
    ("predict {photo} --model=b0 --weights=imagenet1k", 1, "has no weights 'imagenet1k'. Known"),
    ("predict {photo} --model=XL --weights=imagenet", 1, "Known tags: imagenet21k, imagenet21k-"),
    ("predict {photo} --model=CoAtNet0 --weights=imagenet", 1, "No weights of CoAtNet0 were ever"),
    ("predict {photo} --weights=none.h5", 1, "There is no weights file none.h5. Check the path."),
    ("predict {photo} --weights=a/b", 1, "There is no weights file a/b."),
    ("predict {photo} --weights=", 2, "flag --weights=: a path is missing"),
    ("train --data=digits --workdir=w --weights=best", 1, "has no weights 'best'"),
    ("finetune --data=digits --workdir=w --weights=best", 1, "has no weights 'best'"),
    ("finetune --data=digits --workdir=w --weights=no.keras", 1, "no weights file no.keras"),
    ("evaluate --data=digits --weights=best", 1, "has no weights 'best'"),
    ("export --output=o --weights=best", 1, "has no weights 'best'"),
    ("convert --output=o.weights.h5 --weights=best", 1, "has no weights 'best'"),
    # which model file
    ("predict {photo} --model_file=no.keras", 1, "There is no model file no.keras."),
    ("predict {photo} --model_file=~/no.keras", 1, "/home/of/me/no.keras."),
    ("predict {photo} --model_file=$HOME/no.keras", 1, "/home/of/me/no.keras."),
    ("predict {photo} --model_file={junk}.keras", 1, "There is no model file"),
    ("predict {photo} --model_file={cut}", 1, "is no whole .keras file. It may be cut off"),
    ("predict {photo} --model_file={cut} --weights=x", 2, "has weights of its own"),
    (
        "predict {photo} --model_file={cut} --model=b1",
        2,
        "is a network of its own; leave out --model",
    ),
    ("evaluate --data=digits --model_file=no.keras", 1, "There is no model file no.keras."),
    ("evaluate --data=digits --model_file={cut}", 1, "is no whole .keras file"),
    ("evaluate --data=digits --model_file={cut} --weights=x", 2, "has weights of its own"),
    (
        "evaluate --data=digits --model_file={cut} --model=b1",
        2,
        "is a network of its own; leave out --model",
    ),
    ("export --output=o --model_file=no.keras", 1, "There is no model file no.keras."),
    ("export --output=o --model_file={cut}", 1, "is no whole .keras file"),
    ("export --output=o --model_file={cut} --weights=x", 2, "has weights of its own"),
    (
        "export --output=o --model_file={cut} --model=b1",
        2,
        "is a network of its own; leave out --model",
    ),
    ("convert --output=o.weights.h5 --model_file=no.keras", 1, "There is no model file no.keras."),
    ("convert --output=o.weights.h5 --model_file={cut}", 1, "is no whole .keras file"),
    ("convert --output=o.weights.h5 --model_file={cut} --weights=x", 2, "has weights of its own"),
    (
        "convert --output=o.weights.h5 --model_file={cut} --model=b1",
        2,
        "is a network of its own; leave out --model",
    ),
    ("train --data=digits --workdir=w --model_file=no.keras", 1, "There is no model file"),
    ("train --data=digits --workdir=w --model_file={cut}", 1, "is no whole .keras file"),
    ("train --data=digits --workdir=w --model_file={cut} --weights=x", 2, "weights of its own"),
    ("finetune --data=digits --workdir=w --model_file={cut}", 2, "Unknown command line flag"),
    # what is missing
    ("models EfficientNetV2B9", 2, "no model is called 'EfficientNetV2B9'. Did you mean Effi"),
    ("predict {photo} --csv={empty}", 2, "is a folder; give a file"),
    ("predict {photo} --csv=no/t.csv", 2, "--csv=no/t.csv lies in a folder that does not exist"),
    ("export --output={photo}", 1, "photo.jpg exists. Remove it, or choose another path."),
    ("predict {photo} --csv=", 2, "flag --csv=: a path is missing"),
    (
        "finetune --data=digits --workdir={nothing}",
        2,
        "nothing: it is a link to nothing; give a fol",
    ),
    ("predict {photo} --sort_into={photo}", 2, "photo.jpg: it is a file; give a folder"),
    ("predict", 2, "no pictures: give files, folders, globs, or - for a list on stdin"),
    ("predict --top=3", 2, "no pictures: give files"),
    ("predict {photo} --top", 2, "Missing value for flag --top"),
    ("predict no.jpg", 1, "no.jpg: No such file or directory."),
    ("predict no*.jpg", 1, "no*.jpg: No such file or directory."),
    ("predict ~/no.jpg", 1, "/home/of/me/no.jpg: No such file or directory."),
    ("train", 2, "--workdir is missing"),
    ("train --data=digits", 2, "--workdir is missing"),
    ("train --workdir=w", 2, "--data is missing: folder:PATH, csv:FILE, tfds:NAME, keras:"),
    ("train --preview=p.png", 2, "--data is missing"),
    ("train --data= --workdir=w", 2, "--data is missing"),
    ("finetune", 2, "--workdir is missing"),
    ("finetune --data=digits", 2, "--workdir is missing"),
    ("finetune --data=digits --workdir=w --class_weight=even", 2, "class_weight is auto, none"),
    ("finetune --workdir=w", 2, "--data is missing"),
    ("evaluate", 2, "--data is missing"),
    ("evaluate --weights=imagenet", 2, "--data is missing"),
    ("search --data=digits", 2, "--workdir is missing"),
    ("search --data=digits --workdir=w --space=huge", 2, "there is no space 'huge'; spaces: tiny,"),
    ("search --data=digits --workdir=w --space=no.json", 1, "There is no file no.json of a space"),
    ("search --data=digits --workdir=w --recipe.epochs=0", 2, "`epochs` of a recipe is in [1, "),
    ("search --data=digits --workdir=w --recipe.seed=5", 2, "--seed=5 in place of --recipe.seed"),
    ("search --data=digits --workdir=w --max_macs=nan", 2, "nan is not a finite number"),
    (
        "finetune --model=auto --data=digits --workdir=w",
        2,
        'The model "auto" is chosen by a time limit',
    ),
    ("predict --model=auto photo.jpg", 2, "there is no model 'auto'"),
    ("scale --model=b0", 2, "--step is missing: 0 to 8"),
    ("scale --model=CoAtNet0 --step=1", 2, "scaling rule is that of EfficientNets"),
    ("export", 2, "--output is missing"),
    ("publish --workdir=o", 2, "--to is missing"),
    ("publish --to=hf:a/b", 2, "--workdir is missing"),
    ("publish --workdir=o --to=a/b", 1, "A place to publish is such as hf:me/flowers or kaggle:"),
    ("convert", 2, "--weights (or --model_file) and --output are needed"),
    ("convert --weights=imagenet", 2, "and --output are needed"),
    ("convert --output=o.weights.h5", 2, "--weights (or --model_file) and"),
    (
        "convert --weights=imagenet --output=o.h5",
        2,
        "--output is a file *.weights.h5; received o.h5",
    ),
    # what does not go together
    ("export --output=o --quantize=int8", 2, "--quantize goes with --format=tflite; received"),
    ("export --output=o --format=onnx --quantize=int8", 2, "received --format=onnx"),
    ("export --output=o --format=saved_model --quantize=float16", 2, "received --format=saved"),
    ("export --output=o --force", 2, "--force goes with --format=tflite"),
    ("export --output=o --format=onnx --force", 2, "--force goes with --format=tflite"),
    ("export --output=o --images={empty}", 2, "--images goes with --format=saved_model or tflite"),
    (
        "export --output=o --nofold_batch_norm",
        2,
        "--fold_batch_norm goes with --format=saved_model",
    ),
    ("export --output=o --format=onnx --kind=feature_vector", 2, "--kind goes with --format=hub"),
    ("export --output=o --format=onnx --images=no", 2, "--images=no is no folder"),
    ("export --output=o --format=tflite --images={cut}", 2, "cut.keras is no folder"),
    ("finetune --data=digits --workdir=w --flip false", 2, "'false' belongs to no flag"),
    ("finetune --data=digits --workdir=w --hub no", 2, "'no' belongs to no flag"),
    ("evaluate --data=digits --strict yes", 2, "'yes' belongs to no flag"),
    # recipes and their fields
    (f"{TRAIN} --recipe=x", 2, "There is no recipe 'x'. Recipes: imagenet1k"),
    (f"{TRAIN} --recipe=", 2, "There is no recipe ''. Recipes: imagenet1k"),
    (f"{TRAIN} --recipe=jft", 2, "No recipe 'jft' was published for EfficientNetV2B0. Its"),
    (f"{TRAIN} --model=CoAtNet7", 2, "No recipe 'imagenet1k' was published for CoAtNet7"),
    (f"{TRAIN} --recipe.speed=1", 2, "has no field 'speed'; fields"),
    (f"{TRAIN} --recipe.learning_rat=1", 2, "Did you mean learning_rate?"),
    (f"{TRAIN} --recipe.=1", 2, "a recipe has no field ''"),
    (f"{TRAIN} --recipe.name=mine", 2, "a recipe has no field 'name'"),
    (f"{TRAIN} --recipe.phases=4", 2, "a recipe has no field 'phases'"),
    (f"{TRAIN} --recipe.epochs", 2, "--recipe.epochs is a int; received ''"),
    (f"{TRAIN} --recipe.epochs=many", 2, "--recipe.epochs is a int; received 'many'"),
    (f"{TRAIN} --recipe.epochs=1.5", 2, "--recipe.epochs is a int; received '1.5'"),
    (f"{TRAIN} --recipe.epochs=0", 2, "`epochs` of a recipe is in [1, "),
    (f"{TRAIN} --recipe.epochs=-3", 2, "`epochs` of a recipe is in [1, "),
    (f"{TRAIN} --recipe.batch_size=0", 2, "`batch_size` of a recipe is in [1, "),
    (f"{TRAIN} --recipe.batch_size=99999999", 2, "`batch_size` of a recipe is in [1, "),
    (f"{TRAIN} --recipe.learning_rate=nan", 2, "`learning_rate` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.learning_rate=inf", 2, "`learning_rate` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.learning_rate=-1", 2, "`learning_rate` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.learning_rate=0,1", 2, "--recipe.learning_rate is a float; received"),
    (f"{TRAIN} --recipe.optimizer=adam", 2, "one of rmsprop, adamw, sgd. Received: 'adam'"),
    (f"{TRAIN} --recipe.schedule=step", 2, "one of cosine, linear, staircase, constant"),
    (f"{TRAIN} --recipe.loss=hinge", 2, "one of softmax, sigmoid"),
    (f"{TRAIN} --recipe.precision=half", 2, "one of float32, mixed_bfloat16, mixed_float16"),
    (f"{TRAIN} --recipe.crop=centre", 2, "one of none, automl"),
    (f"{TRAIN} --recipe.flip=maybe", 2, "--recipe.flip is a bool; received 'maybe'"),
    (f"{TRAIN} --recipe.autoaugment=2", 2, "--recipe.autoaugment is a bool; received '2'"),
    (f"{TRAIN} --recipe.crop_area=1", 2, "--recipe.crop_area is a tuple; received '1'"),
    (f"{TRAIN} --recipe.crop_area=1,2,3", 2, "--recipe.crop_area is a tuple; received '1,2,3'"),
    (f"{TRAIN} --recipe.crop_area=a,b", 2, "--recipe.crop_area is a tuple; received 'a,b'"),
    (f"{TRAIN} --recipe.label_smoothing=1", 2, "`label_smoothing` of a recipe is in [0, 1)"),
    (f"{TRAIN} --recipe.ema=1", 2, "`ema` of a recipe is in [0, 1)"),
    (f"{TRAIN} --recipe.weight_decay=-1", 2, "`weight_decay` of a recipe is in [0, 10)"),
    (f"{TRAIN} --recipe.clip=-1", 2, "`clip` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.seed=-1", 2, "`seed` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.patience=-1", 2, "`patience` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.erasing=2", 2, "`erasing` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.cutout=2", 2, "`cutout` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.eval_size=-1", 2, "`eval_size` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.decay_rate=2", 2, "`decay_rate` of a recipe is in [0, "),
    (f"{TRAIN} --recipe.checkpoint_steps=x", 2, "--recipe.checkpoint_steps is a int"),
    (f"{TRAIN} --recipe_fields=x", 2, "Unknown command line flag 'recipe_fields'"),
    ("finetune --data=digits --workdir=w --recipe=x", 2, "Unknown command line flag 'recipe'"),
    ("finetune --data=digits --workdir=w --recipe.epochs=3", 2, "Unknown command line flag"),
    # phases
    (f"{TRAIN} --ramp.size=1", 2, "ramp has no argument 'size'"),
    (f"{TRAIN} --ramp.epochs=1", 2, "ramp has no argument 'epochs'"),
    (f"{TRAIN} --ramp.drop_out=1", 2, "Did you mean dropout?"),
    (f"{TRAIN} --ramp.phases=2,3", 2, "--ramp.phases is a whole number; received '2,3'"),
    (f"{TRAIN} --ramp.phases=0", 2, "cannot have 0 phases"),
    (f"{TRAIN} --ramp.phases=999", 2, "cannot have 999 phases"),
    (f"{TRAIN} --ramp.phases=", 2, "--ramp.phases is a whole number; received ''"),
    (f"{TRAIN} --ramp.image_size=large", 2, "is one number or FIRST,LAST; received 'large'"),
    (f"{TRAIN} --ramp.image_size=32,64,96", 2, "`image_size` is a pair (first, last)"),
    (f"{TRAIN} --ramp.image_size=0", 2, "`image_size` is a pair (first, last)"),
    (f"{TRAIN} --ramp.image_size=99999", 2, "`image_size` is a pair (first, last)"),
    (f"{TRAIN} --ramp.multiple_of=0", 2, "is 1 or more. Received: 0"),
    (f"{TRAIN} --ramp.multiple_of=a", 2, "--ramp.multiple_of is a whole number"),
    (f"{TRAIN} --ramp.dropout=0,2", 2, "`dropout` is a pair (first, last) of numbers in [0, 1)"),
    (f"{TRAIN} --ramp.dropout=nan", 2, "`dropout` is a pair (first, last) of numbers in [0, 1)"),
    (f"{TRAIN} --ramp.drop_path=-1", 2, "`drop_path` is a pair (first, last)"),
    (f"{TRAIN} --ramp.randaugment=0,40", 2, "`randaugment` is a pair (first, last)"),
    (f"{TRAIN} --ramp.mixup=,", 2, "--ramp.mixup is one number or FIRST,LAST; received ','"),
    (f"{TRAIN} --ramp.cutmix=x", 2, "--ramp.cutmix is one number or FIRST,LAST; received 'x'"),
    (f"{TRAIN} --ramp.batch_size=0", 2, "`batch_size` is a pair (first, last)"),
    # places
    ("train --data=digits --preview={empty}", 2, "is a folder; give a file"),
    ("train --data=digits --preview=no/p.png", 2, "lies in a folder that does not exist"),
    ("train --data=digits --workdir={photo}", 2, "photo.jpg: it is a file; give a folder"),
    ("finetune --data=digits --workdir={photo}", 2, "photo.jpg: it is a file; give a folder"),
    ("evaluate --data=digits --report_dir={photo}", 2, "it is a file; give a folder"),
    # numbers and lists
    (
        "convert --weights=imagenet --output=o.weights.h5 --top1=nan",
        2,
        "nan is not a finite number",
    ),
    (
        "convert --weights=imagenet --output=o.weights.h5 --top1=inf",
        2,
        "inf is not a finite number",
    ),
    ("convert --weights=imagenet --output=o.weights.h5 --top1=101", 2, "--top1=101"),
    ("convert --weights=imagenet --output=o.weights.h5 --top1=good", 2, "--top1=good"),
    ("benchmark --measure=", 2, "--measure names nothing; give some of train"),
    ("benchmark --measure=beauty", 1, "Unknown measure 'beauty'. Measures: train"),
    ("benchmark --measure=train,beauty", 1, "Unknown measure 'beauty'"),
    ("benchmark --peer=torch", 2, "--peer=torch"),
    # search, scale, layouts
    ("search", 2, "--workdir is missing"),
    ("search --workdir=w", 2, "--data is missing"),
    ("search --workdir=w --data=digits --recipe=best", 2, "There is no recipe 'best'"),
    ("search --workdir=w --data=digits --recipe.epochs=few", 2, "--recipe.epochs is a int"),
    ("search --workdir=w --data=digits --max_macs=0", 2, "--max_macs=0"),
    ("scale", 2, "--step is missing: 0 to 8"),
    ("scale --step=3 --from_step=4", 2, "`step` is at least `from_step`"),
    ("scale --step=3 --model=CoAtNet0", 2, "The scaling rule is that of EfficientNets"),
    ("scale --step=3 --output=x.txt", 1, "The file of a variant is called NAME.json"),
    ("layouts --data=digits", 2, "--workdir is missing"),
    ("layouts --data=digits --workdir=w --fractions=all", 2, "--fractions are numbers"),
    ("layouts --data=digits --workdir=w --names=TTTT", 2, "A layout is ViT_REL, or C and T"),
    ("layouts --data=digits --workdir=w --base=CoAtNet6", 2, "a CoAtNet of four stages"),
    ("layouts --data=digits --workdir=w --base=none.json", 1, "There is no file none.json"),
]


def flag_rows():
    """Bad values of every flag of every command, by its kind."""
    bad = {
        flags.IntegerParser: ("x", "1.5", "", "99999999999999999999"),
        flags.BooleanParser: ("maybe", ""),
        flags.EnumParser: ("X", ""),
    }
    for name in cli.COMMANDS:
        values = flags.FlagValues()
        app.load(name).define(values)
        for key in sorted(values):
            parser = values[key].parser
            kind = next((kind for kind in bad if isinstance(parser, kind)), None)
            texts = list(bad.get(kind, ()))
            if getattr(parser, "lower_bound", None) is not None:
                texts.append(str(parser.lower_bound - 1))
            if getattr(parser, "upper_bound", None) is not None:
                texts.append(str(parser.upper_bound + 1))
            if getattr(parser, "local", False):
                texts += ["gs://bucket/x", "s3://bucket/x", ""]
            for text in texts:
                bounded = isinstance(parser, flags.IntegerParser) and parser.upper_bound is not None
                if text.startswith("9999") and not bounded:
                    continue
                yield f"{name} --{key}={text}", 2, f"--{key}={text}"


TABLE = [*ROWS, *flag_rows()]


def run_all(folder):
    """Runs the table where nothing imports Keras; prints the results as JSON."""
    import contextlib
    import io
    import os

    folder = pathlib.Path(folder)
    (folder / "empty").mkdir()
    (folder / "junk.json").write_text("{")
    (folder / "cut.keras").write_bytes(b"PK\3\4" + b"\0" * 99)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "nothing").symlink_to(folder / "nowhere")
    places = {
        "nothing": folder / "nothing",
        "photo": folder / "photo.jpg",
        "empty": folder / "empty",
        "junk": folder / "junk.json",
        "cut": folder / "cut.keras",
    }
    os.environ["HOME"] = "/home/of/me"
    os.chdir(folder / "empty")
    results = {}
    for line, *_ in TABLE:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(shlex.split(line.format(**places)))
        heavy = [name for name in ("keras", "tensorflow") if name in sys.modules]
        left = os.listdir() + [name for name in os.listdir("..") if name == "w"]
        results[line] = [code, out.getvalue(), err.getvalue(), heavy, left]
    print(json.dumps(results))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    code = f"import test_cli_misuse as t; t.run_all({str(tmp_path_factory.mktemp('misuse'))!r})"
    tests = pathlib.Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_there_are_enough_rows_and_none_twice():
    assert len({line for line, *_ in TABLE}) == len(TABLE) >= 200
    assert {line.split()[0] for line, *_ in TABLE if line} >= set(cli.COMMANDS)


@pytest.mark.parametrize(("line", "code", "words"), TABLE, ids=[row[0] or "-" for row in TABLE])
def test_misuse_gets_a_sentence(line, code, words, results):
    got, out, err, heavy, left = results[line]
    assert got == code, err
    assert words in (err or out)
    assert not heavy and not left
    if line:
        assert "Traceback" not in err and len(err.splitlines()) == 1 and not out
        assert err.startswith("effv2") and err.rstrip().endswith((".", "?"))
