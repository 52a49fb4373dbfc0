"""Calls of a regularizer's hooks that check the shape of what they return.

Shapes are known while a program is traced: the check costs nothing when it runs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def array_from(hook: Callable[..., Any], x: jax.Array, *arguments: Any) -> Any:
    """Return ``hook(x, *arguments)``, None or an array of ``x``'s shape.

    Raises:
      ValueError: it has another shape. It would be broadcast, and wrong.
    """
    found = hook(x, *arguments)
    if found is not None and jnp.shape(found) != x.shape:
        raise ValueError(
            f"`{_name(hook)}` must return an array of its argument's shape {x.shape}, "
            f"got shape {jnp.shape(found)}. Keep reduced axes (`keepdims=True`) and "
            "broadcast."
        )
    return found


def scalar_from(hook: Callable[..., Any], x: jax.Array) -> Any:
    """Return ``hook(x)``, a scalar.

    Raises:
      ValueError: it is none.
    """
    found = hook(x)
    if jnp.shape(found):
        raise ValueError(
            f"`{_name(hook)}` must return a scalar, got shape {jnp.shape(found)} for "
            f"an array of shape {x.shape}. Sum over all axes."
        )
    return found


def _name(hook: Callable[..., Any]) -> str:
    owner = getattr(hook, "__self__", None)
    name = getattr(hook, "__name__", str(hook))
    return name if owner is None else f"{type(owner).__name__}.{name}"
