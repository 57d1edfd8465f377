"""Paths in stores: the same as local ones, and what a store lacks is made good."""

import io
import json
import pathlib
import shutil
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import train_tiny
from conftest import dense, tiny_data
from PIL import Image

import keras_effv2 as kev
from keras_effv2 import cli, files, model_files, stores, training, weights
from keras_effv2.training import checkpoints
from keras_effv2.training.unseen import learnt_from
from keras_effv2.weights import loading

pytestmark = pytest.mark.usefixtures("stores_without_rename")


@pytest.fixture(params=["local", "store"])
def folder(request, tmp_path):
    return tmp_path / "new" if request.param == "local" else stores.Stored(f"ram://{tmp_path}/new")


def test_paths_of_a_store_do_what_local_ones_do(folder):
    assert not folder.exists() and not list(folder.glob("*"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "below").mkdir()
    files.write_whole(folder / "below.more", "")
    assert not list((folder / "below").iterdir())
    files.write_whole(folder / "b.txt", "b\n")
    files.write_whole(folder / ".a", b"\x00")
    files.write_whole(folder / "empty", "")
    with files.replacing(folder / "c.txt") as temporary:
        temporary.write_text("c")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".a",
        "b.txt",
        "below",
        "below.more",
        "c.txt",
        "empty",
    ]
    assert sorted(path.name for path in folder.glob("*.txt")) == ["b.txt", "c.txt"]
    assert (folder / "b.txt").read_text(encoding="utf-8") == "b\n"
    assert (folder / ".a").read_bytes() == b"\x00"
    assert folder.is_dir() and not folder.is_file() and (folder / ".a").is_file()
    path = folder / "step-7.ckpt"
    assert (path.name, path.stem, path.suffix, path.parent) == (
        "step-7.ckpt",
        "step-7",
        ".ckpt",
        folder,
    )
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    with pytest.raises(FileNotFoundError):
        path.unlink()
    path.unlink(missing_ok=True)
    with files.fetched(folder) as copy:
        assert (copy / "b.txt").read_text() == "b\n" and (copy / "below").is_dir()
    files.remove_tree(folder)
    assert not folder.exists()
    files.remove_tree(folder)


def test_a_store_is_never_taken_for_a_local_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError):
        pathlib.Path(stores.Stored("gs://bucket/run"))
    with pytest.raises(ValueError, match="The run looks like an address with one slash: gs:/b/run"):
        files.place(pathlib.Path("gs://b/run"), "The run")
    with pytest.raises(
        ValueError, match=r"\(gs://, ram://\). Received: s3://b/run. Mount the s3://"
    ):
        files.place("s3://b/run", "The run")
    assert files.place("gs://b//run/", "The run") == stores.Stored("gs://b/run")
    assert files.place("runs/s", "The run") == pathlib.Path("runs/s")
    assert not list(tmp_path.iterdir())


class Killed(BaseException):
    """The process has died."""


class Breaking:
    """TensorFlow's functions for files, whose n-th write stops half-way.

    Args:
        count: Which write.
        error: What is raised then; after `Killed` nothing else is done.
    """

    def __init__(self, count, error):
        self.count, self.error, self.dead, self.writes = count, error, False, 0

    def __getattr__(self, name):
        if self.dead:
            raise Killed
        return getattr(tf.io.gfile, name)

    def GFile(self, path, mode):  # noqa: N802
        file = self.__getattr__("GFile")(path, mode)
        if mode != "wb":
            return file
        self.writes += 1
        return Half(self, file) if self.writes == self.count else file


class Half:
    """A file that keeps half of what it is given and says so when it is closed, or never."""

    def __init__(self, store, file):
        self.store, self.file, self.content = store, file, b""

    def __enter__(self):
        return self

    def write(self, content):
        self.content += content

    def __exit__(self, *_):
        self.file.write(self.content[: len(self.content) // 2])
        self.file.close()
        if self.store.error is Killed:
            self.store.dead = True
            raise Killed
        if self.store.error:
            raise self.store.error


def train(workdir):
    return training.train(
        lambda: dense(4), tiny_data(), train_tiny.PLAINEST, str(workdir), progress=False
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run leaves on this machine."""
    folder = tmp_path_factory.mktemp("run")
    train(folder)
    return folder


def names(folder):
    """All files below a folder but those of TensorBoard, and the manifests of a store."""
    return {
        f"{path.parent.name}/{path.name}" if path.parent != folder else path.name
        for path in (*folder.iterdir(), *(folder / "checkpoints").iterdir())
        if not path.is_dir() and path.suffix != ".sha256" and path.name != ".lock"
    }


def assert_as(undisturbed, folder):
    assert names(folder) == names(undisturbed)
    found, wanted = (checkpoints.load_newest(f / "checkpoints") for f in (folder, undisturbed))
    assert found[1]["step"] == wanted[1]["step"]
    assert set(found[0]) == set(wanted[0])
    for name, array in wanted[0].items():
        np.testing.assert_array_equal(found[0][name], array, err_msg=name)
    with files.fetched(folder / "model.keras") as own:
        assert tf.keras.models.load_model(own).count_params()


# writes: 1 owner, 2 recipe, 3 metrics, 4 checkpoint, 5 manifest, 6 metrics, 7 checkpoint,
# 8 manifest, 9 model, 10 labels, 11 summary, 12 curves
@pytest.mark.parametrize("count", [None, 4, 5, 9, 11])
def test_a_run_in_a_store_that_is_killed_goes_on(count, undisturbed, tmp_path, monkeypatch):
    workdir = stores.Stored(f"ram://{tmp_path}/run")
    if count:
        store = Breaking(count, Killed)
        with monkeypatch.context() as patch:
            patch.setattr(stores, "_gfile", lambda: store)
            with pytest.raises(Killed):
                train(workdir)
        with pytest.raises(RuntimeError, match=r"in use: Process \d+ on .* If it has died, run th"):
            train(workdir)
        monkeypatch.setattr(stores, "STALE", 0)
    result = train(workdir)
    assert result.resumed_from == {9: 12, 11: 12}.get(count, 0)
    assert_as(undisturbed, workdir)


@pytest.mark.parametrize("error", [tf.errors.UnavailableError(None, None, "gone"), None])
def test_a_store_that_breaks_in_a_write_is_named(error, undisturbed, tmp_path, monkeypatch):
    """Whether it says so, or keeps half and says nothing; the same command goes on."""
    workdir, store = stores.Stored(f"ram://{tmp_path}/run"), Breaking(7, error)
    with monkeypatch.context() as patch:
        patch.setattr(stores, "_gfile", lambda: store)
        with pytest.raises(OSError, match="gone|reads differently") as raised:
            train(workdir)
    assert raised.value.filename == str(workdir / "checkpoints" / "step-000000012.ckpt")
    assert train(workdir).resumed_from == 6
    assert_as(undisturbed, workdir)


def test_a_run_that_slept_while_another_took_over_writes_nothing_more(tmp_path, monkeypatch):
    workdir = stores.Stored(f"ram://{tmp_path}/run")
    with checkpoints.locked(workdir):
        checkpoints.save(workdir / "checkpoints", 1, {}, {"step": 1})
        with monkeypatch.context() as patch:
            patch.setattr(stores, "_PROCESS", "another")
            stores._beat(workdir / checkpoints.OWNER)
        with pytest.raises(BlockingIOError, match="has taken"):
            checkpoints.save(workdir / "checkpoints", 2, {}, {"step": 2})
    assert checkpoints.load_newest(workdir / "checkpoints")[1] == {"step": 1}
    assert (workdir / checkpoints.OWNER).exists(), "it is the other's"


def test_an_owner_says_that_it_is_alive(tmp_path, monkeypatch):
    path = stores.Stored(f"ram://{tmp_path}/owner")
    monkeypatch.setattr(stores, "BEAT", 0.01)
    with stores.owned(path):
        until, beats = time.time() + 5, set()
        while len(beats) < 3 and time.time() < until:
            owner = stores._owner(path)  # None while memory, unlike a bucket, has half a file
            beats |= {owner["beat"]} if owner else set()
        assert len(beats) == 3
    assert not path.exists()


@pytest.fixture(scope="module")
def here(undisturbed, tmp_path_factory):
    """A finished run, and what was made of it."""
    folder = tmp_path_factory.mktemp("made") / "run"
    shutil.copytree(undisturbed, folder)
    model = keras.models.load_model(folder / "model.keras")
    model.save_weights(folder / "w.weights.h5")
    kev.export(model, folder / "tflite" / "m.tflite", format="tflite")
    kev.export(model, folder / "saved")
    return folder


@pytest.fixture(scope="module")
def there(here):
    """The same in a store."""
    store = stores.Stored(f"ram://{here}")
    store.send(here)
    return store


def tree(path):
    """Path below -> content of all files."""
    if not path.is_dir():
        return {"": path.read_bytes()}
    return {f"{p.name}/{key}": found for p in path.iterdir() for key, found in tree(p).items()}


@pytest.mark.parametrize("name", ["saved", "tflite/m.tflite"])
@pytest.mark.parametrize("error", [tf.errors.UnavailableError(None, None, "gone"), None, Killed])
def test_an_export_that_a_store_breaks_off(name, error, here, tmp_path, monkeypatch):
    """At every write: nothing looks whole, and the same export is made again."""

    def export(place):
        with files.in_place(place) as made:
            shutil.copytree(here / name, made) if (here / name).is_dir() else shutil.copyfile(
                here / name, made
            )

    writes = len(tree(here / name))
    for count in range(1, writes + 1):
        place, store = stores.Stored(f"ram://{tmp_path}/{count}/{name}"), Breaking(count, error)
        with monkeypatch.context() as patch:
            patch.setattr(stores, "_gfile", lambda: store)  # noqa: B023
            with pytest.raises(Killed if error is Killed else OSError):
                export(place)
        if error is Killed:
            assert tree(place) != tree(here / name)
            assert (place / "saved_model.pb").exists() == (name == "saved" and count == writes)
            with pytest.raises(FileExistsError, match="exists. Remove it, or choose another path"):
                export(place)
            files.remove_tree(place) if place.is_dir() else place.unlink()
        assert not place.exists()
        export(place)
        assert tree(place) == tree(here / name)
    assert store.writes == writes


@pytest.mark.parametrize("name", ["", "model.keras", "tflite", "tflite/m.tflite", "saved"])
def test_models_are_opened_where_they_are(name, here, there):
    """What a store gives is what the same file gives here; the copy is gone when it is used."""
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    ours, theirs = (model_files.load_model(f"{f}/{name}").predict(images) for f in (here, there))
    np.testing.assert_array_equal(theirs, ours)
    assert learnt_from(f"{there}/{name}") == learnt_from(here / name)
    assert model_files.is_saved_model(f"{there}/{name}") == (name == "saved")


@pytest.mark.parametrize("name", ["model.keras", "w.weights.h5"])
def test_weights_are_read_where_they_are(name, here, there):
    ours, theirs = (weights.open_checkpoint("X", f"{f}/{name}") for f in (here, there))
    assert theirs.origin == f"{there}/{name}"
    assert set(theirs.tensors) == set(ours.tensors)
    for key, array in ours.tensors.items():
        np.testing.assert_array_equal(theirs.tensors[key], array)
    with pytest.raises(FileNotFoundError, match="There is no weights file ram://nowhere/x.h5"):
        loading.check_weights("EfficientNetV2B0", "ram://nowhere/x.h5")


def test_the_commands_take_addresses(there, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos = stores.Stored(f"ram://{tmp_path}/photos")
    for i, picture in enumerate(tiny_data().train.pictures[:2]):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        (photos / f"{i}.png").write_bytes(buffer.getvalue())
    said = {}
    for what in (f"{photos}", f"{photos}/*.png", f"{photos}/0.png {photos}/1.png"):
        command = ["predict", *what.split(), f"--model_file={there}", "--format=json"]
        assert cli.main([*command, f"--csv={photos}/said/table.csv"]) == 0
        said[what] = json.loads(capsys.readouterr().out)
    assert len({json.dumps(one) for one in said.values()}) == 1
    assert f"{photos}/1.png" in (photos / "said" / "table.csv").read_text()
    row = f"{photos}/row.json"
    assert cli.main(["scale", "--model=EfficientNetV2B0", "--step=1", f"--output={row}"]) == 0
    assert kev.load_variant(row).image_size > 224
    assert not list(tmp_path.iterdir())
