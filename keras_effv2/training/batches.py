"""Pictures for the replicas: the batches of an epoch, and those of an evaluation."""

import concurrent.futures

import tensorflow as tf

from keras_effv2 import recipes
from keras_effv2.phases import phase_at
from keras_effv2.training.strategy import is_late, is_tpu


class Batches:
    """The training batches of every epoch; within its block those of the next are made ready.

    Making a pipeline takes a second or two for its tracing, which a step does not need: a thread
    does it. With several replicas it waits: TensorFlow mixes up device iterators of two threads.

    Args:
        split: A training `Split`.
        phases: `Phase` rows that say size and batch size.
        recipe: A `Recipe`.
        strategy: A `tf.distribute.Strategy`.
        static: Whether the compiler of the step is to know the image size: where every size is
            compiled for itself, and for a model of a single one.
    """

    def __init__(self, split, phases, recipe, strategy, static=False):
        self.split, self.phases, self.recipe, self.strategy = split, phases, recipe, strategy
        self.static = static or is_tpu(strategy)
        self._ahead = None  # (epoch, skip), future iterator

    def __enter__(self):
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        return self

    def __exit__(self, *_):
        self._pool.shutdown()

    def of(self, epoch, skip=0):
        """An iterator of an epoch's batches without the first `skip`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == (epoch, skip):
            iterator = ahead[1].result()
        else:
            iterator = iter(self._made(epoch, skip))
        alone = self.strategy.num_replicas_in_sync == 1 and not is_late(self.strategy)
        if alone and epoch + 1 < self.recipe.epochs:
            following = self._pool.submit(lambda: iter(self._made(epoch + 1, 0)))
            self._ahead = (epoch + 1, 0), following
        return iterator

    def _made(self, epoch, skip):
        phase = phase_at(self.phases, epoch)
        settings = recipes.augment_of(self.recipe, phase)

        def batches(context):
            own = self.split.train_batches(
                image_size=phase.image_size,
                batch_size=phase.batch_size // context.num_input_pipelines,
                seed=self.recipe.seed,
                epoch=epoch,
                skip=skip,
                augment=settings,
                shard=(context.input_pipeline_id, context.num_input_pipelines),
            )
            own = _per_replica(own, phase.batch_size, context)
            return own if self.static else own.map(_loosen)  # one trace serves all sizes

        return self.strategy.distribute_datasets_from_function(batches)


def eval_batches(split, image_size, crop, strategy):
    """A distributed data set of `(images, labels, mask)` in which every picture counts once."""
    replicas = strategy.num_replicas_in_sync
    batch = replicas * max(1, min(64, len(split) // replicas))

    def batches(context):
        own = split.eval_batches(
            image_size=image_size,
            batch_size=batch // context.num_input_pipelines,
            shard=(context.input_pipeline_id, context.num_input_pipelines),
            crop=crop,
        )
        return _per_replica(own, batch, context)

    return strategy.distribute_datasets_from_function(batches)


def _per_replica(batches, batch, context):
    """Cuts the batches of an input pipeline for the replicas that it feeds."""
    if context.num_replicas_in_sync == context.num_input_pipelines:
        return batches
    share = batch // context.num_replicas_in_sync
    return batches.unbatch().batch(share, drop_remainder=True).prefetch(2)


def _loosen(images, *rest):
    """Hides the image size from the compiler of the step, so that one trace serves all sizes."""
    shape = (images.shape[0], None, None, images.shape[-1])
    return tf.compat.v1.placeholder_with_default(images, shape), *rest
