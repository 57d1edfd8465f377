"""The layers both families use: random dropping, batch normalisation, squeeze-excite, pixels.

Everything here is written with `keras.ops`, so it runs on TensorFlow, JAX and PyTorch. TensorFlow is
imported only inside the few functions that are about TensorFlow itself.
"""

import contextlib
import json
import threading

import keras
import numpy as np
from keras import ops

PACKAGE = "keras_effv2"


def _on_tensorflow():
    return keras.backend.backend() == "tensorflow"


def replicas():
    """Number of `tf.distribute` replicas in step with this one; 1 outside a strategy."""
    if not _on_tensorflow():
        return 1
    import tensorflow as tf

    if tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_replica_context().num_replicas_in_sync


# ------------------------------------------------------------------------------- computing twice


class Passes:
    """The first run of some layers and its repetition in the backward pass, see `rematerialization`.

    The repetition draws the random numbers of the first run and leaves moving averages alone.
    """

    _active = threading.local()  # replicas are traced in threads of their own

    def __init__(self):
        self.repeated = False
        self.seeds = []  # of the first run, in order
        self._runs = 0

    @classmethod
    def current(cls):
        """The passes within whose block the caller is, or None."""
        return getattr(cls._active, "passes", None)

    @contextlib.contextmanager
    def next(self):
        """Within the block layers know whether they are run for the first time or again."""
        self.repeated = self._runs > 0
        self._runs += 1
        self._active.passes = self
        try:
            yield
        finally:
            self._active.passes = None


# ------------------------------------------------------------------------------ random dropping


class ReplicaSeed(keras.random.SeedGenerator):
    """A seed generator that gives every `tf.distribute` replica its own masks.

    Keras mirrors the seed state, so plain seed generators draw the same dropout mask on all
    replicas. Here the replica's index is folded into each seed; the state itself stays mirrored.
    """

    def next(self, ordered=True):
        passes = Passes.current()
        if passes is not None and passes.repeated:
            return passes.seeds.pop(0)
        seed = self._next_of_replica(ordered)
        if passes is not None:
            passes.seeds.append(seed)
        return seed

    def _next_of_replica(self, ordered):
        seed = super().next(ordered=ordered)
        if replicas() == 1:
            return seed
        import tensorflow as tf

        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        golden = tf.cast(replica, seed.dtype) * tf.constant(0x9E3779B1, seed.dtype)
        return tf.stack([seed[0] + golden, seed[1]])


class _RandomDrop(keras.layers.Layer):
    """What `Dropout` and `DropPath` share: a rate that a compiled train step obeys.

    Keras bakes a layer's rate into the compiled step, where a later assignment is silently ignored.
    After `vary_rate()` the rate lives in a scalar `tf.Variable` that the step reads. The variable is
    no weight: `count_params`, `get_weights`, `.weights.h5` and `.keras` do not know it.
    """

    strength = None  # the `Phase` field this layer takes

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise ValueError(
                f"`rate` of layer {self.name!r} is a probability in [0, 1). Received: rate={rate!r}."
            )
        self.built_rate = float(rate)  # what phases that say nothing have
        self._hidden = _HiddenRate(self.built_rate)
        self.seed = seed
        self.seed_generator = ReplicaSeed(seed)
        self.supports_masking = True

    @property
    def rate(self):
        """The current strength, a float."""
        return self._hidden.value

    @rate.setter
    def rate(self, value):
        if not 0 <= value < 1:
            raise ValueError(
                f"`rate` of layer {self.name!r} is a probability in [0, 1). Received: {value!r}."
            )
        self._hidden.set(float(value))

    def vary_rate(self):
        """Keeps the rate in a variable from now on. Call before tracing, in the strategy's scope."""
        self._hidden.make_variable()

    @contextlib.contextmanager
    def fixed_rate(self):
        """Within the block the rate is a constant, for what is traced there."""
        variable, self._hidden.variable = self._hidden.variable, None
        try:
            yield
        finally:
            self._hidden.variable = variable

    def fix_rate(self):
        """Makes the rate a constant again; later traces bake it in."""
        self._hidden.variable = None

    def _probability(self):
        """Probability of dropping: a float, or a scalar tensor while the rate varies."""
        return self._hidden.read()

    def _noise_shape(self, inputs):
        return ops.shape(inputs)

    def call(self, inputs, training=False):
        rate = self._probability()
        if not training or (isinstance(rate, float) and rate == 0.0):
            return inputs
        noise = keras.random.uniform(
            self._noise_shape(inputs), dtype="float32", seed=self.seed_generator
        )
        keep = ops.cast(noise >= rate, inputs.dtype)
        return inputs * keep * ops.cast(1.0 / (1.0 - rate), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class _HiddenRate:
    """A number, or the variable that holds it; a plain object, so that Keras does not track it."""

    def __init__(self, value):
        self.value = value
        self.variable = None

    def make_variable(self):
        if self.variable is None and _on_tensorflow():
            import tensorflow as tf

            with tf.init_scope():
                self.variable = tf.Variable(
                    self.value,
                    trainable=False,
                    dtype="float32",
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )

    def set(self, value):
        self.value = value
        if self.variable is not None:
            self.variable.assign(value)

    def read(self):
        if self.variable is None:
            return self.value
        import tensorflow as tf

        return tf.convert_to_tensor(self.variable)


@keras.saving.register_keras_serializable(PACKAGE)
class Dropout(_RandomDrop):
    """Zeroes single elements at random during training and scales the rest by `1 / (1 - rate)`.

    Unlike `keras.layers.Dropout` it may be built with rate 0 and turned up later, draws different
    masks on different replicas, and obeys a changed rate inside a compiled step.

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.

    Args:
        rate: Probability of dropping an element, a float in `[0, 1)`.
        seed: Optional integer seed.

    Call arguments:
        inputs: Tensor of any shape.
        training: Whether to drop. Set by Keras.

    Raises:
        ValueError: If `rate` is outside `[0, 1)`.

    Example:

    >>> float(keras.ops.sum(Dropout(0.0)(keras.ops.ones((2, 4)), training=True)))
    8.0
    """

    strength = "dropout"


@keras.saving.register_keras_serializable(PACKAGE)
class DropPath(_RandomDrop):
    """Drops a residual branch for whole samples, at random, during training.

    With probability `rate * depth` the branch of a sample becomes zero; kept branches are scaled so
    that the expectation is unchanged. At inference the layer does nothing. Known elsewhere as
    stochastic depth or "drop connect".

    Source: Huang et al. 2016, https://arxiv.org/abs/1603.09382.

    Args:
        rate: The network's strength, a float in `[0, 1)`, the same in all its blocks.
        depth: Position of the block, index / number of blocks, a float in `[0, 1]`: early blocks
            drop less.
        seed: Optional integer seed.

    Call arguments:
        inputs: Tensor `(batch, ...)`.
        training: Whether to drop. Set by Keras.

    Output shape:
        As the input.

    Raises:
        ValueError: If `rate` or `depth` is out of range.

    Example:

    >>> DropPath(0.2, depth=0.5)(keras.ops.ones((2, 4))).shape
    TensorShape([2, 4])
    """

    strength = "drop_path"

    def __init__(self, rate, depth=1.0, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)
        if not 0 <= depth <= 1:
            raise ValueError(f"`depth` of layer {self.name!r} is in [0, 1]. Received: {depth!r}.")
        self.depth = float(depth)

    def _probability(self):
        return super()._probability() * self.depth

    def _noise_shape(self, inputs):
        return (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


# ------------------------------------------------------------------------- batch normalisation


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, with TensorFlow's fused kernel where there is one.

    The same values, the same weights and the same names as Keras' layer, which on TensorFlow
    computes moments and normalisation in separate passes. With more than one replica the moments
    are taken over the global batch. Set `fused=False` to use Keras' own computation everywhere.

    Args:
        fused: Whether to use the fused kernel on TensorFlow (channels last, rank 4 only).
        **kwargs: As `keras.layers.BatchNormalization`.
    """

    def __init__(self, fused=True, **kwargs):
        super().__init__(**kwargs)
        self.fused = fused

    def get_config(self):
        return {**super().get_config(), "fused": self.fused}

    def _can_fuse(self, inputs, mask):
        return (
            self.fused
            and _on_tensorflow()
            and mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
        )

    def call(self, inputs, training=None, mask=None):
        training = bool(training) and self.trainable
        if training and replicas() > 1:
            return self._synchronized(inputs)
        if not self._can_fuse(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        return self._fused(inputs, training)

    def _fused(self, inputs, training):
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)
        # The kernel takes its parameters in float32 whatever the inputs are.
        gamma, beta, moving_mean, moving_variance = (
            tf.cast(tf.convert_to_tensor(variable.value), tf.float32)
            for variable in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        if not training:
            outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                gamma,
                beta,
                mean=moving_mean,
                variance=moving_variance,
                epsilon=self.epsilon,
                is_training=False,
            )
            return outputs
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, gamma, beta, epsilon=self.epsilon, is_training=True
        )
        # The kernel reports the variance with N - 1 below; Keras keeps the one with N.
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
        self._update_moving(mean, variance * (count - 1.0) / count)
        return outputs

    def _synchronized(self, inputs):
        """Moments over the global batch, as Keras computes them with `synchronized=True`."""
        import tensorflow as tf

        x = tf.cast(inputs, tf.float32)
        axes = [axis for axis in range(len(x.shape)) if axis != self.axis % len(x.shape)]
        local = tf.stack(
            [tf.reduce_sum(x, axes), tf.reduce_sum(tf.square(x), axes)]
            + [tf.fill([x.shape[-1]], tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32))]
        )
        # tf.distribute's all_reduce has a gradient, so the moments' gradients are global too.
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, local)
        mean = total[0] / total[2]
        variance = tf.maximum(total[1] / total[2] - tf.square(mean), 0.0)
        self._update_moving(mean, variance)
        gain = tf.math.rsqrt(variance + self.epsilon)
        if self.scale:
            gain = gain * self.gamma.value
        shift = -mean * gain
        if self.center:
            shift = shift + self.beta.value
        return tf.cast(x * gain + shift, inputs.dtype)

    def _update_moving(self, mean, variance):
        passes = Passes.current()
        if passes is not None and passes.repeated:
            return
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = ops.cast(ops.stop_gradient(batch), moving.dtype)
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))


# --------------------------------------------------------------------------------- convolutions


_traced_for = threading.local()


@contextlib.contextmanager
def portable():
    """Within the block layers compute with the usual operations, as for any device."""
    before = getattr(_traced_for, "any_device", False)
    _traced_for.any_device = True
    try:
        yield
    finally:
        _traced_for.any_device = before


def _on_cpus():
    """Whether TensorFlow computes on CPUs only: the shortcuts below are about their kernels."""
    if not _on_tensorflow() or getattr(_traced_for, "any_device", False):
        return False
    import tensorflow as tf

    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


def _is_pixel(x):
    return tuple(x.shape[1:3]) == (1, 1)


@keras.saving.register_keras_serializable(PACKAGE)
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, whose 1x1 convolutions are matrix products where that is faster.

    TensorFlow's CPU kernels need about half the time for the gradients of a product that they need
    for those of the same convolution, and a third for maps of one pixel. The same values up to
    rounding, the same weights and names as Keras' layer.
    """

    def call(self, inputs, training=False):
        if not (self._is_product() and (training or _is_pixel(inputs)) and _on_cpus()):
            return super().call(inputs)
        *around, channels = ops.shape(inputs)
        x = ops.reshape(inputs, (-1, channels))  # (b * h * w, c)
        x = ops.matmul(x, ops.reshape(self.kernel, (channels, self.filters)))
        x = x + self.bias if self.use_bias else x
        return self.activation(ops.reshape(x, (*around, self.filters)))

    def _is_product(self):
        one = tuple(self.kernel_size) == tuple(self.strides) == (1, 1)
        return one and self.groups == 1 and self.data_format == "channels_last"


@keras.saving.register_keras_serializable(PACKAGE)
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D`, which trains in float32 on CPUs where the policy is mixed.

    TensorFlow's CPU kernels need five times as long for its gradients in bfloat16 as in float32.
    Weights and names are those of Keras' layer.
    """

    def call(self, inputs, training=False):
        half = self.compute_dtype in ("bfloat16", "float16")
        if not (training and half and not self.use_bias and _on_cpus()):
            return super().call(inputs)
        x = ops.depthwise_conv(
            ops.cast(inputs, "float32"),
            ops.cast(self.kernel, "float32"),
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        return self.activation(ops.cast(x, self.compute_dtype))


# ------------------------------------------------------------------------------------ activation


@keras.saving.register_keras_serializable(PACKAGE)
def silu(x):
    """`x * sigmoid(x)`; on CPUs its gradient is made in fewer passes over memory than TensorFlow's.

    With y = x s, s = sigmoid(x), the derivative is s + y (1 - s), here as s (1 + x - y) where one
    kernel gives s times the incoming gradient, or, in 16 bits, as y + s (1 - y) with s from the
    float32 kernel: those for 16 bits compute number by number.
    """
    if not _on_cpus():
        return keras.activations.silu(x)
    import tensorflow as tf

    @tf.custom_gradient
    def forward(x):
        y = tf.nn.silu(x)

        def gradient(upstream):
            with tf.control_dependencies([upstream]):  # not before, where it would fill memory
                if x.dtype in (tf.bfloat16, tf.float16):
                    s = tf.cast(tf.sigmoid(tf.cast(x, tf.float32)), x.dtype)
                    return upstream * (y + s * (1 - y))
                return tf.raw_ops.SoftplusGrad(gradients=upstream, features=x) * ((x - y) + 1)

        return y, gradient

    return forward(x)


# ------------------------------------------------------------------------------- squeeze-excite


def squeeze_excite(x, width, activation, name, kernel_initializer):
    """Gates channels by a small network of their means: `(b, h, w, c)` -> `(b, h, w, c)`.

    Source: Hu et al. 2018, https://arxiv.org/abs/1709.01507.

    Args:
        x: Tensor `(batch, height, width, channels)`.
        width: Channels of the bottleneck, a positive integer.
        activation: Activation inside the bottleneck; the gate is a sigmoid.
        name: Prefix of the layers' names.
        kernel_initializer: A function that makes an initializer.
    """
    channels = x.shape[-1]
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=name + "se_squeeze")(x)
    gate = Conv2D(
        width,
        1,
        activation=activation,
        kernel_initializer=kernel_initializer(),
        name=name + "se_reduce",
    )(gate)
    gate = Conv2D(
        channels,
        1,
        activation="sigmoid",
        kernel_initializer=kernel_initializer(),
        name=name + "se_expand",
    )(gate)
    # x first: Keras walks the graph recursively, first input first, and the gate is the long way.
    return keras.layers.Multiply(name=name + "se_excite")([x, gate])


# --------------------------------------------------------------------------------------- pixels

# (x - mean) / deviation, per channel, for x in 0..255.
PIXELS = {
    "imagenet": (
        tuple(255 * m for m in (0.485, 0.456, 0.406)),
        tuple(255 * s for s in (0.229, 0.224, 0.225)),
    ),
    "128": ((128.0,), (128.0,)),
    "127.5": ((127.5,), (127.5,)),
}


def check_pixels(pixels, channels=3):
    """Returns `pixels` if it names a contract that fits `channels`, else raises `ValueError`."""
    if pixels not in PIXELS:
        raise ValueError(f"`pixels` is one of {sorted(PIXELS)}. Received: pixels={pixels!r}.")
    if pixels == "imagenet" and channels != 3:
        raise ValueError(
            f"`pixels='imagenet'` normalises 3 channels, the input has {channels}. "
            "Pass pixels='128' or pixels='127.5'."
        )
    return pixels


def normalize(x, pixels):
    """Maps 0..255 to the network's range under a contract, with `keras.ops` or NumPy arithmetic."""
    mean, deviation = PIXELS[pixels]
    return (x - np.asarray(mean, "float32")) / np.asarray(deviation, "float32")


@keras.saving.register_keras_serializable(PACKAGE)
class Pixels(keras.layers.Layer):
    """The model's contract with the outside: which pixels it takes and what its outputs mean.

    The layer has no weights. It normalises 0..255 in float32 under every dtype policy, and it
    travels with the model: in its config (`.keras`, exports) and in `.weights.h5` files, where
    loading a file made for other pixels is an error.

    Args:
        pixels: `"imagenet"` ((x - mean) / std of ImageNet), `"128"` ((x - 128) / 128) or
            `"127.5"` (x / 127.5 - 1).
        enabled: Whether the layer normalises; if not, it expects pixels already normalised.
        image_size: Side in pixels at which the model is evaluated.
        crop: `"none"` (the whole image is squeezed to a square) or `"automl"` (a centre square of
            side `int(size / (size + 32) * min(height, width))`).
        resize: `"bilinear"` or `"bicubic"`.
        activation: Activation the head was trained with, `"softmax"` or `"sigmoid"`.
        class_names: Optional list of the outputs' names.
        features: Optional dictionary from `reduction_1` .. to the names of the layers that give
            these feature maps.
    """

    def __init__(
        self,
        pixels="128",
        enabled=True,
        image_size=None,
        crop="none",
        resize="bilinear",
        activation="softmax",
        class_names=None,
        features=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pixels = check_pixels(pixels)
        self.enabled = enabled
        self.image_size = image_size
        self.crop = crop
        self.resize = resize
        self.activation = activation
        self.class_names = tuple(class_names) if class_names else None
        self.features = dict(features or {})
        self.supports_masking = True
        self.autocast = False  # bfloat16 cannot tell 254 from 255

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        if self.enabled:
            mean, deviation = PIXELS[self.pixels]
            x = (x - ops.convert_to_tensor(mean, "float32")) / ops.convert_to_tensor(
                deviation, "float32"
            )
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def contract(self):
        """Everything the layer says, as a dictionary that JSON can hold."""
        return {
            "pixels": self.pixels,
            "enabled": self.enabled,
            "image_size": self.image_size,
            "crop": self.crop,
            "resize": self.resize,
            "activation": self.activation,
            "class_names": list(self.class_names) if self.class_names else None,
        }

    def get_config(self):
        return {**super().get_config(), **self.contract(), "features": dict(self.features)}

    def save_own_variables(self, store):
        store["contract"] = np.frombuffer(json.dumps(self.contract()).encode(), np.uint8)

    def load_own_variables(self, store):
        if "contract" not in store:
            return  # a file that Keras' own models wrote
        read = json.loads(np.asarray(store["contract"]).astype(np.uint8).tobytes())
        if read["pixels"] != self.pixels:
            raise ValueError(
                f"These weights were made for pixels={read['pixels']!r}, the model was built with "
                f"pixels={self.pixels!r}. Build it with pixels={read['pixels']!r}."
            )
        self.activation = read["activation"]
        for key in ("image_size", "crop", "resize"):
            setattr(self, key, read[key] or getattr(self, key))
        self.class_names = tuple(read["class_names"]) if read["class_names"] else None


def find_pixels(model):
    """Returns the model's `Pixels` layer, searching nested models too, or None."""
    for layer in walk(model):
        if isinstance(layer, Pixels):
            return layer
    return None


def walk(model):
    """Yields the layers of a model and of the models nested in it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from walk(layer)


def side_of(model, image_size=None):
    """The side in pixels of the square pictures that a model is given.

    Args:
        model: A `keras.Model` of pictures `(side, side, 3)`.
        image_size: The side that is wished; None takes the model's: that of its input, else that of
            its contract, else 224.

    Raises:
        ValueError: If the model does not take such pictures.
    """
    shape = tuple(_built(model).inputs[0].shape)
    if len(shape) != 4 or shape[-1] != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"Model {model.name!r} takes inputs of shape {shape}; pictures here are squares of three "
            "channels, (None, side, side, 3)."
        )
    if shape[1] is not None and image_size not in (None, shape[1]):
        raise ValueError(
            f"Model {model.name!r} takes pictures of {shape[1]} pixels alone. Received "
            f"image_size={image_size}: leave it out, or build the model without `input_shape`."
        )
    check_preprocessing(model)
    pixels = find_pixels(model)
    side = image_size or shape[1] or (pixels and pixels.image_size) or 224
    if side % side_multiple(model):
        raise ValueError(
            f"Model {model.name!r} takes sides that are multiples of {side_multiple(model)} pixels. "
            f"Received: {side}."
        )
    return side


def require_tensorflow(what):
    """Refuses what is written in TensorFlow while Keras runs on something else."""
    if not _on_tensorflow():
        raise RuntimeError(
            f"{what} runs on TensorFlow alone, Keras runs on {keras.backend.backend()} here. Set "
            "KERAS_BACKEND=tensorflow before Python starts."
        )


def check_preprocessing(model):
    """Refuses a model that does not normalise pixels itself."""
    pixels = find_pixels(model)
    if pixels is not None and not pixels.enabled:
        raise ValueError(
            f"Model {model.name!r} was built with include_preprocessing=False and takes what "
            "preprocess_input(x, model=model) makes; here models take pixels 0..255. Build it with "
            "include_preprocessing=True and load its weights."
        )


def side_multiple(model):
    """What the side of a model's pictures has to be a multiple of: 32 with relative attention."""
    attends = any(type(layer).__name__ == "RelativeAttention" for layer in walk(model))
    return 32 if attends else 1


# ------------------------------------------------------------------------- other views of a model


def is_dynamic(model):
    """Whether a model takes images of any size."""
    return tuple(model.inputs[0].shape[1:3]) == (None, None)


def dynamic_clone(model):
    """The same layers and weights on an input `(None, None, channels)`."""
    channels = model.inputs[0].shape[-1]
    clone = keras.models.clone_model(model, keras.Input((None, None, channels)))
    clone.set_weights(model.get_weights())
    return clone


def calls(model):
    """The calls that a functional model is made of, in order.

    `layer.input` and `layer.output` are those of a layer's first call, whichever model made it.

    Returns:
        A list of `(operation, tensors in, tensors out)`; the operation is a layer or of `keras.ops`.
    """
    depths = _functional(model)._nodes_by_depth
    nodes = [node for depth in sorted(depths, reverse=True) for node in depths[depth]]
    return [(x.operation, x.input_tensors, x.output_tensors) for x in nodes if not x.is_input]


def flattened(model):
    """The model with the layers of the models nested in it as its own, sharing them."""
    flat = _functional(model)

    def call(operation, *args, **options):
        return (operation.call if _is_graph(operation) else operation)(*args, **options)

    while any(_is_graph(operation) for operation, _, _ in calls(flat)):
        flat = keras.models.clone_model(
            flat,
            input_tensors=flat.input,
            clone_function=lambda operation: operation,
            call_function=call,
        )
    return flat


def logits_of(model):
    """The model without its last activation, sharing its layers and weights.

    Raises:
        ValueError: If the model gives probabilities by something else than its last activation.
    """
    inputs = _functional(model).input
    made = calls(model)
    head, given, _ = made[-1]
    if isinstance(head, keras.layers.Dense):
        if head.activation is keras.activations.linear:
            return model
        return keras.Model(inputs, _Logits(head)(given[0]))
    if _is_activation(head):
        before = keras.Model(inputs, given[0])
        changes_nothing = getattr(head, "activation", None) is keras.activations.linear
        return logits_of(before) if changes_nothing or type(head).__name__ == "Cast" else before
    if _is_graph(head):
        return _with_head(model, head, logits_of(head))  # a head that is a model of its own
    makers = {id(x): operation for operation, _, outputs in made for x in outputs}
    after = all(_gives_probabilities(makers.get(id(x))) for x in given)
    if _gives_probabilities(head) or (after and not getattr(head, "weights", ())):
        raise ValueError(
            f"Model {model.name!r} ends in {head.name!r}, which gives or takes probabilities, so its "
            "logits are unknown. Let it end in a Dense layer, or in the softmax or sigmoid itself."
        )
    return model


def head_of(model):
    """The last operation of a model that is no activation; of a model nested there, its last."""
    head = [operation for operation, _, _ in calls(model) if not _is_activation(operation)][-1]
    return head_of(head) if _is_graph(head) else head


def _is_activation(operation):
    """Whether an operation is an activation by itself, or a cast, as it may follow a head."""
    kinds = (keras.layers.Activation, keras.layers.Softmax)
    return isinstance(operation, kinds) or type(operation).__name__ in (*_PROBABILITIES, "Cast")


_PROBABILITIES = ("Softmax", "Sigmoid")  # the classes behind keras.ops.softmax and sigmoid


def _gives_probabilities(operation):
    if _is_graph(operation):
        return _gives_probabilities(calls(operation)[-1][0])
    activations = (keras.activations.softmax, keras.activations.sigmoid)
    named = type(operation).__name__ in _PROBABILITIES
    return named or getattr(operation, "activation", None) in activations


def _is_graph(operation):
    """Whether an operation is a model whose own calls are known."""
    return isinstance(operation, keras.Model) and bool(getattr(operation, "inputs", None))


def _functional(model):
    """A `Sequential`, or any model with a graph, as a functional model of the same tensors."""
    ends = (_built(model).inputs, model.outputs)
    return keras.Model(*(tensors[0] if len(tensors) == 1 else tensors for tensors in ends))


def _built(model):
    """The model; a `Sequential` that has never seen a picture gets its input."""
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, None, None, 3))
    return model


def _with_head(model, head, other):
    """The model with another last layer."""
    if other is head:
        return model
    if isinstance(model, keras.Sequential):
        x = model.inputs[0]
        for layer in model.layers[:-1]:
            x = layer(x)
        return keras.Model(model.inputs[0], other(x))
    uncompiled = keras.Model(model.input, model.output)
    return keras.models.clone_model(
        uncompiled,
        input_tensors=model.input,
        clone_function=lambda layer: layer,
        call_function=lambda layer, *args, **options: (other if layer is head else layer)(
            *args, **options
        ),
    )


class _Logits(keras.layers.Layer):
    """A dense layer without its activation; the weights stay the dense layer's."""

    def __init__(self, dense):
        super().__init__(dtype="float32", name="logits")
        self._dense = (dense,)  # a tuple in a tuple is not tracked twice: the head stays the owner

    def call(self, inputs):
        (dense,) = self._dense
        logits = ops.matmul(inputs, dense.kernel)
        return logits if dense.bias is None else logits + dense.bias
