"""Fine-tuning on somebody's pictures with settings that do well without being told.

The head comes first: features of the frozen backbone are computed once and a logistic regression is
solved on them, in seconds. Then everything trains, gently, from a head that already makes sense
(a random head's gradients would first spoil the backbone; Kumar et al. 2022, arXiv 2202.10054).
Batch statistics stay those of ImageNet: a few hundred pictures estimate them worse.
"""

from keras_effv2 import needs

with needs.naming("Fine-tuning"):
    from keras_effv2.finetuning.finetune import finetune
    from keras_effv2.finetuning.freezing import POLICIES, freeze
    from keras_effv2.finetuning.head import fit_head
    from keras_effv2.finetuning.planning import estimate, plan

__all__ = ["POLICIES", "estimate", "finetune", "fit_head", "freeze", "plan"]
