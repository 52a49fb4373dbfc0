"""The arguments of a transformation: hyperparameters, params and gradients."""

import itertools
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rmda_jax._types import (
    Params,
    ScalarOrSchedule,
    dtype_name,
    shape_dtype_of,
    shape_dtype_of_leaf,
)
from rmda_jax.schedules._momentum import warn_of_momentum
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


def check_static(name: str, value: Any) -> None:
    """Raise a TypeError if a number that the program depends on is an array."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"`{name}` must be a Python number, got an array. With "
            "optax.inject_hyperparams, name it in static_args."
        )


def with_extra_args(name: str, tx: Any) -> optax.GradientTransformationExtraArgs:
    """Return a transformation that accepts extra arguments, or raise a TypeError.

    Args:
      name: What the user calls it.
      tx: What should be a transformation.
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(
            f"`{name}` must be a gradient transformation such as optax.sgd(0.1), got "
            f"{tx!r}."
        )
    return optax.with_extra_args_support(tx)


def check_averaging(averaging: ScalarOrSchedule) -> None:
    """Check the hyperparameter of this name; to be called by what the user calls."""
    check_hyperparameter("averaging", averaging, positive=True, most=1)
    warn_of_momentum(averaging, stacklevel=3)


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
        shape, dtype = shape_dtype_of_leaf(name, leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"parameters must be real floating, got dtype {dtype_name(dtype)} "
                f"for parameter '{name}' of shape {shape}. Keep such leaves out with "
                "optax.masked or optax.partition."
            )


def check_single(state: Any) -> None:
    """Raise a ValueError if a state is that of several devices or runs at once."""
    shape = jnp.shape(state.count)
    if shape:
        raise ValueError(
            f"the state's `count` must be one number, got shape {shape}: the state is "
            "replicated over devices by `jax.pmap`, or stacked by `jax.vmap`. Take one "
            "of it, flax.jax_utils.unreplicate(state) or jax.tree.map(lambda x: x[0], "
            "state), or make this call inside of the pmap or vmap."
        )


def check_updates(updates: Any, params: Params | None, state: Any, kind: type) -> None:
    """Raise unless an update can be made with these arguments.

    Args:
      updates: Gradients.
      params: Params, of the same structure and shapes.
      state: State of a single run.
      kind: Its type.

    Raises:
      TypeError: the state is of another kind, or a leaf of the params is no real
        floating array.
      ValueError: ``params`` is None, structures or shapes differ, or as in
        `check_single`.
    """
    if params is None:
        raise ValueError(NO_PARAMS_MESSAGE)
    _check_state(state, kind)
    check_params(params)
    if jax.tree.structure(updates) != jax.tree.structure(params):
        extra = sorted(set(leaf_names(updates)) ^ set(leaf_names(params)))
        raise ValueError(
            "gradients and params must have the same tree structure, got "
            f"{jax.tree.structure(updates)} and {jax.tree.structure(params)}. "
            f"Leaves in only one of them: {', '.join(extra) or 'none'}."
        )
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    for name, (grad, param) in zip(leaf_names(params), pairs, strict=True):
        shapes = shape_dtype_of(grad)[0], shape_dtype_of(param)[0]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the gradient of parameter '{name}' must have its shape {shapes[1]}, "
                f"got {shapes[0]}. Do not broadcast or reduce gradients."
            )


def _check_state(state: Any, kind: type) -> None:
    if not isinstance(state, kind):
        raise TypeError(
            f"`state` must be the {kind.__name__} that `init` or `update` returned, "
            f"got {type(state).__name__}. Call `update(grads, state, params)`, in this "
            "order; restore a checkpoint into the structure that `init` returns."
        )
    check_single(state)


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
