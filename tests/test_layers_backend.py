"""The same networks on TensorFlow, JAX and PyTorch."""

import subprocess
import sys

import numpy as np
import pytest

_BACKEND = """
import os, sys
os.environ["KERAS_BACKEND"] = sys.argv[1]
import builtins, importlib
real = builtins.__import__
def guarded(name, *args, **kwargs):
    if name.split(".")[0] == "tensorflow" and sys.argv[1] != "tensorflow":
        raise ImportError("tensorflow is not installed")
    return real(name, *args, **kwargs)
builtins.__import__ = guarded
sys.path.insert(0, sys.argv[2])
import numpy as np
import keras
from keras_effv2.models import coatnet, coatnet_rw, efficientnet_v2
import rows
images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
outputs = []
families = (efficientnet_v2, coatnet, coatnet_rw)
for family, row in zip(families, (rows.efficientnet, rows.coatnet, rows.coatnet_rw)):
    model = family.build(row, weights=None, classes=10, classifier_activation=None)
    random = np.random.default_rng(1)
    for weight in model.weights:
        value = random.normal(0, 0.1, weight.shape)
        weight.assign(np.abs(value) + 0.9 if weight.name in ("gamma", "moving_variance") else value)
    outputs.append(keras.ops.convert_to_numpy(model(images)))
np.save(sys.argv[3], np.stack(outputs))
"""


_ROWS = """
import dataclasses
from keras_effv2.models import coatnet as c, coatnet_rw as rw, efficientnet_v2 as e
row = e.VARIANTS["EfficientNetV2B0"]
stages = tuple(dataclasses.replace(s, repeats=2, channels=8) for s in row.stages)
efficientnet = dataclasses.replace(row, stages=stages, stem=8, top=16, pixels="128")
row = c.VARIANTS["CoAtNet0"]
stages = tuple(dataclasses.replace(s, repeats=2, channels=8) for s in row.stages)
coatnet = dataclasses.replace(row, stages=stages, stem=8, head_size=4, hidden=16)
row = rw.VARIANTS["CoAtNet1RWMax"]
stages = tuple(dataclasses.replace(s, repeats=2, channels=32) for s in row.stages)
coatnet_rw = dataclasses.replace(row, stages=stages, stem=8, weights=None)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same(backend, tmp_path):
    pytest.importorskip(backend)
    (tmp_path / "rows.py").write_text(_ROWS)
    outputs = []
    for name in ("tensorflow", backend):
        path = tmp_path / f"{name}.npy"
        subprocess.run(
            [sys.executable, "-c", _BACKEND, name, str(tmp_path), str(path)],
            check=True,
            capture_output=True,
        )
        outputs.append(np.load(path))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-4 * np.abs(outputs[0]).max())
