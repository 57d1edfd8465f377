"""What a model gets right and wrong: accuracy with intervals, confusions, Grad-CAM, a report."""

from keras_effv2 import needs

with needs.naming("Evaluation"):
    from keras_effv2.evaluation.evaluate import (
        Evaluation,
        calibration_error,
        evaluate,
        judge,
        wilson,
    )
    from keras_effv2.evaluation.explanations import attention_maps, gradcam
    from keras_effv2.evaluation.outputs import by_class, match_classes, probabilities
    from keras_effv2.evaluation.report import report

__all__ = [
    "Evaluation",
    "attention_maps",
    "by_class",
    "calibration_error",
    "evaluate",
    "gradcam",
    "judge",
    "match_classes",
    "probabilities",
    "report",
    "wilson",
]
