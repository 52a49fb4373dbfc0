"""Programs compiled as for users, for the length of a `with` block."""

import contextlib
from collections.abc import Iterator

import jax

NAME = "jax_disable_most_optimizations"


@contextlib.contextmanager
def optimized() -> Iterator[None]:
    """Compile with optimizations, which tests/conftest.py leaves out by default.

    For what enlarges rounding until it depends on how sums are compiled.
    """
    before = jax.config.read(NAME)
    jax.config.update(NAME, False)
    try:
        yield
    finally:
        jax.config.update(NAME, before)
