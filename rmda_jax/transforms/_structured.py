"""The structured iterate, from the optimizer state alone, however it is wrapped."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import treedef_is_leaf

from rmda_jax._types import Params
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._find_states import FoundState, find_states
from rmda_jax.transforms._latent_state import NotHeld
from rmda_jax.transforms._state import leaves_by_name, state_leaves


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
        `optax.masked`, `optax.apply_if_finite`, `heal`.
      regularizer: The very one the transformation was built with; with
        `optax.partition`, one map for all of its parts together.
      params: Fills the leaves that `optax.masked` kept from the transformation; without
        it they stay `optax.MaskedNode`. The result takes their structure: leaves are
        matched by name. Once `heal` heals, they are the result.

    Returns:
      Pytree like the params, in the accumulator dtype, or in the dtype of ``params``
      when they are given. Zeros are exact.

    Raises:
      TypeError: no state of a structured transformation in ``opt_state``; or `heal`
        heals, or may under `jax.jit`, and there are no ``params``.
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
    states = find_states(opt_state, may_heal=params is not None)
    parts, treedef = _parts_of(states, regularizer)
    leaves: list[Any] = [optax.MaskedNode()] * treedef.num_leaves
    healing = list(leaves)
    for part in parts:
        part.rule.put(leaves, part.structured())
        for i in part.rule.leaves:
            healing[i] = part.healing
    structured = treedef.unflatten(leaves)
    if params is None:
        return structured
    return _fill(structured, params, treedef.unflatten(healing))


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
    mean_gradient: Any  # None: the method keeps none
    healing: jax.Array | bool  # whether the iterate is of the past, see `heal`

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
    return _parts_of(find_states(opt_state), regularizer)


def _parts_of(
    states: list[FoundState], regularizer: RegularizerSpec
) -> tuple[list[IteratePart], Any]:
    trees = [_leaves_of(state, healing) for state, healing in states]
    merged = jax.tree.map(_the_one_held, *trees, is_leaf=_is_masked)
    is_not_held = lambda node: isinstance(node, NotHeld)
    leaves, treedef = jax.tree.flatten(merged, is_leaf=is_not_held)
    # The rules name the leaves without a regularizer as well.
    centers = [_NOTHING if is_not_held(leaf) else leaf.center for leaf in leaves]
    rules = resolve(regularizer, treedef.unflatten(centers))
    parts = []
    for i, rule in enumerate(rules):
        if i != min(rule.leaves) or is_not_held(leaves[i]):
            continue
        leaf, held = leaves[i], rule.take(leaves)
        of_each = lambda field: jax.tree.map(lambda leaf: getattr(leaf, field), held)  # noqa: B023
        parts.append(
            IteratePart(
                rule,
                rule.take(centers),
                leaf.step_size * leaf.strength * rule.multiplier,
                None if leaf.metric is None else of_each("metric"),
                leaf.strength * rule.multiplier,
                of_each("mean_gradient"),
                leaf.healing,
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
    mean_gradient: jax.Array | None
    healing: jax.Array | bool


def _leaves_of(state: Any, healing: jax.Array | bool) -> Any:
    center, step_size, metric = state.prox_arguments()
    # A budget has one for each leaf. Arrays may be NumPy's: asked is the structure.
    one = treedef_is_leaf(jax.tree.structure(state.strength))
    strengths = jax.tree.map(
        lambda x, lam: x if _is_masked(x) else state.strength if one else lam,
        center,
        center if one else state.strength,
        is_leaf=_is_masked,
    )
    none = jax.tree.map(lambda _: None, center)
    gradient = state.mean_gradient() if hasattr(state, "mean_gradient") else none
    rows = (center, strengths, none if metric is None else metric, gradient)

    def leaf(
        center: jax.Array,
        strength: jax.Array,
        metric: jax.Array | None,
        gradient: jax.Array | None,
    ) -> _LeafState:
        return _LeafState(center, step_size, metric, strength, gradient, healing)

    return jax.tree.map(leaf, *rows, is_leaf=lambda node: node is None)


_NOTHING = jax.ShapeDtypeStruct((), jnp.float32)


def _the_one_held(*nodes: Any) -> Any:
    """Return what the states of a partition say of a leaf: all but one have a mask."""
    held = [node for node in nodes if type(node) is not optax.MaskedNode]
    if len(held) > 1:
        raise ValueError(
            "two states hold the same parameter: there are several structured "
            "iterates. Pass the state of one transformation."
        )
    return held[0] if held else optax.MaskedNode()


def _fill(structured: Params, params: Params, healing: Any) -> Params:
    """Return the structured iterate like the params, which stand where there is none.

    There is none where it was masked, and where ``healing`` says that it is past.
    """
    old, treedef = jax.tree.flatten(params)
    new = state_leaves(params, structured, masked=True)
    past = leaves_by_name(params, healing, masked=True)
    leaves = []
    for w, x, is_past in zip(map(jnp.asarray, old), new, past, strict=True):
        if x is None:
            leaves.append(w)
        elif is_past is False:
            leaves.append(x.astype(w.dtype))
        else:
            leaves.append(jnp.where(is_past, w, x.astype(w.dtype)))
    return treedef.unflatten(leaves)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
