"""What every transformation needs: checked arguments, checked trees, scalars."""

import itertools
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Params, ScalarOrSchedule, spec_of, wide_dtype
from rmda_jax.specs._names import is_box, leaf_names, leaves_in_order_of

NO_PARAMS_MESSAGE = (
    "`params` must be passed to `update`, got None. The proximal step starts from the "
    "current parameters: call `update(grads, state, params)`."
)


class ProxArguments(NamedTuple):
    """A structured iterate, as the arguments of the prox that gives it."""

    center: Params
    step_size: jax.Array
    metric: Params | None = None  # None: the plain prox


@runtime_checkable
class StructuredState(Protocol):
    """An optimizer state from which the structured iterate can be computed.

    It counts its updates in a field ``count``, too.
    """

    def prox_arguments(self) -> ProxArguments:
        """Return centre and step size of the last prox."""
        ...


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


def accumulators(params: Params, dtype: Any = None) -> Params:
    """Return a tree of zeros like the params, in ``dtype`` or at least float32."""
    return jax.tree.map(
        lambda leaf: jnp.zeros_like(leaf, dtype=dtype or wide_dtype(spec_of(leaf)[1])),
        params,
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


_REMEDY = "It belongs to other params: call `init` with these, or restore theirs."


def state_leaves(params: Params, tree: Any, *, masked: bool = False) -> list[Any]:
    """Return the arrays of a tree in a state, each where the param of its name stands.

    A restored state may hold them in another order, see `leaves_in_order_of`. Those of
    other params would broadcast, or come to the wrong leaf, and go on.

    Args:
      params: The params.
      tree: Tree of arrays like the params.
      masked: Whether `optax.MaskedNode` may stand for some; the entry is None there.

    Returns:
      One entry per leaf of the params.

    Raises:
      ValueError: the trees differ in a name or in a shape.
    """
    demand = "the optimizer state must have the names of the params"
    leaves = leaves_in_order_of(params, tree, demand, _REMEDY, masked=masked)
    for i, (w, x) in enumerate(zip(jax.tree.leaves(params), leaves, strict=True)):
        if x is not None and jnp.shape(x) != spec_of(w)[0]:
            raise ValueError(
                f"the optimizer state must have the shape of parameter "
                f"'{leaf_names(params)[i]}', {spec_of(w)[0]}, got {jnp.shape(x)}. "
                f"{_REMEDY}"
            )
    return [None if x is None else jnp.asarray(x) for x in leaves]


def is_step(count: jax.Array, steps: tuple[int, ...]) -> ArrayLike:
    """Return whether ``count`` is among the static ``steps``."""
    if not steps:
        return False
    return jnp.any(count == jnp.asarray(steps, count.dtype))


def unboxed(tree: Any) -> Any:
    """Return the tree with arrays for NNX variables.

    NNX's optimizer boxes every array of a state in variables of its own kind, so that
    the trees of a state and of the params differ.
    """
    return jax.tree.map(jnp.asarray, tree, is_leaf=is_box)
