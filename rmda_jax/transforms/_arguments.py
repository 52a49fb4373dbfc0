"""The arguments of a transformation: hyperparameters, params and gradients."""

import itertools
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Params, ScalarOrSchedule, spec_of
from rmda_jax.specs._names import leaf_names

NO_PARAMS_MESSAGE = (
    "`params` must be passed to `update`, got None. The proximal step starts from the "
    "current parameters: call `update(grads, state, params)`."
)


def check_hyperparameter(
    name: str,
    value: ScalarOrSchedule,
    *,
    positive: bool = False,
    most: float = np.inf,
    below: float = np.inf,
) -> None:
    """Raise if a number lies outside its domain; schedules and arrays pass.

    Args:
      name: What the user calls it.
      value: Number, array or schedule.
      positive: Whether 0 is excluded.
      most: Largest value allowed.
      below: Least value above those allowed; at most one of the two is given.

    Raises:
      TypeError: neither a number, nor an array, nor callable.
      ValueError: a number outside the domain, or NaN.
    """
    if callable(value):
        return
    if isinstance(value, jax.Array) and value.ndim == 0:
        return
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number, an array of rank 0 or a schedule, got "
            f"{value!r}."
        )
    number = float(value)
    inside = number > 0 if positive else number >= 0
    if not (inside and number <= most and number < below):
        low = "(" if positive else "["
        high = f"{below:g})" if most == np.inf else f"{most:g}]"
        raise ValueError(f"`{name}` must lie in {low}0, {high}, got {value}.")


def check_restart_steps(restart_steps: Sequence[int]) -> tuple[int, ...]:
    """Return the restart steps as a tuple of ints, or raise.

    Raises:
      TypeError: they are not integers.
      ValueError: they are negative or not strictly ascending.
    """
    steps = tuple(restart_steps) if isinstance(restart_steps, Iterable) else None
    if steps is None or not all(isinstance(s, numbers.Integral) for s in steps):
        raise TypeError(
            "`restart_steps` must be a sequence of integers, got "
            f"{restart_steps if steps is None else steps}."
        )
    ascending = all(a < b for a, b in itertools.pairwise(steps))
    if not ascending or min(steps, default=0) < 0:
        raise ValueError(
            "`restart_steps` must be nonnegative and strictly ascending, got "
            f"{steps}. They count updates from the beginning of the run."
        )
    return tuple(int(s) for s in steps)


def evaluate(value: ScalarOrSchedule, count: jax.Array) -> jax.Array:
    """Return a hyperparameter at the number of updates so far, as a wide scalar."""
    number = value(count) if callable(value) else value
    # A copy: states keep it, and donating a state must not take the caller's array.
    return jnp.array(number, jnp.result_type(float))


def check_params(params: Params) -> None:
    """Raise a TypeError that names the first leaf which is not real floating."""
    for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True):
        shape, dtype = spec_of(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"parameters must be real floating, got dtype {jnp.dtype(dtype).name} "
                f"for parameter '{name}' of shape {shape}. Keep such leaves out with "
                "optax.masked or optax.partition."
            )


def check_updates(updates: Any, params: Params | None) -> None:
    """Raise unless gradients and params are trees of one structure and shape.

    Raises:
      ValueError: ``params`` is None, or structures or shapes differ.
    """
    if params is None:
        raise ValueError(NO_PARAMS_MESSAGE)
    if jax.tree.structure(updates) != jax.tree.structure(params):
        extra = sorted(set(leaf_names(updates)) ^ set(leaf_names(params)))
        raise ValueError(
            "gradients and params must have the same tree structure, got "
            f"{jax.tree.structure(updates)} and {jax.tree.structure(params)}. "
            f"Leaves in only one of them: {', '.join(extra) or 'none'}."
        )
    check_params(params)
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    for name, (grad, param) in zip(leaf_names(params), pairs, strict=True):
        shapes = spec_of(grad)[0], spec_of(param)[0]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the gradient of parameter '{name}' must have its shape {shapes[1]}, "
                f"got {shapes[0]}. Do not broadcast or reduce gradients."
            )


def is_step(count: jax.Array, steps: tuple[int, ...]) -> ArrayLike:
    """Return whether ``count`` is among the static ``steps``."""
    if not steps:
        return False
    return jnp.any(count == jnp.asarray(steps, count.dtype))


def scale(scalar: jax.Array, x: jax.Array) -> jax.Array:
    """Return the product of a hyperparameter and an array, in the array's dtype."""
    return scalar.astype(x.dtype) * x


def moving_average(old: jax.Array, new: jax.Array, weight: jax.Array) -> jax.Array:
    """Return ``(1 - weight) old + weight new``, in the dtype of ``old``."""
    weight = weight.astype(old.dtype)
    return (1 - weight) * old + weight * new
