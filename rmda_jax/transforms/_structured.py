"""The structured iterate, from the optimizer state alone, however it is wrapped."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from rmda_jax._types import Params, shape_dtype_of
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._names import is_variable
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import check_single
from rmda_jax.transforms._elsewhere import states_in, where_the_zeros_are
from rmda_jax.transforms._state import StructuredState, state_leaves, unwrap


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
      regularizer: The very one the transformation was built with; with
        `optax.partition`, one map for all of its parts together.
      params: Fills the leaves that `optax.masked` kept from the transformation; without
        it they stay `optax.MaskedNode`. The result takes their structure: leaves are
        matched by name.

    Returns:
      Pytree like the params, in the accumulator dtype, or in the dtype of ``params``
      when they are given. Zeros are exact.

    Raises:
      TypeError: no state of a structured transformation in ``opt_state``.
      ValueError: no update was made yet, two states hold the same leaf, the state is
        replicated over devices or stacked, something that changes updates stands after
        the transformation in an `optax.chain`, or ``params`` have other names or
        shapes.

    .. warning::
      The state knows the strength, but no rules: with others than its own it gives
      another iterate, and no error. Keep them in one variable. Where the averaging has
      reached 1, the params are this iterate: compare once.

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
        part.rule.put(leaves, part.structured())
    structured = treedef.unflatten(leaves)
    return structured if params is None else _fill_masked(structured, params)


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
        flags[min(part.rule.leaves)] = part.support()
    return treedef.unflatten(flags)


class IteratePart(NamedTuple):
    """A part of the structured iterate, as the arguments of its prox.

    It is one leaf, or the tuple of leaves of a tie; so are centre, metric and gradient.
    """

    rule: LeafRule
    center: Any
    step_size: jax.Array
    metric: Any  # None: the plain prox
    strength: jax.Array
    mean_gradient: Any

    def structured(self) -> Any:
        """Return the structured iterate."""
        acting = self.rule.regularizer
        if acting is None:
            return self.center
        if self.metric is None:
            return acting.prox(self.center, self.step_size)
        return acting.metric_prox(self.center, self.step_size, self.metric)

    def support(self) -> jax.Array | None:
        """Return which of its units are active; None if it is not regularized."""
        acting = self.rule.regularizer
        if acting is None:
            return None
        if self.metric is None:
            return acting.prox_support(self.center, self.step_size)
        return acting.support(self.structured())

    def critical_multiples(self) -> jax.Array | None:
        """Return the critical strengths of its units as multiples of the strength.

        Those above 1 are alive. None if it is not regularized.
        """
        acting = self.rule.regularizer
        if acting is None:
            return None
        return acting.critical_strengths(self.center, self.step_size, self.metric)


def iterate_parts(
    opt_state: Any, regularizer: RegularizerSpec
) -> tuple[list[IteratePart], Any]:
    """Return the parts of the structured iterate, in order, and its treedef.

    The states of a partition are merged: each leaf comes from the one that holds it.
    """
    trees = [_leaves_of(state) for state in find_states(opt_state)]
    merged = jax.tree.map(_the_one_held, *trees, is_leaf=_is_masked)
    leaves, treedef = jax.tree.flatten(merged)
    centers = [leaf.center for leaf in leaves]
    rules = resolve(regularizer, treedef.unflatten(centers))
    parts = []
    for i, rule in enumerate(rules):
        if i != min(rule.leaves):
            continue
        leaf, metrics = leaves[i], [leaf.metric for leaf in leaves]
        parts.append(
            IteratePart(
                rule,
                rule.take(centers),
                leaf.step_size * leaf.strength * rule.multiplier,
                None if leaf.metric is None else rule.take(metrics),
                leaf.strength * rule.multiplier,
                rule.take([leaf.mean_gradient for leaf in leaves]),
            )
        )
    return parts, treedef


@dataclasses.dataclass
class _LeafState:
    """What a state says of one leaf.

    This class is no pytree, so that a tree of these has one at every leaf.
    """

    center: jax.Array
    step_size: jax.Array
    metric: jax.Array | None
    strength: jax.Array
    mean_gradient: jax.Array


def _leaves_of(state: Any) -> Any:
    center, step_size, metric = state.prox_arguments()
    one = isinstance(state.strength, jax.Array)  # a budget has one for each leaf
    strengths = (
        jax.tree.map(lambda _: state.strength, center) if one else state.strength
    )
    metrics = () if metric is None else (metric,)

    def leaf(
        center: jax.Array, strength: jax.Array, gradient: jax.Array, *metric: jax.Array
    ) -> _LeafState:
        d = metric[0] if metric else None
        return _LeafState(center, step_size, d, strength, gradient)

    return jax.tree.map(leaf, center, strengths, state.mean_gradient(), *metrics)


# States whose transformation may stand after a structured one in a chain: it changes no
# updates, or (masked) perhaps only those of other leaves.
_MAY_FOLLOW = optax.MonitorState, optax.SnapshotState, optax.MaskedState


def find_states(opt_state: Any) -> list[Any]:
    """Return every structured state inside an optimizer state, or raise a TypeError."""
    _ = _check_last(opt_state)
    found = states_in(opt_state, lambda node: isinstance(node, StructuredState))
    states = [_with_plain_scalars(state) for state in found]
    if not states:
        raise TypeError(
            "`opt_state` holds no state of a structured transformation such as rmda, "
            f"got {type(opt_state).__name__}. {where_the_zeros_are(opt_state)}"
        )
    for state in states:
        check_single(state)
        if not isinstance(state.count, Tracer) and state.count == 0:
            raise ValueError(
                "there is no structured iterate before the first update: the "
                "state's count is 0. Use the params."
            )
    return states


_INSTEAD = (
    "What changes gradients (clipping) goes before it. What scales the learning rate "
    "(a schedule, reduce_on_plateau) goes into its `learning_rate`, which "
    "optax.inject_hyperparams lets a training loop set. Weight decay is a regularizer, "
    "squared_l2 or elastic_net, or stands before it and averages like a gradient."
)


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
        at = held.index(True)
        after = [
            f"place {i + 1} of {len(node)}, whose state is {type(state).__name__}"
            for i, state in enumerate(node)
            if i > at
            and isinstance(state, tuple)
            and not isinstance(state, _MAY_FOLLOW)
        ]
        if after:
            raise ValueError(
                "nothing that changes updates may stand after a structured "
                f"transformation in an `optax.chain`, got {'; '.join(after)}: the "
                f"params would miss its zeros. {_INSTEAD}"
            )
    return any(held)


def _with_plain_scalars(state: Any) -> Any:
    """Return the state with arrays in place of NNX variables in its scalar fields."""
    return type(state)(*(unwrap(x) if is_variable(x) else x for x in state))


def _the_one_held(*nodes: Any) -> Any:
    """Return what the states of a partition say of a leaf: all but one have a mask."""
    held = [node for node in nodes if not _is_masked(node)]
    if len(held) > 1:
        raise ValueError(
            "two states hold the same parameter: there are several structured "
            "iterates. Pass the state of one transformation."
        )
    return held[0] if held else optax.MaskedNode()


def _fill_masked(structured: Params, params: Params) -> Params:
    """Return the structured iterate like the params, which fill what was masked."""
    old, treedef = jax.tree.flatten(params)
    new = state_leaves(params, structured, masked=True)
    return treedef.unflatten(
        [
            jnp.asarray(w) if x is None else x.astype(shape_dtype_of(w)[1])
            for w, x in zip(old, new, strict=True)
        ]
    )


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
