"""What a model gets right and wrong: accuracy with intervals, confusions, Grad-CAM, a report."""

from keras_effv2 import needs

with needs.naming("Evaluation"):
    from keras_effv2.evaluation.calibration import calibrate, calibration_error
    from keras_effv2.evaluation.doubts import Doubt, find_doubts
    from keras_effv2.evaluation.evaluate import Evaluation, evaluate, judge, wilson
    from keras_effv2.evaluation.explanations import attention_maps, gradcam
    from keras_effv2.evaluation.outputs import by_class, match_classes, probabilities, said
    from keras_effv2.evaluation.report import report
    from keras_effv2.evaluation.several import SeveralEvaluation, calibrate_several, judge_several

__all__ = [
    "Doubt",
    "Evaluation",
    "SeveralEvaluation",
    "attention_maps",
    "by_class",
    "calibrate",
    "calibrate_several",
    "calibration_error",
    "evaluate",
    "find_doubts",
    "gradcam",
    "judge",
    "judge_several",
    "match_classes",
    "probabilities",
    "report",
    "said",
    "wilson",
]
