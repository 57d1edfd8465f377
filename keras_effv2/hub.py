"""`HubLayer`: a Keras 3 layer over any reusable SavedModel."""

import hashlib
import os
import pathlib
import tempfile

import keras

from keras_effv2 import errors, files, layers, needs, stores, weights
from keras_effv2.arguments import check_kind

with needs.naming("HubLayer"):
    import tensorflow as tf


@keras.saving.register_keras_serializable(layers.PACKAGE)
class HubLayer(keras.layers.Layer):
    """Puts a reusable SavedModel into a Keras 3 model, to use or to fine-tune.

    Its variables are the layer's weights: they train with any optimizer when `trainable`, stay as
    they are (batch statistics too) when not, and are saved with the model. A `.keras` file holds
    the weights, the handle and the hash; loading it needs the SavedModel again. A SavedModel is a
    program: use those you trust.

    Args:
        handle: Folder or `.tar.gz` of a SavedModel; or a remote handle: a tfhub.dev or kaggle.com
            address, `owner/model/tensorFlow2/variation/version` of Kaggle, `hf://owner/repository`,
            the address of a `.tar.gz`, a path in a store (`gs://...`). Caches come before the network.
        trainable: Whether to train it.
        sha256: Hash of the SavedModel as `layer.hash` gives it; checked when given.
        trust: Whether to run a remote SavedModel whose hash is not given.

    Attributes:
        trusted: Handles that a `.keras` file may name, remote ones and absolute local paths: those
            that this process has given itself, and what you add to the set before loading. A file is
            no reason to trust what it names, its hash included.

    Call arguments:
        inputs: What the SavedModel takes; image models of TF Hub take float32 in [0, 1],
            `(batch, height, width, 3)`.
        training: Whether to run in training mode; only if `trainable`.

    Raises:
        ValueError: If the SavedModel is not reusable, has another hash, or is remote and neither
            `sha256` nor `trust` is given.
        FileNotFoundError: If there is no SavedModel at a local path.

    Example:

    >>> import tempfile, keras_effv2
    >>> inputs = keras.Input((None, None, 3))
    >>> model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    >>> path = tempfile.mkdtemp() + "/mean"
    >>> layer = HubLayer(keras_effv2.export_hub(model, path, "feature_vector"))
    >>> keras.Sequential([inputs, layer, keras.layers.Dense(5)]).output_shape
    (None, 5)
    """

    takes_hub_images = True  # [0, 1]; exporters ask
    trusted: set[str] = set()

    def __init__(
        self,
        handle: str | os.PathLike,
        trainable: bool = False,
        *,
        sha256: str | None = None,
        trust: bool = False,
        **kwargs,
    ):
        layers.require_tensorflow("HubLayer")
        super().__init__(trainable=trainable, **kwargs)
        check_kind("handle", handle, str | os.PathLike, "a folder or an address of a hub")
        self.handle = files.expand(handle)
        folder = _resolve(self.handle, sha256, trust)
        self.hash = saved_model_hash(folder)
        if sha256 is not None and sha256 != self.hash:
            raise ValueError(
                f"{self.handle} has sha256 {self.hash}, expected {sha256}: it is not the SavedModel "
                "that was meant. Get the right one, or give its hash."
            )
        try:
            loaded = tf.saved_model.load(folder)
        except (OSError, tf.errors.OpError) as error:
            raise ValueError(
                f"{self.handle} is a damaged SavedModel ({errors.first_line(error)}). Get it again."
            ) from error
        self.trusted.add(_name(self.handle))
        if not callable(loaded) or not hasattr(loaded, "variables"):
            raise ValueError(
                f"{self.handle} is not a reusable SavedModel: it cannot be called. Export it with "
                "keras_effv2.export_hub, or use keras.layers.TFSMLayer for its signatures."
            )
        self._loaded = _Hidden(loaded)
        trainable_variables = list(getattr(loaded, "trainable_variables", ()))
        learned = {id(v) for v in trainable_variables}
        owned = {id(v): self._own(v, id(v) in learned) for v in loaded.variables}
        if learned and getattr(loaded, "regularization_losses", None):
            # not add_loss: replicas that wait for each other in `call` would mix their losses
            first = owned[id(trainable_variables[0])]
            first.regularizer = _Penalties(self)
        self.built = True

    def _own(self, variable, trainable):
        """Makes a variable of the SavedModel a weight of this layer, without copying it."""
        weight = keras.Variable(
            initializer=variable,
            trainable=trainable,
            dtype=variable.dtype.name,
            name=variable.name.split(":")[0].replace("/", "_"),
        )
        self._track_variable(weight)
        return weight

    @property
    def module(self):
        """The loaded SavedModel."""
        return self._loaded.value

    @property
    def regularization_losses(self):
        """Functions without arguments, the penalties on what trains."""
        return list(getattr(self.module, "regularization_losses", ())) if self.trainable else []

    def call(self, inputs, training=None):
        function = self.module
        training = bool(training) and self.trainable
        inputs = tf.cast(inputs, tf.float32)
        outputs = function(inputs, training=training)
        if training and layers.replicas() > 1:
            self._average_statistics()
        return outputs

    def _average_statistics(self):
        """Gives all replicas the mean of what each of them has made of its own statistics."""
        context = tf.distribute.get_replica_context()
        for weight in self.non_trainable_variables:
            if weight.value.dtype.is_floating:
                mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, weight.value)
                tf.raw_ops.AssignVariableOp(resource=weight.value.handle, value=mean)

    def compute_output_spec(self, inputs, training=None):
        traced = tf.function(lambda x: self.module(x, training=False))
        output = traced.get_concrete_function(
            tf.TensorSpec(inputs.shape, tf.float32)
        ).structured_outputs
        return keras.KerasTensor((inputs.shape[0], *output.shape[1:]), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "handle": _name(self.handle), "sha256": self.hash}

    @classmethod
    def from_config(cls, config):
        name = _name(config["handle"])
        if name not in {_name(handle) for handle in cls.trusted}:
            raise ValueError(
                f"This model wants to load and run {name}, and a SavedModel is a program. If you "
                f"trust it, call keras_effv2.HubLayer.trusted.add({name!r}) and load it again; "
                f"to effv2 say --trust={name}."
            )
        return super().from_config(config)


class _Penalties(keras.regularizers.Regularizer):
    """The SavedModel's own penalties on what trains, as the regulariser of one of its variables."""

    def __init__(self, layer):
        self._layer = layer

    def __call__(self, _):
        return tf.add_n([loss() for loss in self._layer.regularization_losses])


class _Hidden:
    """Holds an object that is not to be tracked."""

    def __init__(self, value):
        self.value = value


def saved_model_hash(folder):
    """sha256 over the names and contents of a SavedModel's files, but for `assets.extra`."""
    digest = hashlib.sha256()
    folder = pathlib.Path(folder)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "assets.extra" not in file.parts and file.name != "fingerprint.pb":
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


# archive and its state, or folder of a store and its hash -> temporary folder, kept while the process
# lives
_unpacked: dict[tuple, tempfile.TemporaryDirectory] = {}


def _name(handle):
    """A handle as a file names it: local ones from the root."""
    return handle if weights.is_remote(handle) else os.path.abspath(files.expand(handle))


def _resolve(handle, sha256, trust):
    """The local folder of a handle."""
    if os.path.isdir(handle):
        if not os.path.exists(os.path.join(handle, "saved_model.pb")):
            raise FileNotFoundError(
                f"{handle} holds no SavedModel (saved_model.pb). Check the path."
            )
        return handle
    if not weights.is_remote(handle):
        if not handle.endswith((".tar.gz", ".tgz")) or not os.path.exists(handle):
            raise FileNotFoundError(f"There is no SavedModel {handle}. Check the path.")
        state = os.stat(handle)
        key = os.path.abspath(handle), state.st_mtime_ns, state.st_size
        if key not in _unpacked:
            folder = tempfile.TemporaryDirectory(prefix="keras_effv2_")
            files.unpack(handle, folder.name)
            _unpacked[key] = folder
        return _unpacked[key].name
    if sha256 is None and not trust:
        raise ValueError(
            f"{handle} is remote, and a SavedModel is a program. Give its `sha256`, or pass "
            "trust=True if you trust whoever serves it."
        )
    if handle.startswith(("http://", "https://", "hf://")) or not stores.is_address(handle):
        return weights.resolve_hub(handle)
    return _copied(files.place(handle, "A SavedModel"))


def _copied(path):
    """The local folder with a copy of what is in a store: TensorFlow reads assets as long as it runs."""
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        with files.fetched(path) as archive:
            return _resolve(str(archive), None, trust=True)
    if not (path / "saved_model.pb").exists():
        raise FileNotFoundError(f"There is no SavedModel {path}. Check the path.")
    folder = tempfile.TemporaryDirectory(prefix="keras_effv2_")
    copy = os.path.join(folder.name, "copy")
    path.fetch(pathlib.Path(copy))
    key = str(path), saved_model_hash(copy)
    return os.path.join(_unpacked.setdefault(key, folder).name, "copy")
