"""Training-aware search: which network of a space learns best for its time and its size."""

from keras_effv2.searching.layouts import Study, layouts
from keras_effv2.searching.reward import reward
from keras_effv2.searching.search import Result, search

__all__ = ["Result", "Study", "layouts", "reward", "search"]
