"""What other libraries raise, as a part of one sentence."""


def first_line(error):
    r"""The first line of an error's message; of one without a message the name of its class.

    Example:

    >>> first_line(ValueError("no such file\n  at line 3")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
