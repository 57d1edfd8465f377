"""What a search maximises: accuracy, a little less for time and for size."""

EXPONENTS = (-0.07, -0.05)  # of step time and of parameters, arXiv 2104.00298, section 3.3


def reward(accuracy, step_time, parameters, exponents=EXPONENTS):
    """`accuracy * step_time**w * parameters**v`, with `exponents` `(w, v)`.

    Args:
        accuracy: Top-1 on pictures that were not trained on, in [0, 1].
        step_time: Time of a training step over that of the baseline.
        parameters: Trainable parameters over those of the baseline.
        exponents: Both at most 0: twice the time costs 4.7 %, twice the parameters 3.4 %.

    Example:

    >>> round(reward(0.8, 2.0, 1.0), 4), round(reward(0.8, 1.0, 2.0), 4)
    (0.7621, 0.7727)
    """
    w, v = exponents
    return accuracy * step_time**w * parameters**v
