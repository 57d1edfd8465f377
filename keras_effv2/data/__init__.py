"""Pictures with labels, as batches at a given size: from folders, tables, shards and hubs.

A `Data` has up to three disjoint `Split`s. A split makes `tf.data` pipelines: training batches in an
order that depends on (seed, epoch) alone, so that any step can be resumed without decoding what
came before, and evaluation batches in which every picture counts once.
"""

from keras_effv2 import needs

with needs.naming("Data"):
    from keras_effv2.data.load import load, resolved
    from keras_effv2.data.split import Data, Split
    from keras_effv2.data.walking import EXTENSIONS, find_pictures

__all__ = ["Data", "EXTENSIONS", "Split", "find_pictures", "load", "resolved"]
