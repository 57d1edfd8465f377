"""What other libraries raise, as a part of one sentence."""

import contextlib
import errno
import os
import re


def first_line(error):
    r"""The first line of an error's message, for a sentence: without a full stop.

    What TensorFlow says of its own kernels is left out.

    Of one without a message the name of its class.

    Example:

    >>> first_line(ValueError("no such file.\n  at line 3")), first_line(KeyError())
    ('no such file', 'KeyError')
    >>> first_line(RuntimeError("{{function_node __wrapped__SaveV2}} no such folder [Op:SaveV2] name: "))
    'no such folder'
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\{\{.*?\}\} | \[Op:\w+\]( name:.*)?$", "", line).rstrip(".")


def is_full(error):
    """Whether an error, of whichever library, is or was raised from that of a disk without room.

    Example:

    >>> is_full(OSError(errno.ENOSPC, "No space left on device")), is_full(OSError())
    (True, False)
    """
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    # TensorFlow's words, NumPy's, and SQLite's
    words = rf"{os.strerror(errno.ENOSPC)}|^\d+ requested and \d+ written$|disk is full"
    if re.search(words, str(error)):
        return True
    return error.__cause__ is not None and is_full(error.__cause__)


@contextlib.contextmanager
def writing(path, kept):
    """Within the block: what cannot be written is named, with what is kept and what to do.

    Args:
        path: What is written.
        kept: What can be relied on, such as `"nothing of it is left"`.

    Raises:
        OSError: In place of another one, or of what another library raises where a disk is full.
    """
    try:
        yield
    except Exception as error:
        full = is_full(error)
        if not full and not isinstance(error, OSError):
            raise
        number = getattr(error, "errno", None) or (errno.ENOSPC if full else errno.EIO)
        why = os.strerror(number) if full else error.strerror or first_line(error)
        todo = "Make room" if full else "See to that"
        text = f"{path} could not be written ({why}); {kept}. {todo} and run the same command again"
        raise OSError(number, text) from error
