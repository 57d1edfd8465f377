"""What JAX says that it does, for programs of tests that run in a process of their own."""

import logging


def compilations():
    """A list to which JAX's messages about what it traces and compiles go from now on."""
    import jax

    said = []
    notes = logging.Handler()
    notes.emit = lambda record: said.append(record.getMessage())
    jax.config.update("jax_log_compiles", True)
    logging.getLogger("jax").addHandler(notes)
    return said
