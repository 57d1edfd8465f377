"""Released checkpoints, and a loader that loads everything or raises."""

from keras_effv2.files import unpack
from keras_effv2.weights.download import home, is_offline
from keras_effv2.weights.handles import is_remote, kept_at_home, resolve_hub, resolve_repository
from keras_effv2.weights.loading import assign, classes_of, convert, download, open_checkpoint
from keras_effv2.weights.readers import Checkpoint, read
from keras_effv2.weights.table import CHECKPOINTS, STORAGE, Row, list_weights

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "Row",
    "STORAGE",
    "assign",
    "classes_of",
    "convert",
    "download",
    "home",
    "is_offline",
    "is_remote",
    "kept_at_home",
    "list_weights",
    "open_checkpoint",
    "read",
    "resolve_hub",
    "resolve_repository",
    "unpack",
]
