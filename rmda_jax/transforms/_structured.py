"""The structured iterate, from the optimizer state alone, however it is wrapped."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from rmda_jax._types import Params
from rmda_jax.specs._rules import Bound, Spec, bind
from rmda_jax.transforms._common import StructuredState, is_box, unboxed


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
    leaves, treedef = iterate_leaves(opt_state, regularizer)
    structured = treedef.unflatten([leaf.structured() for leaf in leaves])
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
    leaves, treedef = iterate_leaves(opt_state, regularizer)
    return treedef.unflatten([leaf.support() for leaf in leaves])


_UNBOUND = Bound("", None, 1.0)


@dataclasses.dataclass
class IterateLeaf:
    """One leaf of the structured iterate, as the arguments of its prox.

    No pytree: a tree of these has one of them at every leaf.
    """

    center: jax.Array
    step_size: jax.Array
    metric: jax.Array | None
    strength: jax.Array
    mean_gradient: jax.Array
    bound: Bound = _UNBOUND

    def structured(self) -> jax.Array:
        """Return the leaf of the structured iterate."""
        regularizer, step_size = self.bound.regularizer, self._step_size()
        if regularizer is None:
            return self.center
        if self.metric is None:
            return regularizer.prox(self.center, step_size)
        return regularizer.metric_prox(self.center, step_size, self.metric)

    def support(self) -> jax.Array | None:
        """Return which of its units are active; None if it is not regularized."""
        regularizer = self.bound.regularizer
        if regularizer is None:
            return None
        if self.metric is None:
            return regularizer.prox_support(self.center, self._step_size())
        return regularizer.support(self.structured())

    def _step_size(self) -> jax.Array:
        return self.step_size * self.bound.multiplier


def iterate_leaves(opt_state: Any, regularizer: Spec) -> tuple[list[IterateLeaf], Any]:
    """Return the leaves of the structured iterate, in order, and their treedef.

    The states of a partition are merged: each leaf comes from the one that holds it.
    """
    trees = [_leaves_of(state) for state in find_states(opt_state)]
    merged = jax.tree.map(_pick, *trees, is_leaf=_is_masked)
    leaves, treedef = jax.tree.flatten(merged)
    bounds = bind(regularizer, jax.tree.map(lambda leaf: leaf.center, merged))
    for leaf, bound in zip(leaves, bounds, strict=True):
        leaf.bound = bound
    return leaves, treedef


def _leaves_of(state: Any) -> Any:
    center, step_size, metric = state.prox_arguments()
    metrics = () if metric is None else (metric,)

    def leaf(center: jax.Array, gradient: jax.Array, *metric: jax.Array) -> IterateLeaf:
        d = metric[0] if metric else None
        return IterateLeaf(center, step_size, d, state.strength, gradient)

    return jax.tree.map(leaf, center, state.mean_gradient(), *metrics)


def find_states(opt_state: Any) -> list[Any]:
    """Return every structured state inside an optimizer state, or raise a TypeError."""
    nodes: list[Any] = jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, StructuredState)
    )
    states: list[Any] = [
        _with_plain_scalars(n) for n in nodes if isinstance(n, StructuredState)
    ]
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


def _with_plain_scalars(state: Any) -> Any:
    return type(state)(*(unboxed(x) if is_box(x) else x for x in state))


def _pick(*nodes: Any) -> Any:
    held = [node for node in nodes if not _is_masked(node)]
    if len(held) > 1:
        raise ValueError(
            "two states hold the same parameter: there are several structured "
            "iterates. Pass the state of one transformation."
        )
    return held[0] if held else optax.MaskedNode()


def _fill(structured: Params, params: Params) -> Params:
    def pick(new: Any, old: Any) -> Any:
        return old if _is_masked(new) else new.astype(old.dtype)

    filled = jax.tree.map(
        pick, unboxed(structured), unboxed(params), is_leaf=_is_masked
    )
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(filled))


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
