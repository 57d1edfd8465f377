"""Whoever imports Keras, and whenever: what a saved model may hold is registered."""

import subprocess
import sys

import pytest

CHECK = """
import sys
{first}
import keras
for name in ("Pixels", "AdamW", "RelativeAttention", "HubLayer", "gelu_tanh"):
    assert keras.saving.get_registered_object("keras_effv2>" + name) is not None, name
from keras_effv2 import layers
assert keras.saving.get_registered_object("keras_effv2>Pixels") is layers.Pixels
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("keras_eff")]
"""


@pytest.mark.parametrize(
    "first",
    [
        "import keras_effv2",
        "import keras_effv2.layers",  # one of ours imports Keras, others of ours need it
        "from keras_effv2.models.application import build",
        "import importlib.util, keras_effv2; importlib.util.find_spec('keras')",  # looks, only
    ],
)
def test_every_order_of_imports(first):
    subprocess.run([sys.executable, "-c", CHECK.format(first=first)], check=True)


def test_keras_alone_is_left_alone():
    code = "import sys, keras_effv2; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
