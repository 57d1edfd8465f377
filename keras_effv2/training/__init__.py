"""Training: a strategy, one compiled step, a loop over phases that can be killed at any moment.

Keras 3's `fit` is wrong or crashes under `tf.distribute` in several ways (clipping per replica,
equal dropout masks, ragged tails, multi-worker), so the loop here runs its own step through
`strategy.run` and drives Keras callbacks itself. Read `loop.py` first.
"""

from keras_effv2 import needs

with needs.naming("Training"):
    from keras_effv2.training.loop import check_trainable, train
    from keras_effv2.training.run import Result
    from keras_effv2.training.step import cross_entropy
    from keras_effv2.training.stopping import TERMINATED
    from keras_effv2.training.strategy import STRATEGIES, has_workers, is_chief, make_strategy
    from keras_effv2.training.unseen import unseen

__all__ = [
    "STRATEGIES",
    "TERMINATED",
    "Result",
    "check_trainable",
    "cross_entropy",
    "has_workers",
    "is_chief",
    "make_strategy",
    "train",
    "unseen",
]
