"""Loading: every format, and every way in which it can go wrong."""

import dataclasses
import hashlib
import http.server
import io
import multiprocessing
import os
import tarfile
import threading
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import tiny_efficientnet_row

import keras_effv2 as kev
from keras_effv2 import evaluation, files, imagenet, layers, weights
from keras_effv2.models import efficientnet_v2


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


# google/automl's scopes of the tiny network, by hand from its effnetv2_model.py
AUTOML = {
    "stem_conv": "stem/conv2d",
    "stem_bn": "stem/tpu_batch_normalization",
    "block1a_project_conv": "blocks_0/conv2d",
    "block1a_project_bn": "blocks_0/tpu_batch_normalization",
    "block2a_expand_conv": "blocks_1/conv2d",
    "block2a_expand_bn": "blocks_1/tpu_batch_normalization",
    "block2a_project_conv": "blocks_1/conv2d_1",
    "block2a_project_bn": "blocks_1/tpu_batch_normalization_1",
    "block2b_expand_conv": "blocks_2/conv2d",
    "block2b_expand_bn": "blocks_2/tpu_batch_normalization",
    "block2b_project_conv": "blocks_2/conv2d_1",
    "block2b_project_bn": "blocks_2/tpu_batch_normalization_1",
    "block3a_expand_conv": "blocks_3/conv2d",
    "block3a_expand_bn": "blocks_3/tpu_batch_normalization",
    "block3a_project_conv": "blocks_3/conv2d_1",
    "block3a_project_bn": "blocks_3/tpu_batch_normalization_1",
    "block4a_expand_conv": "blocks_4/conv2d",
    "block4a_expand_bn": "blocks_4/tpu_batch_normalization",
    "block4a_dwconv2": "blocks_4/depthwise_conv2d",
    "block4a_bn": "blocks_4/tpu_batch_normalization_1",
    "block4a_se_reduce": "blocks_4/se/conv2d",
    "block4a_se_expand": "blocks_4/se/conv2d_1",
    "block4a_project_conv": "blocks_4/conv2d_1",
    "block4a_project_bn": "blocks_4/tpu_batch_normalization_2",
    "block5a_expand_conv": "blocks_5/conv2d",
    "block5a_expand_bn": "blocks_5/tpu_batch_normalization",
    "block5a_dwconv2": "blocks_5/depthwise_conv2d",
    "block5a_bn": "blocks_5/tpu_batch_normalization_1",
    "block5a_se_reduce": "blocks_5/se/conv2d",
    "block5a_se_expand": "blocks_5/se/conv2d_1",
    "block5a_project_conv": "blocks_5/conv2d_1",
    "block5a_project_bn": "blocks_5/tpu_batch_normalization_2",
    "block5b_expand_conv": "blocks_6/conv2d",
    "block5b_expand_bn": "blocks_6/tpu_batch_normalization",
    "block5b_dwconv2": "blocks_6/depthwise_conv2d",
    "block5b_bn": "blocks_6/tpu_batch_normalization_1",
    "block5b_se_reduce": "blocks_6/se/conv2d",
    "block5b_se_expand": "blocks_6/se/conv2d_1",
    "block5b_project_conv": "blocks_6/conv2d_1",
    "block5b_project_bn": "blocks_6/tpu_batch_normalization_2",
    "block6a_expand_conv": "blocks_7/conv2d",
    "block6a_expand_bn": "blocks_7/tpu_batch_normalization",
    "block6a_dwconv2": "blocks_7/depthwise_conv2d",
    "block6a_bn": "blocks_7/tpu_batch_normalization_1",
    "block6a_se_reduce": "blocks_7/se/conv2d",
    "block6a_se_expand": "blocks_7/se/conv2d_1",
    "block6a_project_conv": "blocks_7/conv2d_1",
    "block6a_project_bn": "blocks_7/tpu_batch_normalization_2",
    "top_conv": "head/conv2d",
    "top_bn": "head/tpu_batch_normalization",
    "predictions": "head/dense",
}


def automl_tensors(model):
    """google/automl's names -> the arrays of a tiny network."""
    return {
        f"efficientnetv2-tiny/{AUTOML[layer.name]}/"
        f"{'depthwise_' if layer.name.endswith('dwconv2') else ''}{variable.name}": array
        for layer in model.layers
        for variable, array in zip(layer.weights, layer.get_weights(), strict=True)
    }


def write_automl(model, prefix):
    """A TF1 checkpoint as google/automl's, with averages, slots and a step counter."""
    tensors = automl_tensors(model)
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=value)
            for suffix in ("/ExponentialMovingAverage", "/RMSProp"):
                tf.compat.v1.get_variable(name + suffix, initializer=value * 0)
        tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(prefix), write_meta_graph=False)


def write_hub(model, path):
    """A SavedModel with google/automl's variables and none of our files, as TF Hub's."""
    module = tf.Module()
    module.all = [tf.Variable(array, name=name) for name, array in automl_tensors(model).items()]
    module.step = tf.Variable(7, name="global_step")
    tf.saved_model.save(module, path)


def write_legacy(model, path):
    """Keras 2's HDF5."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{w.name}:0" for w in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name, data=value)


def drop_names(path):
    """As Keras' first files: layers by class and index alone."""
    with h5py.File(path, "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name", None)


def pack(folder, path, extra=()):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname="efficientnetv2-tiny")
        for member, content in extra:
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "form",
    [
        "weights.h5",
        "keras",
        "legacy.h5",
        "misnamed.weights.h5",
        "ckpt",
        "tgz",
        "no_names.weights.h5",
    ],
)
def test_every_format_loads(form, tiny_effnet, images, tmp_path):
    model = tiny_effnet()
    path = str(tmp_path / f"m.{form}")
    if form in ("weights.h5", "no_names.weights.h5"):
        model.save_weights(path)
    elif form == "keras":
        model.save(path)
    elif form in ("legacy.h5", "misnamed.weights.h5"):
        write_legacy(model, path)
    else:
        (tmp_path / "c").mkdir()
        write_automl(model, tmp_path / "c" / "model")
        path = str(tmp_path / "c" / "model")
    if form == "no_names.weights.h5":
        drop_names(path)
    if form == "tgz":
        pack(tmp_path / "c", tmp_path / "m.tgz")
        path = str(tmp_path / "m.tgz")
    np.testing.assert_array_equal(tiny_effnet(weights=path)(images), model(images))
    body = tiny_effnet(weights=path, include_top=False, pooling="avg")
    expected = keras.Model(model.input, model.get_layer("avg_pool").output)
    np.testing.assert_array_equal(body(images), expected(images))
    other = tiny_effnet(weights=path, classes=3)
    kernel = other.get_layer("block5a_expand_conv").get_weights()[0]
    np.testing.assert_array_equal(kernel, model.get_layer("block5a_expand_conv").get_weights()[0])
    part = tiny_effnet(weights=path, features=["reduction_2"])(images)["reduction_2"]
    assert part.shape == (2, 16, 16, 8)


@pytest.mark.parametrize("form", ["weights.h5", "no_names.weights.h5", "ckpt", "part.weights.h5"])
def test_features_refuse_another_variants_checkpoint(form, tiny_effnet, tmp_path):
    """One of two blocks where the network has one, of the same widths."""
    path = str(tmp_path / f"m.{form}")
    if form == "ckpt":
        write_automl(tiny_effnet(), path)
    elif form == "part.weights.h5":
        tiny_effnet(features=["reduction_3"]).save_weights(path)
    else:
        tiny_effnet().save_weights(path)
    if form == "no_names.weights.h5":
        drop_names(path)
    tiny_effnet(weights=path, features=["reduction_3"])
    row = tiny_efficientnet_row()
    stages = tuple(dataclasses.replace(stage, repeats=1) for stage in row.stages)
    row = dataclasses.replace(row, stages=stages)
    with pytest.raises(ValueError, match="unexpected"):
        efficientnet_v2.build(row, weights=path, features=["reduction_3"])


def test_keras_applications_files_load(images, tmp_path):
    peer = keras.applications.EfficientNetV2B0(weights=None, classes=7, input_shape=(64, 64, 3))
    peer.save_weights(tmp_path / "ka.weights.h5")
    ours = kev.EfficientNetV2B0(weights=str(tmp_path / "ka.weights.h5"))
    assert ours.output_shape == (None, 7)
    np.testing.assert_allclose(ours(images), peer(images), atol=1e-6)


@pytest.mark.parametrize("write", [write_automl, write_hub])
def test_every_tensor_of_automl_finds_its_layer(write, tiny_effnet, tmp_path):
    model = tiny_effnet()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1, weight.shape))
    (tmp_path / "c").mkdir()
    write(model, str(tmp_path / "c" / "model"))
    loaded = tiny_effnet(weights=str(tmp_path / "c" / "model"))
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected, weight.path)


def test_a_checkpoint_of_the_other_family_lists_what_is_missing(
    tiny_effnet, tiny_coatnet, tmp_path
):
    write_automl(tiny_effnet(), tmp_path / "model")
    with pytest.raises(ValueError, match="does not fit tinycoatnet.*missing stem_conv1/kernel"):
        tiny_coatnet(weights=str(tmp_path / "model"))


def test_a_mismatch_lists_itself_and_changes_nothing(tiny_effnet, tmp_path):
    model = tiny_effnet(classes=4)
    model.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars"].create_dataset("0", data=np.zeros((3, 3, 3, 9)))
    other = tiny_effnet(classes=4)
    before = other.get_weights()
    checkpoint = weights.read(str(tmp_path / "a.weights.h5"))
    with pytest.raises(
        ValueError, match=r"stem_conv/kernel is \(3, 3, 3, 9\), wanted \(3, 3, 3, 8\)"
    ):
        weights.assign(other, checkpoint)
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bias_tables_fit_another_size(tiny_coatnet, tmp_path):
    model = tiny_coatnet(input_shape=(64, 64, 3))
    model.save_weights(tmp_path / "c.weights.h5")
    big = tiny_coatnet(input_shape=(96, 128, 3), weights=str(tmp_path / "c.weights.h5"))
    table = model.get_layer("block3a_attention").relative_bias.numpy()
    expected = tf.image.resize(table.transpose(1, 2, 0), (11, 15)).numpy().transpose(2, 0, 1)
    np.testing.assert_allclose(
        big.get_layer("block3a_attention").relative_bias, expected, atol=1e-6
    )


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<html>not found", "no weights file"),
        (b"\x89HDF\r\n\x1a\nxx", "damaged"),
        (b"PKxx", "cut off"),
        (b"\x1f\x8bxx", "damaged"),
    ],
)
def test_rubbish_files(content, words, tiny_effnet, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        tiny_effnet(weights=str(path))
    with pytest.raises(FileNotFoundError, match="no weights file"):
        tiny_effnet(weights=str(tmp_path / "absent.h5"))


def flips(content):
    """The content with one byte changed, at places all over it."""
    for place in np.linspace(100, len(content) - 200, 40, dtype=int):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        yield flipped


def test_a_flipped_byte_of_an_archive_is_found(tmp_path):
    """Whether it breaks the compression or gives other numbers; nothing is written."""
    digits = np.random.default_rng(0).integers(0, 20, 500_000).astype("uint8").tobytes()
    path, out = tmp_path / "m.tgz", tmp_path / "out"
    with tarfile.open(path, "w:gz") as tar:
        for name in "ab":
            member = tarfile.TarInfo(name)
            member.size = len(digits)
            tar.addfile(member, io.BytesIO(digits))
    for flipped in flips(path.read_bytes()):
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="damaged archive"):
            files.unpack(path, out)
    assert not out.exists()


def test_a_flipped_byte_of_a_compressed_model_is_found(tiny_effnet, tmp_path):
    path = tmp_path / "m.keras"
    tiny_effnet().save_weights(tmp_path / "m.weights.h5")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "m.weights.h5", "model.weights.h5")
    for flipped in flips(path.read_bytes()):
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="not a whole .keras file"):
            weights.read(path)


@pytest.mark.parametrize("kind", ["link", "dots", "absolute"])
def test_hostile_archives_are_refused(kind, tmp_path):
    member = tarfile.TarInfo({"link": "a", "dots": "../a", "absolute": "/tmp/kev_a"}[kind])
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        tar.addfile(member, io.BytesIO())
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="refused"):
        files.unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "a").exists()


def test_links_in_hdf5_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file.create_group("layers")
        file["layers/a"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ValueError, match="refused"):
        weights.read(str(tmp_path / "x.weights.h5"))


# ------------------------------------------------------------------------------------- downloads


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on loopback, and a registry row that points to it."""
    files, hits = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            if self.path not in files:
                return self.send_error(404)
            content, length = files[self.path]
            start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
            if start >= length > 0:
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(length - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *_):
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE", raising=False)
    yield files, hits
    listener.shutdown()
    listener.server_close()


def row(content=None, name="w.h5"):
    digest = None if content is None else "md5:" + hashlib.md5(content).hexdigest()
    return weights.Row(
        "TinyEfficientNetV2", "tiny", 10, "128", "softmax", weights.STORAGE + name, digest
    )


def cached(tmp_path):
    """What a user finds in the cache."""
    return sorted(p.name for p in (tmp_path / "home").glob("[!.]*"))


def test_download_verify_and_cache(server, tmp_path, tiny_effnet, images, monkeypatch):
    files, hits = server
    model = tiny_effnet()
    write_legacy(model, tmp_path / "w.h5")
    content = (tmp_path / "w.h5").read_bytes()
    files["/w.h5"] = (content, len(content))
    monkeypatch.setitem(weights.CHECKPOINTS, ("TinyEfficientNetV2", "tiny"), row(content))
    for _ in range(2):
        np.testing.assert_array_equal(tiny_effnet(weights="tiny")(images), model(images))
    assert hits == ["/w.h5"] and cached(tmp_path) == ["w.h5"]
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    tiny_effnet(weights="tiny")
    (tmp_path / "home" / "w.h5").write_bytes(b"changed")
    with pytest.raises(ValueError, match="expected"):
        tiny_effnet(weights="tiny")
    with pytest.raises(OSError, match="KERAS_EFFV2_OFFLINE"):
        tiny_effnet(weights="tiny")


@pytest.mark.parametrize(
    "served, error, words",
    [
        ((b"evil", 4), ValueError, "expected"),
        ((b"half", 9), OSError, "broke off|could not"),
        (None, OSError, "could not be downloaded"),
    ],
)
def test_failed_downloads_leave_nothing(served, error, words, server, tmp_path, monkeypatch):
    if served:
        server[0]["/w.h5"] = served
    with pytest.raises(error, match=words):
        weights.download(row(b"good"))
    assert cached(tmp_path) == []


def test_a_broken_download_goes_on_where_it_was(server, tmp_path):
    content = bytes(range(256)) * 40
    server[0]["/w.h5"] = (content[:5000], len(content))
    with pytest.raises(OSError, match="broke off after 5000 of 10240 bytes.*goes on from there"):
        weights.download(row(content))
    server[0]["/w.h5"] = (bytes(5000) + content[5000:], len(content))  # the rest is all it takes
    assert weights.download(row(content)).read_bytes() == content


def test_first_download_is_trusted_and_pinned(server, tmp_path, tiny_effnet):
    write_legacy(tiny_effnet(), tmp_path / "w.h5")
    content = (tmp_path / "w.h5").read_bytes()
    server[0]["/w.h5"] = (b"<html>log in first</html>", 25)
    with pytest.raises(ValueError, match="sent no checkpoint; it was deleted.*web page"):
        weights.download(row())
    assert cached(tmp_path) == []  # rubbish is not what has to come ever after
    server[0]["/w.h5"] = (content, len(content))
    path = weights.download(row())
    assert path.stat().st_mode & 0o777 == 0o644
    path.unlink()
    server[0]["/w.h5"] = (b"two", 3)
    with pytest.raises(ValueError, match="first download, which .*home/w.h5.sha256 keeps"):
        weights.download(row())
    assert not path.exists()


def test_a_damaged_archive_is_not_kept(server, tmp_path, tiny_effnet):
    (tmp_path / "c").mkdir()
    write_automl(tiny_effnet(), tmp_path / "c" / "model")
    pack(tmp_path / "c", tmp_path / "w.tgz")
    content = bytearray((tmp_path / "w.tgz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    server[0]["/w.tgz"] = (bytes(content), len(content))
    with pytest.raises(ValueError, match="sent no checkpoint; it was deleted.*damaged archive"):
        weights.download(row(name="w.tgz"))
    assert cached(tmp_path) == []


def test_a_mirror_is_an_address(server, monkeypatch):
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", "myserver/x")
    with pytest.raises(ValueError, match="KERAS_EFFV2_MIRROR is an address.*'myserver/x'"):
        weights.download(row(b"good"))


def test_a_full_disk_is_told(server, tmp_path, monkeypatch):
    server[0]["/w.h5"] = (b"good", 4)

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".w.h5.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No room in .*home for http.*KERAS_EFFV2_HOME"):
        weights.download(row(b"good"))
    assert cached(tmp_path) == []


def test_a_released_archive_has_the_contract_of_its_release(
    tiny_effnet, tmp_path, monkeypatch, caplog
):
    """By its name; under another one the user is told."""
    released = weights.Row(
        "TinyEfficientNetV2", "21k", 10, "127.5", "sigmoid", f"{weights.STORAGE}x/tiny-21k.tgz"
    )
    monkeypatch.setitem(weights.CHECKPOINTS, ("TinyEfficientNetV2", "21k"), released)
    for name in ("tiny-21k", "renamed"):
        folder = tmp_path / name
        folder.mkdir()
        write_automl(tiny_effnet(), folder / "model")
        pixels = layers.find_pixels(tiny_effnet(weights=str(folder)))
        known = name == "tiny-21k"
        assert (pixels.pixels, pixels.activation) == (
            ("127.5", "sigmoid") if known else ("128", "softmax")
        )
        assert ("does not say how its pixels are scaled" in caplog.text) != known


def test_killed_between_download_and_rename(server, tmp_path, monkeypatch):
    server[0]["/w.h5"] = (b"good", 4)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", die)
        with pytest.raises(KeyboardInterrupt):
            weights.download(row(b"good"))
    assert cached(tmp_path) == []
    assert weights.download(row(b"good")).read_bytes() == b"good"


def _download(queue):
    queue.put(weights.download(row(b"good" * 1000)).read_bytes())


def test_two_processes_download_once(server, tmp_path):
    server[0]["/w.h5"] = (b"good" * 1000, 4000)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_download, args=(queue,)) for _ in range(2)]
    for process in both:
        process.start()
    assert [queue.get(timeout=60) for _ in both] == [b"good" * 1000] * 2
    for process in both:
        process.join()
    assert server[1] == ["/w.h5"]


def test_unknown_tags_list_the_known():
    with pytest.raises(ValueError, match="imagenet-automl, imagenet21k, imagenet21k-ft1k"):
        kev.EfficientNetV2B0(weights="imagenet22k")
    with pytest.raises(ValueError, match="No weights of CoAtNet0 were ever released"):
        kev.CoAtNet0(weights="imagenet")


def test_a_fresh_head_is_judged_by_its_own_activation(tiny_effnet, images, tmp_path):
    """That of the checkpoint counts where its head is kept."""
    path = str(tmp_path / "s.weights.h5")
    tiny_effnet(classifier_activation="sigmoid").save_weights(path)
    for activation in ("softmax", "sigmoid"):
        for model in (
            tiny_effnet(weights=path, classes=3, classifier_activation=activation),
            tiny_effnet(classifier_activation=activation),
        ):
            np.testing.assert_allclose(
                evaluation.probabilities(model)(images), model(images), rtol=1e-5
            )
    for model, activation in (
        (tiny_effnet(weights=path), "sigmoid"),
        (tiny_effnet(weights=path, classifier_activation=None), "sigmoid"),
        (tiny_effnet(weights=path, classes=3, classifier_activation=None), "softmax"),
        (tiny_effnet(weights=path, include_top=False), "softmax"),
        (tiny_effnet(classifier_activation=None), "softmax"),
    ):
        assert layers.find_pixels(model).activation == activation


def test_convert_writes_a_row(tiny_effnet, tmp_path):
    made = weights.convert(tiny_effnet(), tmp_path / "t.weights.h5", tag="t", source="here")
    content = (tmp_path / "t.weights.h5").read_bytes()
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert (made["pixels"], made["classes"]) == ("128", 10)
    assert os.listdir(tmp_path) == ["t.weights.h5"]


# ------------------------------------------------------------------------------------- real data


@pytest.mark.shared_data
def test_golden_panda(shared):
    size = 224
    raw = tf.io.read_file(str(shared / "golden" / "panda.jpg"))
    image = tf.image.decode_jpeg(raw, channels=3).numpy()
    top, left, height, width = imagenet.crop_box(*image.shape[:2], size, "automl")
    image = tf.image.resize(image[top : top + height, left : left + width], (size, size))
    path = shared / "weights" / "efficientnetv2-b0_imagenet.weights.h5"
    model = kev.EfficientNetV2B0(
        weights=str(path), include_preprocessing=False, classifier_activation=None
    )
    logits = model((image[None] - 128) / 128).numpy()[0]
    golden = np.load(shared / "golden" / "efficientnetv2-b0_224_original_logits.npy")[0]
    assert np.sqrt(np.mean((logits - golden) ** 2)) < 0.013
    assert list(np.argsort(-logits)[:5]) == list(np.argsort(-golden)[:5])
    named = imagenet.decode_predictions(logits[None], top=1)[0][0]
    assert named[:2] == ("n02510455", "giant_panda")


@pytest.mark.shared_data
def test_real_weights_equal_keras_applications(shared):
    path = str(shared / "weights" / "efficientnetv2-b0_imagenet.weights.h5")
    ours = kev.EfficientNetV2B0(weights=path)
    peer = keras.applications.EfficientNetV2B0(weights=None)
    peer.load_weights(path)
    files = sorted((shared / "flowers" / "val").rglob("*.jpg"))[::60]
    batch = np.stack(
        [imagenet.prepare(imagenet.read_image(f), 224, "automl", "bicubic") for f in files]
    )
    a, b = ours(batch).numpy(), peer(batch).numpy()
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("form", ["run.weights.h5", "run.keras"])
def test_geometry_travels_with_a_file(form, tiny_effnet, tmp_path):
    """Size, crop and resizing of the pictures are those that the weights were made with."""
    model = tiny_effnet()
    pixels = layers.find_pixels(model)
    pixels.image_size, pixels.crop, pixels.resize = 160, "automl", "bicubic"
    path = str(tmp_path / form)
    model.save_weights(path) if form.endswith("h5") else model.save(path)
    found = layers.find_pixels(tiny_effnet(weights=path))
    assert (found.image_size, found.crop, found.resize) == (160, "automl", "bicubic")
    fresh = layers.find_pixels(tiny_effnet(weights=path, classes=3))
    assert fresh.image_size != 160  # another head, another task
    if form.endswith("h5"):
        other = tiny_effnet()
        other.load_weights(path)
        assert layers.find_pixels(other).image_size == 160


def test_weights_behind_layers_of_ones_own(tiny_effnet, images, tmp_path):
    """What stands before `input_tensor` is no business of the checkpoint's; names may differ."""
    model = tiny_effnet()
    model.save_weights(tmp_path / "w.weights.h5")
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Dense(3, kernel_initializer="identity")(inputs)
    built = tiny_effnet(input_tensor=x, weights=str(tmp_path / "w.weights.h5"), name="one")
    np.testing.assert_allclose(built(images), model(images), atol=1e-5)
    built.save_weights(tmp_path / "one.weights.h5")
    x = keras.layers.Rescaling(1.0)(keras.Input((64, 64, 3)))
    inner = tiny_effnet(input_tensor=x, weights=str(tmp_path / "w.weights.h5"), name="two")
    inner.save_weights(tmp_path / "two.weights.h5")
    again = tiny_effnet(weights=str(tmp_path / "two.weights.h5"))
    np.testing.assert_allclose(again(images), model(images), atol=1e-5)


def test_a_coatnet_backbone_takes_a_new_head(tiny_coatnet, tmp_path):
    """Its norm and hidden layer belong to the head, which a backbone lacks."""
    backbone = tiny_coatnet(include_top=False, input_shape=(64, 64, 3))
    backbone.save_weights(tmp_path / "b.weights.h5")
    model = tiny_coatnet(classes=3, weights=str(tmp_path / "b.weights.h5"), input_shape=(64, 64, 3))
    source = {layer.name: layer for layer in backbone.layers}
    for layer in model.layers:
        if layer.weights and layer.name in source:
            for one, other in zip(
                layer.get_weights(), source[layer.name].get_weights(), strict=True
            ):
                np.testing.assert_array_equal(one, other)
