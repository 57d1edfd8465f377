"""The way on TPUs: `model.fit` on JAX with Keras' own distribution and checkpoints."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent

pytestmark = pytest.mark.slow

RATES = """
import keras, numpy as np
import keras_effv2 as kev

phases = kev.ramp(2, 2, dropout=(0.0, 0.9))
pl = kev.ProgressiveLearning(phases)
model = keras.Sequential([keras.Input((64,)), kev.layers.Dropout(0.0), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.0), "mse")
ones = np.ones((8, 64), "float32")
history = model.fit(ones, model.predict(ones, verbose=0), epochs=2, callbacks=[pl], verbose=0)
print(*history.history["loss"])
"""


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A function that trains on so many forced devices, in a process of its own."""
    pytest.importorskip("jax")
    folder = tmp_path_factory.mktemp("jax")

    def run(devices, checkpoints=""):
        file = folder / f"{devices}{checkpoints}.npz"
        command = [sys.executable, str(HERE / "jax_fit.py"), str(devices), str(file)]
        command += [str(folder / checkpoints)] if checkpoints else []
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
        return np.load(file)

    return run


def test_a_compiled_step_obeys_a_new_rate_at_the_same_size():
    """Nothing is learnt: the loss is 0 until something is dropped."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-c", RATES]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    first, second = map(float, done.stdout.split()[-2:])
    assert first < 1e-9 and second > 1e-3


COMPILES = """
import keras, numpy as np
import keras_effv2 as kev
from jax_notes import compilations

compiled = compilations()
pl = kev.ProgressiveLearning(kev.ramp(6, 2, image_size=(8, 16), dropout=(0.1, 0.3)))
images = keras.Input((None, None, 3))
x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
model = keras.Model(images, keras.layers.Dense(2, "softmax")(kev.layers.Dropout(0.0)(x)))
model.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy")
data = pl.dataset((np.zeros((8, 16, 16, 3), "uint8"), np.arange(8) % 2), batch_size=4)
model.fit(data, epochs=pl.epochs, callbacks=[pl], shuffle=False, verbose=0)
print(sum("Compiling jit(train_step)" in said for said in compiled))
"""


def test_a_step_is_compiled_once_an_image_size():
    """Six epochs of two sizes, by what JAX logs."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path}
    command = [sys.executable, "-c", COMPILES]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.split()[-1] == "2"


@pytest.fixture(scope="module")
def one_device(fit):
    return fit(1)


def assert_equal(found, expected, epochs=2):
    np.testing.assert_allclose(found["losses"], expected["losses"][-epochs:], atol=1e-4)
    for name in expected.files:
        if name.startswith("arr"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_are_one(devices, fit, one_device):
    """Losses, weights and batch statistics of the global batch, dropout included."""
    assert_equal(fit(devices), one_device)


@pytest.mark.skipif(
    not importlib.util.find_spec("orbax"), reason="keras.callbacks.OrbaxCheckpoint needs orbax"
)
def test_orbax_goes_on_with_other_devices(fit, one_device):
    """Ended after the first phase on two devices, gone on with on four."""
    assert len(fit(2, "checkpoints")["losses"]) == 1
    found = fit(4, "checkpoints")
    assert found["first"] == 1
    assert_equal(found, one_device, epochs=1)
