"""The params of a sparse run with its zeros, from the optimizer state."""

from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax._types import Params
from rmda_jax.transforms._arguments import check_single
from rmda_jax.transforms._elsewhere import states_in, where_the_zeros_are
from rmda_jax.transforms._rigl import RigLState
from rmda_jax.transforms._state import state_leaves


def rigl_params(opt_state: Any, params: Params) -> Params:
    """Return the params with exact zeros where `rigl` has no weight.

    Args:
      opt_state: State of `rigl`, in any nesting of `optax.chain`, `optax.MultiSteps`,
        `optax.inject_hyperparams`, `optax.partition`, `optax.masked`.
      params: The params it is about.

    Returns:
      Pytree like ``params``; after an update, equal to them.

    Raises:
      TypeError: no state of `rigl` in ``opt_state``.
      ValueError: the state is replicated over devices or stacked, or belongs to other
        params.

    Examples:
      >>> params = jnp.ones((2, 8))
      >>> state = rj.rigl(optax.sgd(0.1), 0.75, end_step=100).init(params)
      >>> rj.rigl_params(state, params).sum()
      Array(4., dtype=float32)
    """
    states = states_in(opt_state, lambda node: isinstance(node, RigLState))
    if not states:
        raise TypeError(
            f"`opt_state` holds no state of rigl, got {type(opt_state).__name__}. "
            f"{where_the_zeros_are(opt_state)}"
        )
    leaves, treedef = jax.tree.flatten(params)
    for state in states:
        check_single(state)
        masks = state_leaves(params, state.masks, masked=True)
        rows = zip(masks, leaves, strict=True)
        leaves = [x if m is None else jnp.where(m, x, 0) for m, x in rows]
    return treedef.unflatten(leaves)
