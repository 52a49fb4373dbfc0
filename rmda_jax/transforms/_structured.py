"""The structured iterate, from the optimizer state alone, however it is wrapped."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from rmda_jax._types import Params, spec_of
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._names import is_box
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._common import StructuredState, state_leaves, unboxed


def structured_params(
    opt_state: Any, regularizer: RegularizerSpec, params: Params | None = None
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
        it they stay `optax.MaskedNode`. The result takes their structure: leaves are
        matched by name.

    Returns:
      Pytree like the params, in the accumulator dtype, or in the dtype of ``params``
      when they are given. Zeros are exact.

    Raises:
      TypeError: no state of a structured transformation in ``opt_state``.
      ValueError: no update was made yet, two states hold the same leaf, something that
        changes updates stands after the transformation in an `optax.chain`, or
        ``params`` have other names or shapes.

    Examples:
      >>> tx = optax.chain(optax.clip(1.0), rj.rmda(0.1, rj.l1(), 0.5, averaging=0.1))
      >>> params = jnp.array([1.0, 0.04])
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates) == 0
      Array([False, False], dtype=bool)
      >>> rj.structured_params(state, rj.l1()) == 0
      Array([False,  True], dtype=bool)
    """
    parts, treedef = iterate_parts(opt_state, regularizer)
    leaves = [None] * treedef.num_leaves
    for part in parts:
        part.bound.put(leaves, part.structured())
    structured = treedef.unflatten(leaves)
    return structured if params is None else _fill(structured, params)


def structured_support(opt_state: Any, regularizer: RegularizerSpec) -> Any:
    r"""Return the support of the structured iterate, without computing the iterate.

    Counted on the shrunk magnitudes of the prox itself: a rank needs no tolerance.

    Args:
      opt_state: As in `structured_params`.
      regularizer: As in `structured_params`.

    Returns:
      Pytree of boolean arrays, one flag per unit (`Regularizer.support`); None where no
      regularizer acts, and at all leaves of a tie but the first.

    Raises:
      TypeError, ValueError: as in `structured_params`.
    """
    parts, treedef = iterate_parts(opt_state, regularizer)
    flags: list[Any] = [None] * treedef.num_leaves
    for part in parts:
        flags[min(part.bound.leaves)] = part.support()
    return treedef.unflatten(flags)


class IteratePart(NamedTuple):
    """A part of the structured iterate, as the arguments of its prox.

    It is one leaf, or the tuple of leaves of a tie; so are centre, metric and gradient.
    """

    bound: LeafRule
    center: Any
    step_size: jax.Array
    metric: Any  # None: the plain prox
    strength: jax.Array
    mean_gradient: Any

    def structured(self) -> Any:
        """Return the structured iterate."""
        acting = self.bound.regularizer
        if acting is None:
            return self.center
        if self.metric is None:
            return acting.prox(self.center, self.step_size)
        return acting.metric_prox(self.center, self.step_size, self.metric)

    def support(self) -> jax.Array | None:
        """Return which of its units are active; None if it is not regularized."""
        acting = self.bound.regularizer
        if acting is None:
            return None
        if self.metric is None:
            return acting.prox_support(self.center, self.step_size)
        return acting.support(self.structured())


def iterate_parts(
    opt_state: Any, regularizer: RegularizerSpec
) -> tuple[list[IteratePart], Any]:
    """Return the parts of the structured iterate, in order, and its treedef.

    The states of a partition are merged: each leaf comes from the one that holds it.
    """
    trees = [_leaves_of(state) for state in find_states(opt_state)]
    merged = jax.tree.map(_pick, *trees, is_leaf=_is_masked)
    leaves, treedef = jax.tree.flatten(merged)
    centers = [leaf.center for leaf in leaves]
    bounds = resolve(regularizer, treedef.unflatten(centers))
    parts = []
    for i, bound in enumerate(bounds):
        if i != min(bound.leaves):
            continue
        leaf, metrics = leaves[i], [leaf.metric for leaf in leaves]
        parts.append(
            IteratePart(
                bound,
                bound.take(centers),
                leaf.step_size * bound.multiplier,
                None if leaf.metric is None else bound.take(metrics),
                leaf.strength * bound.multiplier,
                bound.take([leaf.mean_gradient for leaf in leaves]),
            )
        )
    return parts, treedef


@dataclasses.dataclass
class _Leaf:
    """What a state says of one leaf.

    No pytree: a tree of these has one of them at every leaf.
    """

    center: jax.Array
    step_size: jax.Array
    metric: jax.Array | None
    strength: jax.Array
    mean_gradient: jax.Array


def _leaves_of(state: Any) -> Any:
    center, step_size, metric = state.prox_arguments()
    metrics = () if metric is None else (metric,)

    def leaf(center: jax.Array, gradient: jax.Array, *metric: jax.Array) -> _Leaf:
        d = metric[0] if metric else None
        return _Leaf(center, step_size, d, state.strength, gradient)

    return jax.tree.map(leaf, center, state.mean_gradient(), *metrics)


# They change nothing, or (masked) perhaps other leaves.
_MAY_FOLLOW = optax.MonitorState, optax.SnapshotState, optax.MaskedState


def find_states(opt_state: Any) -> list[Any]:
    """Return every structured state inside an optimizer state, or raise a TypeError."""
    _ = _check_last(opt_state)
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


def _check_last(node: Any) -> bool:
    """Return whether a structured state is inside; raise if a chain goes on after it.

    The state of a chain is a plain tuple. That of `optax.named_chain` is a dict, which
    JAX sorts: its order cannot be told.
    """
    if isinstance(node, StructuredState):
        return True
    children = jax.tree.leaves(node, is_leaf=lambda child: child is not node)
    held = [child is not node and _check_last(child) for child in children]
    if type(node) is tuple and any(held):
        after = [
            type(state).__name__
            for state in node[held.index(True) + 1 :]
            if isinstance(state, tuple) and not isinstance(state, _MAY_FOLLOW)
        ]
        if after:
            raise ValueError(
                "nothing that changes updates may stand after a structured "
                f"transformation in an `optax.chain`, got {', '.join(after)}: the "
                "params would miss its zeros. Put it before, or leave it out."
            )
    return any(held)


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
    old, treedef = jax.tree.flatten(params)
    new = state_leaves(params, structured, masked=True)
    return treedef.unflatten(
        [
            jnp.asarray(w) if x is None else x.astype(spec_of(w)[1])
            for w, x in zip(old, new, strict=True)
        ]
    )


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
