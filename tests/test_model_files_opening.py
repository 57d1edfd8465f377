"""Every format opens as a model that says what the .keras file says: scores, names, thresholds."""

import json
import pathlib
import shutil
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_convnet, tiny_data
from flatbuffers import number_types
from PIL import Image
from scipy.special import softmax
from tensorflow.lite.python import schema_py_generated as schema

from keras_effv2 import cli, evaluation, exporting, graph, imagenet, layers, model_files, weights
from keras_effv2.model_files import runtimes

NAMES = ("red", "green", "blue", "grey")
FORMATS = ("hub", "saved_model", "tflite", "onnx")


def told(model, **contract):
    for key, value in contract.items():
        setattr(layers.find_pixels(model), key, value)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network of four colours in every format: name -> path; and the network."""
    folder = tmp_path_factory.mktemp("exported")
    keras.utils.set_random_seed(0)
    model = told(
        build_convnet(), image_size=48, crop="automl", class_names=NAMES, unknown_below=0.26
    )
    head = model.get_layer("predictions")
    head.set_weights([20 * head.kernel.numpy(), head.bias.numpy()])  # else all is as likely
    paths = {name: folder / f"m.{name}" for name in FORMATS}
    exporting.export_hub(model, paths["hub"])
    for name in FORMATS[1:]:
        exporting.export(model, paths[name], name)
    paths["keras"] = folder / "m.keras"
    model.save(paths["keras"])
    return paths, model


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_says_what_the_model_says(name, exported):
    paths, model = exported
    opened = model_files.load_model(paths[name])
    ours, theirs = layers.find_pixels(model).contract(), layers.find_pixels(opened).contract()
    keys = ("class_names", "image_size", "crop", "resize", "activation", "unknown_below")
    assert {key: theirs[key] for key in keys} == {key: ours[key] for key in keys}
    images = np.random.default_rng(0).uniform(0, 255, (3, 48, 48, 3)).astype("float32")
    wanted = model.predict(images, verbose=0)
    np.testing.assert_allclose(evaluation.probabilities(opened)(images), wanted, atol=1e-4)
    assert graph.activation_of(opened) == "softmax" and imagenet.class_names(opened) == [*NAMES]


def test_the_commands_take_every_format(exported, tmp_path, capsys):
    """The same classes, verdicts and numbers, but for rounding."""
    paths, _ = exported
    for i, (picture, label) in enumerate(zip(tiny_data().validation.pictures, np.arange(10) % 4)):
        (tmp_path / "photos" / NAMES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "photos" / NAMES[label] / f"{i}.png")
    said, numbers = {}, {}
    for name, path in paths.items():
        flag = [f"--model_file={path}", "--format=json"]
        assert cli.main(["predict", str(tmp_path / "photos"), *flag]) == 0
        said[name] = json.loads(capsys.readouterr().out)
        data = f"--data={tmp_path}/photos"
        report = [f"--report_dir={tmp_path}/{name}"] if name == "tflite" else []
        assert cli.main(["evaluate", data, *flag, *report]) == 0
        numbers[name] = json.loads(capsys.readouterr().out)
    for name in FORMATS:
        for one, other in zip(said[name], said["keras"], strict=True):
            assert (one["file"], one["said"]) == (other["file"], other["said"])
            assert [c["name"] for c in one["classes"]] == [c["name"] for c in other["classes"]]
            scores = [[c["score"] for c in row["classes"]] for row in (one, other)]
            np.testing.assert_allclose(*scores, atol=1e-4)
        assert numbers[name]["top1"] == numbers["keras"]["top1"]
        assert numbers[name]["rejection"]["rejected"] == numbers["keras"]["rejection"]["rejected"]
    page = (tmp_path / "tflite" / "report.html").read_text()
    assert "Confusion matrix" in page and "Grad-CAM" not in page


class Foreign(tf.Module):
    """An image classifier as TF Hub has them: images in [0, 1], logits, no names."""

    @tf.function
    def __call__(self, images, training=False):
        means = tf.reduce_mean(images, (1, 2))
        return tf.concat([means, means], 1)


class Signed(Foreign):
    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3))])
    def serve(self, images):
        return {"logits": self(images)}


class Certain(Signed):
    """As Keras 2 saves a classifier, whose pixels are anybody's guess."""

    @tf.function
    def __call__(self, images, training=False):
        return tf.nn.softmax(super().__call__(images))


def test_a_model_of_somebody_else(tmp_path, caplog):
    """It knows classes and size by its signature; without one, or of probabilities, a sentence."""
    foreign, images = Signed(), np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    wanted = softmax(foreign(tf.constant(images / 255, tf.float32)).numpy(), 1)
    tf.saved_model.save(foreign, tmp_path / "hub")
    opened = model_files.load_model(tmp_path / "hub")
    assert "hub is taken for a model of TF Hub: pixels 0..1 in, logits out" in caplog.text
    assert opened.output_shape == (None, 6) and opened.input_shape == (None, 32, 32, 3)
    found = evaluation.probabilities(opened)(images.astype("float32"))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    tf.saved_model.save(Certain(), tmp_path / "certain")
    with pytest.raises(ValueError, match="certain does not say what its pixels and outputs are"):
        model_files.load_model(tmp_path / "certain")
    bare = Foreign()
    bare(tf.zeros((1, 32, 32, 3)))
    tf.saved_model.save(bare, tmp_path / "bare")
    with pytest.raises(ValueError, match="bare does not say how many classes it has"):
        model_files.load_model(tmp_path / "bare")


def test_folders_and_repositories(exported, tmp_path, monkeypatch, capsys):
    """Of a run its .keras file; of a repository what huggingface_hub has in its cache."""
    paths, model = exported
    (tmp_path / "run").mkdir()
    for name in ("m.keras", "m.tflite"):
        (tmp_path / "run" / name).write_bytes((paths["keras"].parent / name).read_bytes())
    assert model_files.load_model(tmp_path / "run").name == model.name
    assert not isinstance(
        model_files.load_model(tmp_path / "run").layers[-1], keras.layers.Activation
    )
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--me--colours"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    content = paths["onnx"].read_bytes()
    (repository / "snapshots" / "abc" / "model.onnx").write_bytes(content)
    photo = tmp_path / "a.png"
    Image.fromarray(tiny_data().validation.pictures[0]).save(photo)
    command = ["predict", str(photo), "--model_file=hf://me/colours", "--format=json"]
    assert cli.main(command) == 0
    assert {c["name"] for c in json.loads(capsys.readouterr().out)[0]["classes"]} == {*NAMES}
    (repository / "snapshots" / "abc" / "model.onnx").unlink()
    shutil.copytree(paths["hub"], repository / "snapshots" / "abc" / "hub")  # a graph of a stranger
    assert cli.main(command) == 2
    assert "whose graph may read and write files" in capsys.readouterr().err
    assert cli.main([*command, "--trust=hf://me/colours"]) == 0
    assert cli.main(["predict", str(photo), "--model_file=hf://me/nothing"]) == 1
    assert "hf://me/nothing could not be fetched" in capsys.readouterr().err


def test_what_cannot_be_opened(exported, tmp_path):
    paths, model = exported
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no model: no saved_model.pb, and no"):
        model_files.load_model(tmp_path / "empty")
    for name in ("a.keras", "b.keras"):
        (tmp_path / "empty" / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="holds several models: a.keras, b.keras. Name one"):
        model_files.load_model(tmp_path / "empty")
    for name, said in (("x.tflite", "does not say what"), ("x.onnx", "cannot be opened: ")):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=f"{name} {said}"):
            model_files.load_model(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="There is no model file"):
            model_files.load_model(tmp_path / "no" / name)
    for name in ("hub", "saved_model"):
        for file in ("variables.index", "saved_model.pb"):
            damaged = shutil.copytree(paths[name], tmp_path / f"{name} without {file}")
            next(damaged.rglob(file)).write_bytes(b"nothing of the kind")
            with pytest.raises(ValueError, match=f"{file} cannot be opened: .*: get it again."):
                model_files.load_model(damaged)
    bare = tmp_path / "bare.tflite"
    with zipfile.ZipFile(paths["tflite"]) as archive:  # what other converters write
        start = min(info.header_offset for info in archive.infolist())
    bare.write_bytes(paths["tflite"].read_bytes()[:start])
    with pytest.raises(ValueError, match="does not say what its pixels and outputs are"):
        model_files.load_model(bare)
    exporting.export_hub(model, tmp_path / "features", kind="feature_vector")
    with pytest.raises(ValueError, match="is a feature_vector: it gives features, no classes"):
        model_files.load_model(tmp_path / "features")
    with pytest.raises(ValueError, match="is no model that Keras saved, but an export"):
        model_files.load_keras(paths["tflite"])


@pytest.mark.parametrize("card", (b"[1]", b"7", b"{", b"\xff"))
def test_a_card_that_is_none_is_named(exported, tmp_path, card):
    paths, _ = exported
    for name in ("hub", "saved_model"):
        folder = shutil.copytree(paths[name], tmp_path / name)
        (folder / "assets.extra/keras_effv2.json").write_bytes(card)
    with zipfile.ZipFile(paths["tflite"]) as archive:
        start = min(info.header_offset for info in archive.infolist())
    lite = tmp_path / "x.tflite"
    lite.write_bytes(paths["tflite"].read_bytes()[:start])
    with zipfile.ZipFile(lite, "a") as archive:
        archive.writestr("keras_effv2.json", card)
    said = r"\(keras_effv2.json\) is no dictionary in JSON"
    for path in (tmp_path / "hub", tmp_path / "saved_model", lite):
        with pytest.raises(ValueError, match=f"{path.name} cannot be opened: .*{said}. It may"):
            model_files.load_model(path)
    with pytest.raises(ValueError, match=f"hub is a damaged SavedModel .*{said}.. Get it again"):
        weights.read(tmp_path / "hub")


@pytest.mark.parametrize("kept", (0, 0.02, 0.5, 0.99))
def test_a_cut_tflite_file_is_kept_from_its_runtime(exported, tmp_path, monkeypatch, kept):
    """LiteRT reads on behind its end, and the process is gone."""
    content = exported[0]["tflite"].read_bytes()
    (tmp_path / "x.tflite").write_bytes(content[: int(kept * len(content))])
    monkeypatch.setattr(runtimes, "tflite_interpreter", lambda path: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="x.tflite does not say what .* are: it is cut off"):
        model_files.load_model(tmp_path / "x.tflite")


def metadata_of(path):
    """The flat buffer of metadata inside a TFLite file, found by TensorFlow's schema."""
    model = schema.Model.GetRootAsModel(bytearray(pathlib.Path(path).read_bytes()), 0)
    (entry,) = (
        model.Metadata(i)
        for i in range(model.MetadataLength())
        if model.Metadata(i).Name() == b"TFLITE_METADATA"
    )
    return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()


class Table(flatbuffers.table.Table):
    """A table that is read by the numbers of its fields, as metadata_schema.fbs has them."""

    def at(self, slot):
        return self.Offset(4 + 2 * slot) + self.Pos

    def table(self, slot):
        return Table(self.Bytes, self.Indirect(self.at(slot)))

    def first(self, slot):
        start = self.Vector(self.at(slot) - self.Pos)
        assert self.VectorLen(self.at(slot) - self.Pos) == 1
        return Table(self.Bytes, self.Indirect(start))

    def text(self, slot):
        return self.String(self.at(slot)).decode()

    def number(self, slot, kind=number_types.Int8Flags):
        return self.Get(kind, self.at(slot))

    def float_of(self, slot):
        return self.Get(number_types.Float32Flags, self.Vector(self.at(slot) - self.Pos))


def test_metadata_is_what_mediapipe_asks_for(exported):
    """Size, colours, mean 0 and deviation 1, labels of the axis, the threshold of the scores."""
    paths, _ = exported
    content = bytearray(metadata_of(paths["tflite"]))
    assert flatbuffers.util.BufferHasIdentifier(content, 0, b"M001")
    root = Table(
        content, flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, content, 0)
    )
    given, wanted = root.first(3).first(2), root.first(3).first(3)
    image = given.table(3)
    assert image.number(0) == 2 and image.table(1).number(0) == 1  # an image, in RGB
    size = image.table(1).table(1)
    assert [size.number(i, number_types.Uint32Flags) for i in (0, 1)] == [48, 48]
    unit = given.first(4)
    assert unit.number(0) == 1 and [unit.table(1).float_of(i) for i in (0, 1)] == [0.0, 1.0]
    assert wanted.first(6).text(0) == "labels.txt" and wanted.first(6).number(2) == 2
    least = wanted.first(4)
    assert least.number(0) == 3
    assert least.table(1).number(0, number_types.Float32Flags) == pytest.approx(0.26)
    with zipfile.ZipFile(paths["tflite"]) as archive:
        assert archive.read("labels.txt").decode().split() == [*NAMES]


def test_mediapipe_classifies_as_the_model_does(exported):
    """Its own image classifier, where it is installed: pip install mediapipe."""
    mediapipe = pytest.importorskip("mediapipe")
    paths, model = exported
    vision = mediapipe.tasks.vision
    base = mediapipe.tasks.BaseOptions(model_asset_path=str(paths["tflite"]))
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype("uint8")
    scores = model.predict(picture[None].astype("float32"), verbose=0)[0]
    options = vision.ImageClassifierOptions(base_options=base)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
        found = classifier.classify(image).classifications[0].categories
    wanted = {name: score for name, score in zip(NAMES, scores, strict=True) if score >= 0.26}
    assert {c.category_name: pytest.approx(c.score, abs=1e-4) for c in found} == wanted


def test_one_logit_stays_a_sigmoid_and_a_size_the_models(tmp_path):
    """An export of logits says what they are of; pictures to compare with say no size."""
    inputs = keras.Input((None, None, 3))
    pixels = layers.Pixels("128", image_size=96, class_names=["no", "yes"])
    x = keras.layers.GlobalAveragePooling2D()(pixels(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    pictures = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype("float32")
    exporting.export(model, tmp_path / "m", format="saved_model", images=pictures)
    again = model_files.load_model(tmp_path / "m")
    expected = 1 / (1 + np.exp(-model.predict(pictures, verbose=0)))
    np.testing.assert_allclose(again.predict(pictures, verbose=0), expected, atol=1e-5)
    assert graph.side_of(again) == 96
