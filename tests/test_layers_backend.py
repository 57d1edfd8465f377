"""The same networks on TensorFlow, JAX and PyTorch."""

import json
import pathlib
import subprocess
import sys

import backend_outputs
import numpy as np
import pytest


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same(backend, tmp_path):
    pytest.importorskip(backend)
    path = tmp_path / "outputs.npy"
    command = [sys.executable, backend_outputs.__file__, backend, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    found, expected = np.load(path), backend_outputs.outputs()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_layers_on_jax_equal_keras():
    """Where JAX computes other operations than Keras' layers do: values, gradients, averages."""
    pytest.importorskip("jax")
    command = [sys.executable, str(pathlib.Path(__file__).with_name("jax_layers.py"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["convolutions"] == 0
    for distances in (found["depthwise"], found["norm"]):
        assert max(distances.values()) < 2e-6, distances
