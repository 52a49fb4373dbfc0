"""What a run knows of itself, for loggers and progress bars."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmda_jax._types import Params, shape_dtype_of
from rmda_jax.metrics._identification import margin
from rmda_jax.metrics._text import no_text
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.specs._names import leaf_names
from rmda_jax.specs._report import passes_on
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._elsewhere import states_of_run, where_the_zeros_are
from rmda_jax.transforms._state import StructuredState, unwrap
from rmda_jax.transforms._structured import iterate_parts, structured_params


class Summary(NamedTuple):
    """Scalars of a run; made by `summary`, which says more, and a line as ``str``."""

    units: jax.Array  # floating: share of the units that is alive
    weights: jax.Array  # floating: share of the regularized weights that is not zero
    n_alive: jax.Array  # int32: units that are alive
    n_units: jax.Array  # int32: units of all regularizers
    strength: jax.Array  # floating: of the last update, the largest over the leaves
    margin: jax.Array  # floating: `metrics.margin`
    updates: jax.Array  # int32: updates so far
    stage_updates: jax.Array  # int32: those in this stage
    dead: jax.Array  # int32: rules whose units are all zero
    structured: jax.Array  # floating: share of the zero units that is zero in params

    def __str__(self) -> str:
        instead = no_text("Summary", self)
        if instead is not None:
            return instead
        n_alive, n_units = int(self.n_alive), int(self.n_units)
        parts = [
            f"units {float(self.units):.1%} ({n_alive} of {n_units})",
            f"weights {float(self.weights):.1%}",
        ]
        for name in ("strength", "margin"):
            number = float(getattr(self, name))
            if math.isfinite(number):
                parts.append(f"{name} {number:.2g}")
        if self.dead:
            parts.append(f"rules with all units zero: {int(self.dead)}")
        if self.structured < 1:
            parts.append("params not structured yet")
        return ", ".join(parts)


def summary(
    opt_state: Any, regularizer: RegularizerSpec, params: Params | None = None
) -> Summary:
    """Return what a run knows of itself, as scalars for a logger.

    Zeros are counted where a run has them: in the structured iterate of `rmda` and
    `ramda`, in the params of the others. It runs inside of `jax.jit`, `jax.vmap` and
    scans; outside of them, compile it, for it computes the structured iterate.

    Args:
      opt_state: State after at least one update, wrapped or not, of any transformation
        of this library.
      regularizer: The one the transformation was built with; with `rigl`, any of
        entries, such as `l1`.
      params: The params. With them it is told whether they have the zeros of the
        iterate yet; without them, leaves of which the state holds no iterate do not
        count.

    Returns:
      Summary with the fields

      - ``units``, ``weights``: share of the units that are alive, and of the
        regularized weights that are not zero; ``n_alive`` of ``n_units`` units;
      - ``strength``: that of the last update before multipliers, the largest over
        the leaves if a budget sets it; NaN for `rigl`, which has none;
      - ``margin``: `metrics.margin`; NaN where no averaged gradient is kept, or a
        regularizer has no zero units;
      - ``updates``, ``stage_updates``: updates so far, and those of this stage; the
        same where there are no stages;
      - ``dead``: rules, each counted at each leaf or tie, whose units are all zero,
        so that nothing passes through; leaves that are only added, such as biases, do
        not count. `RegularizerMap.report` names them;
      - ``structured``: of the units that are zero in the iterate, the share that is
        zero in the params: below 1, `structured_params` are structured, and the params
        not yet. NaN without params.

    Raises:
      TypeError: no state of a transformation of this library in ``opt_state``.
      ValueError: as in `structured_params`; or params are missing and the state keeps
        no structured iterate, or there are no units to count.

    .. note::
      Under ``jax_debug_nans`` a NaN stops the program, also one that says that there is
      no number.

    Examples:
      >>> tx = rj.rmda(0.1, rj.group_lasso(0), rj.budget(n_groups=3), averaging=0.1)
      >>> params = jnp.arange(8.0).reshape(4, 2)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(rj.metrics.summary(state, rj.group_lasso(0), params))
      units 75.0% (3 of 4), weights 75.0%, strength 7, ..., params not structured yet
    """
    states = states_of_run(opt_state)
    has_iterate = any(isinstance(state, StructuredState) for state in states)
    if has_iterate:
        counted = _in_iterate(opt_state, regularizer, params)
    elif params is None:
        raise ValueError(
            "`params` must be passed with a state that keeps no structured iterate, "
            f"got None. {where_the_zeros_are(opt_state)}"
        )
    else:
        counted = _in_params(regularizer, params)
    if not counted:
        raise ValueError("there are no units to count: no leaf is regularized.")
    n_units = sum(part.alive.size for part in counted)
    n_weights = sum(w.size for part in counted for w in part.weights)
    none = jnp.zeros((), jnp.int32)
    n_alive = sum((_count(part.alive) for part in counted), none)
    n_nonzero = sum((_count(w != 0) for part in counted for w in part.weights), none)
    return Summary(
        units=_share(n_alive, n_units),
        weights=_share(n_nonzero, n_weights),
        n_alive=n_alive,
        n_units=jnp.asarray(n_units, jnp.int32),
        strength=_largest_strength(states),
        margin=_margin(opt_state, regularizer) if has_iterate else _no_number(),
        updates=_most([state.count for state in states]),
        stage_updates=_most([getattr(s, "stage_count", s.count) for s in states]),
        dead=sum(map(_is_dead, counted), none),
        structured=_share_of_zeros(counted),
    )


class _Counted(NamedTuple):
    """The units and the weights of a rule, in the iterate and in the params."""

    alive: jax.Array
    weights: tuple[jax.Array, ...]
    alive_in_params: jax.Array | None
    passes_on: bool


def _in_iterate(
    opt_state: Any, regularizer: RegularizerSpec, params: Params | None
) -> list[_Counted]:
    own = structured_params(opt_state, regularizer)
    names, supports = leaf_names(own), {}
    # Counted by the prox itself, which needs no tolerance for a rank.
    for part in iterate_parts(opt_state, regularizer)[0]:
        supports |= {names[i]: part.support() for i in part.rule.leaves}
    if params is None:
        return _counted(regularizer, own, supports, None)
    filled = structured_params(opt_state, regularizer, params)
    return _counted(regularizer, filled, supports, jax.tree.leaves(params))


def _in_params(regularizer: RegularizerSpec, params: Params) -> list[_Counted]:
    return _counted(regularizer, params, {}, jax.tree.leaves(params))


def _counted(
    regularizer: RegularizerSpec,
    tree: Params,
    supports: dict[str, Any],
    in_params: list[jax.Array] | None,
) -> list[_Counted]:
    leaves, rules = jax.tree.leaves(tree), resolve(regularizer, tree)

    def one(rule: LeafRule) -> _Counted:
        x, alive = rule.take(leaves), supports.get(rule.name)
        if alive is None:  # the params themselves
            alive = rule.regularizer.support(x)
        old = alive
        if in_params is None:
            old = None
        elif rule.name in supports:
            old = rule.regularizer.support(rule.take(in_params))
        weights = tuple(jnp.asarray(w) for w in (x if rule.is_tied else (x,)))
        some = any(
            passes_on(rules[i].name, shape_dtype_of(leaves[i])[0]) for i in rule.leaves
        )
        return _Counted(alive, weights, old, some)

    return [one(rule) for rule in active(rules)]


def _is_dead(part: _Counted) -> jax.Array:
    return _count(~jnp.any(part.alive) & part.passes_on)


def _share_of_zeros(counted: list[_Counted]) -> jax.Array:
    """Return the share of the iterate's zero units that are zero in the params."""
    zeros = kept = jnp.zeros((), jnp.int32)
    for part in counted:
        if part.alive_in_params is None:
            return _no_number()
        zeros += _count(~part.alive)
        kept += _count(~part.alive & ~part.alive_in_params)
    return jnp.where(zeros == kept, 1, _share(kept, jnp.maximum(zeros, 1)))


def _largest_strength(states: list[Any]) -> jax.Array:
    trees = [unwrap(state.strength) for state in states if hasattr(state, "strength")]
    found = jax.tree.leaves(trees)
    if not found:
        return _no_number()
    return jnp.max(jnp.stack([jnp.asarray(x, jnp.result_type(float)) for x in found]))


def _margin(opt_state: Any, regularizer: RegularizerSpec) -> jax.Array:
    try:
        return margin(opt_state, regularizer)
    except NotImplementedError:  # a regularizer of levels, for instance
        return _no_number()


def _most(counts: list[Any]) -> jax.Array:
    return jnp.max(jnp.stack([jnp.asarray(unwrap(n), jnp.int32) for n in counts]))


def _count(flags: jax.Array) -> jax.Array:
    return jnp.sum(flags, dtype=jnp.int32)


def _share(count: Any, total: Any) -> jax.Array:
    real = jnp.result_type(float)
    return jnp.asarray(count, real) / jnp.asarray(total, real)


def _no_number() -> jax.Array:
    return jnp.full((), math.nan, jnp.result_type(float))
