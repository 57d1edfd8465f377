"""Whoever imports Keras, and whenever: what a saved model may hold is registered."""

import subprocess
import sys

FIRST = (
    "import keras_effv2",
    "import keras_effv2.layers",  # one of ours imports Keras, others of ours need it
    "from keras_effv2.models.application import build",
    "import importlib.util, keras_effv2; importlib.util.find_spec('keras')",  # looks, only
)
CHECK = """
import sys
assert not {"keras", "keras_effv2"} & set(sys.modules)
%s
import keras
for name in ("Pixels", "AdamW", "RelativeAttention", "HubLayer", "gelu_tanh"):
    assert keras.saving.get_registered_object("keras_effv2>" + name) is not None, name
from keras_effv2 import layers
assert keras.saving.get_registered_object("keras_effv2>Pixels") is layers.Pixels
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("keras_eff")]
"""
FORK = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import tensorflow  # takes longest, and leaves Keras 3 alone then
del os.environ["TF_USE_LEGACY_KERAS"]
for code in sys.argv[1:]:
    if not os.fork():
        exec(code)
        os._exit(0)
    assert os.wait()[1] == 0, code
"""


def test_every_order_of_imports():
    """Each in a fork of a process that has imported TensorFlow alone."""
    codes = [CHECK % first for first in FIRST]
    done = subprocess.run([sys.executable, "-c", FORK, *codes], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_keras_alone_is_left_alone():
    code = "import sys, keras_effv2; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
