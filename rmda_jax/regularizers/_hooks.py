"""Calls of a regularizer's hooks that check the shape of what they return.

Shapes are known while a program is traced: the check costs nothing when it runs.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from rmda_jax._types import Arrays, Shapes


def array_from(hook: Callable[..., Any], x: Arrays, *arguments: Any) -> Any:
    """Return ``hook(x, *arguments)``: None, or of ``x``'s shape or shapes.

    Raises:
      ValueError: it has another shape. It would be broadcast, and wrong.
    """
    found = hook(x, *arguments)
    if found is not None and _shapes(found) != _shapes(x):
        raise ValueError(
            f"`{_name(hook)}` must return an array of its argument's shape "
            f"{_shapes(x)}, got shape {_shapes(found)}. Keep reduced axes "
            "(`keepdims=True`) and broadcast."
        )
    return found


def scalar_from(hook: Callable[..., Any], x: Arrays) -> Any:
    """Return ``hook(x)``, a scalar.

    Raises:
      ValueError: it is none.
    """
    found = hook(x)
    if jnp.shape(found):
        raise ValueError(
            f"`{_name(hook)}` must return a scalar, got shape {jnp.shape(found)} for "
            f"an array of shape {_shapes(x)}. Sum over all axes."
        )
    return found


def _shapes(x: Arrays) -> Shapes:
    return tuple(map(jnp.shape, x)) if isinstance(x, tuple) else jnp.shape(x)


def _name(hook: Callable[..., Any]) -> str:
    owner = getattr(hook, "__self__", None)
    name = getattr(hook, "__name__", str(hook))
    return name if owner is None else f"{type(owner).__name__}.{name}"
