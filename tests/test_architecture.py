"""The arrows of CONTRIBUTING.md, and what a stranger may expect of every public name."""

import ast
import doctest
import graphlib
import inspect
import pathlib
import subprocess
import sys
import tomllib

import pytest

import keras_effv2

PACKAGE = pathlib.Path(keras_effv2.__file__).parent
# rooms from the ground up: a room may import those below it, anywhere in its code
ROOMS = (
    {"version", "arguments", "errors", "needs", "processor", "registration", "chatter"},
    {"stores"},
    {"files", "phases", "quiet"},
    {"photos"},
    {"variants"},
    {"space"},
    {"layers"},
    {"graph", "model_files", "timing"},
    {"weights", "imagenet", "augment", "optimizers", "rematerialization"},
    {"models"},
    {"recipes"},
    {"data"},
    {"progressive"},
    {"hub"},
    {"training"},
    {"evaluation", "exporting"},
    {"finetuning", "benchmark", "doctor"},
    {"searching"},
    {"__init__"},
    {"demo", "cli"},
    {"__main__"},
)
# arrows that have to go: the list is empty at the end
UPWARD: set[str] = set()
FILE, CLASS, FUNCTION = 370, 150, 60
TABLES = {"augment", "recipes"}  # a list of operations, and of recipes with their sources
# what has to become shorter: the list is empty at the end
TOO_LONG: set[str] = set()
UNTYPED: set[str] = set()
# these know a keras.Model, whoever built it
STRANGERS_TO_BUILDERS = {
    "exporting",
    "hub",
    "evaluation",
    "training",
    "augment",
    "data",
    "layers",
    "graph",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts)
        yield name.removesuffix(".__init__") if len(parts) > 1 else name, path


def imports(path, everywhere=True):
    """Names of the package's modules that a file imports, and of others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path):
    """The package's modules that a file imports, within functions too."""
    names = {name for name, _ in modules()}
    for found in imports(path):
        if not found.startswith("keras_effv2"):
            continue
        found = found.removeprefix("keras_effv2").removeprefix(".")
        while found and found not in names:
            found = found.rpartition(".")[0]
        yield found or "__init__"


def room(name):
    return name.partition(".")[0]


def test_arrows_go_one_way():
    rank = {name: i for i, rooms in enumerate(ROOMS) for name in rooms}
    assert set(rank) == {room(name) for name, _ in modules()}
    upward = [
        f"{name} imports {other}"
        for name, path in modules()
        for other in own(path)
        if room(other) != room(name) and rank[room(other)] >= rank[room(name)]
    ]
    assert set(upward) <= UPWARD


def test_no_room_goes_round_in_circles():
    inside = {
        name: {other for other in own(path) if room(other) == room(name)} - {name}
        for name, path in modules()
    }
    graphlib.TopologicalSorter(inside).prepare()  # raises CycleError


def sizes():
    """Lines of every file, class and function that is longer than a page should be."""
    for name, path in modules():
        text = path.read_text(encoding="utf-8")
        if (length := len(text.splitlines())) > FILE and name not in TABLES:
            yield name, length
        for node in ast.walk(ast.parse(text)):
            limit = {ast.ClassDef: CLASS, ast.FunctionDef: FUNCTION}.get(type(node))
            if limit and (length := node.end_lineno - node.lineno + 1 - of_docstring(node)) > limit:
                yield f"{name}.{node.name}", length


def of_docstring(node):
    """Lines of a docstring: what is written for the user is not counted."""
    first = node.body[0]
    said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first.end_lineno - first.lineno + 1 if said else 0


def test_pages_are_short():
    assert {name for name, _ in sizes()} <= TOO_LONG


def test_packages_are_listed():
    """A wheel without one of them imports from the checkout and fails elsewhere."""
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    listed = set(tomllib.loads(text)["tool"]["setuptools"]["packages"])
    folders = {path.parent for path in PACKAGE.rglob("*") if path.suffix in (".py", ".gz")}
    assert listed == {".".join(f.relative_to(PACKAGE.parent).parts) for f in folders}


def test_who_does_not_know_the_builders():
    for name, path in modules():
        if room(name) in STRANGERS_TO_BUILDERS:
            assert not [m for m in own(path) if m.startswith("models")], name


def test_no_private_keras_and_no_drawer_for_everything():
    for name, path in modules():
        assert not [found for found in imports(path) if found.startswith("keras.src")], name
        assert not any(word in name for word in ("util", "helper", "common", "misc"))


# who asks TensorFlow for files of a store, beside `stores`
ASKING = {
    "data": "lists folders and reads parts of files, of a million and by threads",
    "model_files": "the labels of a SavedModel, by the path that TensorFlow gives",
}


def test_stores_are_reached_through_one_page():
    asking = {name for name, path in modules() if "gfile" in path.read_text(encoding="utf-8")}
    assert {room(name) for name in asking - {"stores"}} <= set(ASKING)


# who opens, makes, moves or removes what lies on a disk, beside `files` and `stores`
OPENING = {
    "cli.app": "the null device, for streams that are closed or whose reader has gone",
    "data.cars": "unpacks Stanford Cars beside its archive, local by a check of its own",
    "data.elsewhere": "the cache of `datasets`",
    "data.walking": "lists folders, local ones apart, by threads",
    "doctor": "how full the disk of our own cache is",
    "exporting.publishing": "what is sent, in a temporary folder, out of a copy of the run",
    "hub": "a SavedModel that is here, as it is or copied out of a store",
    "model_files.runtimes": "an export that is here, as it is or copied out of a store",
    "processor": "a file of the system's",
    "quiet": "the terminal",
    "searching.processes": "appends to the logs of a search, whose workdir is local by a check",
    "timing": "a file of the system's",
    "training.checkpoints": "the temporary file that `files.replacing` gives",
    "weights.download": "our own cache",
    "weights.loading": "how full the disk of the temporary file that `files.replacing` gives is",
    "weights.timm": "the same",
}
SYSTEM = {"listdir", "makedirs", "mkdir", "open", "remove", "removedirs", "rename", "renames"}
SYSTEM |= {"replace", "rmdir", "scandir", "stat", "unlink", "walk", "link", "symlink", "truncate"}


def openings(path):
    """Lines that call Python's functions for files by themselves."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            if called == "open" or owner == "shutil" or owner == "os" and name in SYSTEM:
                yield node.lineno


# who makes a local path out of a text; others are given one, or ask `files.place`
MAKING = {
    "cli.benchmark": "the checkout that the package lies in",
    "exporting.publishing": "a temporary folder",
    "hub": "a SavedModel that is here",
    "quiet": "the package's own folder",
    "searching.engine": "of a search, whose workdir is local by a check",
    "searching.pruning": "the same",
    "searching.records": "the same",
    "searching.runner": "the same",
    "searching.trial": "the same",
    "weights.download": "our own cache",
    "weights.handles": "caches of others",
    "weights.hugging_face": "caches of others",
    "weights.readers": "checkpoints that are here",
}


def test_users_paths_are_opened_through_one_page():
    """What `files` gives writes whole files and knows stores; nothing goes past it."""
    elsewhere = [(name, path) for name, path in modules() if name not in ("files", "stores")]
    assert {name for name, path in elsewhere if list(openings(path))} == set(OPENING)
    making = {name for name, path in elsewhere if "pathlib.Path(" in path.read_text("utf-8")}
    assert making == set(MAKING)
    for name, path in elsewhere:
        classes = {found for found in imports(path) if found.startswith(("pathlib.", "os.path."))}
        assert not classes and not {"glob.glob", "shutil.rmtree"} & set(imports(path)), name
        assert not any(found.startswith(("os.", "shutil.")) for found in imports(path)), name


def test_openings_are_found(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(
        "open(a)\nfiles.open_regular(a)\nos.replace(a, b)\nshutil.rmtree(a)\nx.open()\n"
    )
    assert list(openings(page)) == [1, 3, 4]


def test_import_is_light():
    """Nothing comes that most users do not need; no name is left without its module."""
    code = (
        "import sys, keras_effv2; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules); "
        "import keras; before = set(sys.modules); [getattr(keras_effv2, name) for name in "
        "('layers', 'optimizers', 'EfficientNetV2S', 'CoAtNet0', 'ramp', 'ProgressiveLearning')]; "
        "heavy = {'tensorflow_hub', 'tensorflow_datasets', 'tf_keras', 'tf2onnx'}; "
        "found = heavy & (set(sys.modules) - before); assert not found, found; "
        "[getattr(keras_effv2, name) for name in keras_effv2.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def public():
    for name in keras_effv2.__all__:
        value = getattr(keras_effv2, name)
        if inspect.ismodule(value):
            for key, inner in vars(value).items():
                mine = getattr(inner, "__module__", "") == value.__name__
                if mine and not key.startswith("_") and callable(inner):
                    yield f"{name}.{key}", inner
        elif callable(value):
            yield name, value


@pytest.mark.parametrize(("name", "value"), [pytest.param(*item, id=item[0]) for item in public()])
def test_public_names_are_documented(name, value):
    text = inspect.getdoc(value)
    assert text and text.splitlines()[0].endswith((".", ":")), name
    if inspect.isfunction(value):
        missing = [
            parameter
            for parameter in inspect.signature(value).parameters
            if f"{parameter}:" not in text
            and f"`{parameter}`" not in text
            and parameter != "kwargs"
        ]
        assert not missing or "Args:" not in text, f"{name} leaves out {missing}"


def without_types(value):
    """Whether a public function, or what makes an object of a class, lacks types."""
    function = value.__init__ if inspect.isclass(value) else value
    signature = inspect.signature(function)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    open_ = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
        and parameter.kind not in kinds
    ]
    returns = inspect.isclass(value) or signature.return_annotation is not signature.empty
    return bool(open_) or not returns


def test_public_names_have_types():
    """What an editor shows and `make check` verifies."""
    listed = {"data.load", "data.Split", "recipes.get", "efficientnet_v2.build", "coatnet.build"}
    said = [(name, value) for name, value in public() if "." not in name or name in listed]
    assert {name for name, value in said if without_types(value)} <= UNTYPED


@pytest.mark.parametrize("name", [name for name, _ in modules() if name != "__main__"])
def test_examples_in_docstrings(name):
    __import__(f"keras_effv2.{name}" if name != "__init__" else "keras_effv2")
    module = sys.modules[f"keras_effv2.{name}" if name != "__init__" else "keras_effv2"]
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "CoAtNet0"])
def test_the_builders_example(name):
    """One text for all sixteen; doctest passes over functions that another module made."""
    builder = getattr(keras_effv2, name)
    example = doctest.DocTestParser().get_doctest(builder.__doc__, {name: builder}, name, None, 0)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0
