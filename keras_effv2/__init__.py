"""EfficientNetV2 and CoAtNet for Keras 3: networks, progressive learning, export.

The public names are listed in `__init__.pyi` and imported when they are first used, so that what
needs no Keras, such as `effv2 --help`, does not wait for it. What a saved model may hold is known to
Keras all the same, see `registration`.
"""

import lazy_loader

from keras_effv2 import needs, registration

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name):
    with needs.naming(f"keras_effv2.{name}", needs.OTHER_BACKEND):
        return _attribute(name)


registration.register_when_keras_is_imported()
