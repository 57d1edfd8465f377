"""What is declared as necessary is enough to build networks; what is missed is named, with its command."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from keras_effv2 import needs

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def plain(name):
    return re.sub("[-_.]+", "-", name).lower()


def closure(texts):
    """Names of the distributions that requirements bring, with all that those require."""
    found, asked = set(), [Requirement(text) for text in texts]
    while asked:
        wanted = asked.pop()
        if plain(wanted.name) in found or (wanted.marker and not wanted.marker.evaluate()):
            continue
        found.add(plain(wanted.name))
        try:
            asked += map(Requirement, importlib.metadata.requires(wanted.name) or ())
        except importlib.metadata.PackageNotFoundError:  # of another system
            continue
    return found


CHECK = """
import importlib.abc, re, sys
HIDDEN = set(sys.argv[1].split(","))

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
import numpy as np
import keras_effv2 as kev
from keras_effv2 import cli

missing = set()
for name in kev.__all__:
    try:
        getattr(kev, name)
    except ImportError as error:
        assert re.fullmatch(r"[\\w. -]+ needs (\\w+): pip install 'keras_effv2\\[train\\]'\\.", str(error)), error
        missing.add(name)
wanted = {"HubLayer", "augment", "data", "evaluate", "export", "export_hub", "finetune", "freeze",
          "gradcam", "layouts", "publish", "search", "train", "unseen"}
assert missing == wanted, missing ^ wanted
for room in ("data", "training", "finetuning", "evaluation", "exporting", "hub", "augment", "rematerialization"):
    try:
        __import__(f"keras_effv2.{room}")
    except ImportError as error:
        assert "pip install 'keras_effv2[train]'" in str(error), error
model = kev.EfficientNetV2B0(weights=None, classes=10)
assert model.count_params() == 5_932_122
image = np.zeros((1, 32, 32, 3), "float32")
assert model.predict(image, verbose=0).shape == (1, 10)
assert kev.ramp(4, 2, image_size=(32, 64))[-1].image_size == 64
assert cli.main(["models"]) == 0 and cli.main(["evaluate", "--data=digits", "--model=b0"]) != 0
"""


def test_what_is_necessary_is_enough():
    """Every other package that is installed is hidden; Keras runs on JAX, as TensorFlow is absent."""
    necessary = closure([*PROJECT["dependencies"], "jax"])
    hidden = {
        name
        for name, distributions in importlib.metadata.packages_distributions().items()
        if not {plain(d) for d in distributions} & (necessary | {"keras-effv2"})
    }
    assert {"tensorflow", "sklearn", "matplotlib", "huggingface_hub", "safetensors"} <= hidden
    environment = {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, ",".join(hidden)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "backend, extra, code, what",
    [
        ("tensorflow", "train", "kev.EfficientNetV2B0", "keras_effv2.EfficientNetV2B0"),
        ("jax", "jax", "kev.EfficientNetV2B0", "keras_effv2.EfficientNetV2B0"),
        ("tensorflow", "train", "print(doctor._backend())", "Keras"),
    ],
)
def test_keras_without_a_backend_is_told_what_to_do(backend, extra, code, what):
    done = without_backends(backend, code)
    said = done.stderr.splitlines()[-1] if done.stderr else done.stdout
    assert (
        f"{what} needs {backend}: pip install 'keras_effv2[{extra}]', or set KERAS_BACKEND to a "
        "backend that is installed."
    ) in said


@pytest.mark.parametrize(
    "code, said",
    [
        ("import keras", "ModuleNotFoundError: "),  # Keras' own word
        ("kev.data", "ImportError: Data needs tensorflow: pip install 'keras_effv2[train]'."),
        (
            "sys.exit(cli.main(['benchmark', '--model=b0']))",
            "effv2 benchmark: This command needs tensorflow: pip install 'keras_effv2[train]'.",
        ),
    ],
)
def test_what_needs_tensorflow_offers_no_other_backend(code, said):
    assert without_backends("tensorflow", code).stderr.splitlines()[-1].startswith(said)


def without_backends(name, code):
    """A process in which Keras wants a backend and none can be imported."""
    hidden = "import sys; sys.modules |= dict.fromkeys(('jax', 'tensorflow')); "
    imports = "import keras_effv2 as kev; from keras_effv2 import cli, doctor; "
    environment = {"KERAS_BACKEND": name, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", hidden + imports + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_every_library_has_its_extra():
    """The table is pyproject's: what an extra brings, directly or not, is named with it."""
    distributions = importlib.metadata.packages_distributions()
    for library, extra in needs.EXTRAS.items():
        brought = closure(EXTRAS[extra])
        assert {plain(name) for name in distributions[library]} & brought, (library, extra)
        assert not {plain(name) for name in distributions[library]} & closure(
            PROJECT["dependencies"]
        )
    assert set(EXTRAS["all"][0].split("[")[1].strip("]").split(",")) == {*EXTRAS} - {
        "tensorflow",
        "all",
        "dev",
        "docs",
        "jax",
    }


def test_other_errors_of_imports_are_left_alone():
    with pytest.raises(ModuleNotFoundError, match="no_such"):
        with needs.naming("It"):
            import no_such  # noqa: F401
    with pytest.raises(ImportError, match=r"It needs kagglehub: .*\[publish\]'\.$"):
        with needs.naming("It", extra="publish"):
            raise ModuleNotFoundError("-", name="kagglehub.models")
