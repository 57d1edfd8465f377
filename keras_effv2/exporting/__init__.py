"""Exports: reusable SavedModels for TF Hub, lean SavedModels, TFLite and ONNX.

Whatever is written is written beside its place, compared with the live model, and only then moved
there: what exists is whole and was verified.
"""

from keras_effv2 import needs

with needs.naming("Export"):
    from keras_effv2.exporting.folding import fold
    from keras_effv2.exporting.formats import FORMATS, export
    from keras_effv2.exporting.publishing import Published, publish
    from keras_effv2.exporting.reusable import KINDS, export_hub
    from keras_effv2.exporting.verification import Report

__all__ = ["FORMATS", "KINDS", "Published", "Report", "export", "export_hub", "fold", "publish"]
