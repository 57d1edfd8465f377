"""Every Python with this folder in PYTHONPATH lacks what Windows lacks."""

import sys
import warnings

sys.modules["fcntl"] = None
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that it locks by files alone
    try:
        import filelock  # noqa: F401
    except ImportError:
        pass
