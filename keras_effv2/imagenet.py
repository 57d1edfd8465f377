"""Stub, replaced by the weights branch."""


def preprocess_input(x, data_format=None, *, model=None):
    raise NotImplementedError


def decode_predictions(preds, top=5):
    raise NotImplementedError
