"""How long something takes, as a ratio to something else.

Wall clock on a shared machine varies by a third from minute to minute. Both sides take turns, so that
both meet the same load, and the median of the ratios is the result: it varies by a few per cent.
"""

import platform
import statistics
import time

import keras
import numpy as np

PAIRS = 8
WARMUP = 2


def alternate(*sides, rounds, warmup=2, clock=time.perf_counter):
    """Times functions in turn.

    Args:
        *sides: Functions without arguments.
        rounds: How often each is timed, at least 1.
        warmup: How often each is called before.
        clock: Gives seconds: `time.perf_counter` those that pass, `time.process_time` those of this
            process alone.

    Returns:
        A list of seconds of each.

    Example:

    >>> [len(times) for times in alternate(lambda: 0, lambda: 0, rounds=3)]
    [3, 3]
    """
    for _ in range(warmup):
        for side in sides:
            side()
    times = tuple([] for _ in sides)
    for round_ in range(rounds):
        # who goes first changes too: the second finds warmer clocks and colder caches
        for own, side in list(zip(times, sides))[:: 1 if round_ % 2 == 0 else -1]:
            own.append(seconds(side, clock))
    return times


def seconds(work, clock=time.perf_counter):
    """Seconds that a function without arguments takes."""
    start = clock()
    work()
    return clock() - start


def spread(times):
    """Interquartile range over the median."""
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def paired_ratio(ours, reference, pairs=PAIRS, warmup=WARMUP, clock=time.process_time):
    """Time of one function over that of another.

    Args:
        ours: Function without arguments; returns when its work is done.
        reference: The other one.
        pairs: How often both are timed, at least 1.
        warmup: How often both are called before.
        clock: Gives seconds: `time.process_time` counts the processor's, not those of other
            programs; `time.perf_counter` where the work is another device's.

    Returns:
        `(median of the ratios, their interquartile range over it)`.

    Example:

    >>> ratio, spread = paired_ratio(lambda: sum(range(20000)), lambda: sum(range(20000)))
    >>> 0.2 < ratio < 5
    True
    """
    times = alternate(ours, reference, rounds=pairs, warmup=warmup, clock=clock)
    ratios = [mine / max(theirs, 1e-9) for mine, theirs in zip(*times)]
    return statistics.median(ratios), spread(ratios)


def train_step(model, batch_size, image_size):
    """A training step on noise as a function without arguments that waits for its end."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    shape = (batch_size, image_size, image_size, model.input_shape[-1])
    images = tf.constant(random.uniform(0, 255, shape), tf.float32)
    classes = model.output_shape[-1]
    labels = tf.one_hot(random.integers(0, classes, batch_size), classes)
    optimizer = keras.optimizers.AdamW(1e-6)
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            probabilities = tf.cast(model(images, training=True), tf.float32)
            loss = tf.reduce_mean(keras.losses.categorical_crossentropy(labels, probabilities))
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return lambda: float(step())


def clock():
    """The clock for this machine's device."""
    import tensorflow as tf

    accelerator = any(d.device_type != "CPU" for d in tf.config.list_physical_devices())
    return time.perf_counter if accelerator else time.process_time


def device():
    """What networks train on here; ratios of one device say nothing of another."""
    import tensorflow as tf

    for found in tf.config.list_physical_devices():
        if found.device_type != "CPU":
            details = tf.config.experimental.get_device_details(found)
            return f"{found.device_type} {details.get('device_name', '')}".strip()
    return f"CPU {_processor()}"


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
