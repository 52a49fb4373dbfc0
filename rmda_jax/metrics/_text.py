"""Tuples of scalars as text."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike


def no_text(name: str, scalars: Sequence[ArrayLike]) -> str | None:
    """Return what to print in place of numbers that are not there, or None if they are.

    Args:
      name: Of the tuple.
      scalars: Its entries; under `jax.jit` and its like they have no value yet, and
        after `jax.vmap` or a scan each holds many.
    """
    if any(isinstance(x, Tracer) for x in scalars):
        return f"{name} under tracing: return it from jit, and print it there"
    shape = jnp.shape(scalars[0])
    if shape:
        return (
            f"{name} of shape {shape}: print one, "
            f"jax.tree.map(lambda x: x[-1], {name.lower()})"
        )
    return None
