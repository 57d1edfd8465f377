"""Lets Keras know what a saved model of ours may hold, as soon as Keras is imported.

Keras loads a model by looking its classes up among those that are registered; it imports none by
itself. To import Keras takes seconds, as it imports TensorFlow, and there is much to do without it.
So `import keras_effv2` leaves Keras alone, and the classes follow when somebody imports it.
"""

import functools
import importlib
import importlib.abc
import sys

MODULES = ("layers", "optimizers", "models")  # in which classes and functions register themselves


def register():
    """Imports `MODULES`, and `hub` where it works."""
    import keras

    for name in MODULES if keras.backend.backend() != "tensorflow" else (*MODULES, "hub"):
        importlib.import_module(f"keras_effv2.{name}")


def register_when_keras_is_imported():
    """Registers now if Keras is imported already, else when it will be."""
    if "keras" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Watch())


class _Watch(importlib.abc.MetaPathFinder):
    """Finds modules as ever, and notes when an import of Keras has ended.

    One of our own modules may be what imports Keras. It is half made then, and others need it, so
    registration waits for the end of the outermost import, be it of Keras or of a module of ours.
    """

    def __init__(self):
        self._begun = 0
        self._keras_is_there = False

    def find_spec(self, name, path=None, target=None):
        if name != "keras" and not name.startswith("keras_effv2."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(self._execute, spec.loader.exec_module)
        return spec

    def _execute(self, execute, module):
        self._begun += 1
        try:
            execute(module)
            self._keras_is_there |= module.__name__ == "keras"  # not where it found no backend
        finally:
            self._begun -= 1
            if not self._begun and self._keras_is_there and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()
