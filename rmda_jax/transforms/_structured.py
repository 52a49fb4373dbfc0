"""The structured iterate, from the optimizer state alone, however it is wrapped."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from rmda_jax._types import Params
from rmda_jax.specs._rules import Spec, bind
from rmda_jax.transforms._common import StructuredState


def structured_params(
    opt_state: Any, regularizer: Spec, params: Params | None = None
) -> Params:
    r"""Return the structured iterate :math:`\hat W_t` of a dual-averaging run.

    The params :math:`W_t` average over the structured iterates and carry exact zeros
    only once the averaging reaches 1; :math:`\hat W_t` carries them at every step. It
    is what to measure, and what to deploy.

    Args:
      opt_state: State after at least one update, from any nesting of `optax.chain`,
        `optax.MultiSteps`, `optax.inject_hyperparams`, `optax.partition`,
        `optax.masked`, `optax.apply_if_finite`.
      regularizer: The one the transformation was built with; with `optax.partition`,
        one map for all of its parts together.
      params: Fills the leaves that `optax.masked` kept from the transformation; without
        it they stay `optax.MaskedNode`.

    Returns:
      Pytree like the params, in the accumulator dtype, or in the dtype of ``params``
      when they are given. Zeros are exact.

    Raises:
      TypeError: no state of a structured transformation in ``opt_state``.
      ValueError: no update was made yet, or two states hold the same leaf.

    Examples:
      >>> tx = optax.chain(optax.clip(1.0), rj.rmda(0.1, rj.l1(), 0.5, averaging=0.1))
      >>> params = jnp.array([1.0, 0.04])
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates) == 0
      Array([False, False], dtype=bool)
      >>> rj.structured_params(state, rj.l1()) == 0
      Array([False,  True], dtype=bool)
    """
    center, steps = merged_prox_arguments(opt_state)
    leaves, treedef = jax.tree.flatten(center)
    out = [
        leaf if bound.regularizer is None else bound.regularizer.prox(leaf, step)
        for bound, leaf, step in _with_steps(regularizer, center, leaves, steps)
    ]
    structured = jax.tree.unflatten(treedef, out)
    return structured if params is None else _fill(structured, params)


def structured_support(opt_state: Any, regularizer: Spec) -> Any:
    r"""Return the support of the structured iterate, without computing the iterate.

    Counted on the shrunk magnitudes of the prox itself: a rank needs no tolerance.

    Args:
      opt_state: As in `structured_params`.
      regularizer: As in `structured_params`.

    Returns:
      Pytree of boolean arrays, one flag per unit (`Regularizer.support`); None where no
      regularizer acts.

    Raises:
      TypeError, ValueError: as in `structured_params`.
    """
    center, steps = merged_prox_arguments(opt_state)
    leaves, treedef = jax.tree.flatten(center)
    out = [
        None
        if bound.regularizer is None
        else bound.regularizer.prox_support(leaf, step)
        for bound, leaf, step in _with_steps(regularizer, center, leaves, steps)
    ]
    return jax.tree.unflatten(treedef, out)


def find_states(opt_state: Any) -> list[Any]:
    """Return every structured state inside an optimizer state, or raise a TypeError."""
    nodes: list[Any] = jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, StructuredState)
    )
    states: list[Any] = [n for n in nodes if isinstance(n, StructuredState)]
    if not states:
        raise TypeError(
            "`opt_state` holds no state of a structured transformation such as rmda, "
            f"got {type(opt_state).__name__}. Pass the state its `init` or `update` "
            "returned."
        )
    for state in states:
        concrete = not isinstance(state.count, Tracer) and jnp.size(state.count) == 1
        if concrete and not jnp.any(state.count):
            raise ValueError(
                "there is no structured iterate before the first update: the "
                "state's count is 0. Use the params."
            )
    return states


def merge(trees: list[Any]) -> Any:
    """Merge the trees of a partition: each leaf from the one tree that holds it."""

    def pick(*nodes: Any) -> Any:
        held = [node for node in nodes if not isinstance(node, optax.MaskedNode)]
        if len(held) > 1:
            raise ValueError(
                "two states hold the same parameter: there are several structured "
                "iterates. Pass the state of one transformation."
            )
        return held[0] if held else optax.MaskedNode()

    return jax.tree.map(pick, *trees, is_leaf=_is_masked)


def merged_prox_arguments(opt_state: Any) -> tuple[Params, Any]:
    """Return the centres of all states in one tree, and a like tree of step sizes."""
    arguments = [state.prox_arguments() for state in find_states(opt_state)]
    steps = [jax.tree.map(lambda _, a=a: a.step_size, a.center) for a in arguments]
    return merge([a.center for a in arguments]), merge(steps)


def _with_steps(regularizer: Spec, center: Params, leaves: list, steps: Any):
    bounds = bind(regularizer, center)
    for bound, leaf, step in zip(bounds, leaves, jax.tree.leaves(steps), strict=True):
        yield bound, leaf, step * bound.multiplier


def _fill(structured: Params, params: Params) -> Params:
    def pick(new: Any, old: Any) -> Any:
        return old if isinstance(new, optax.MaskedNode) else new.astype(old.dtype)

    return jax.tree.map(pick, structured, params, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
