"""The same networks on TensorFlow, JAX and PyTorch."""

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
