"""The state and the update of `latent`, by the formulas that stand there."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rmda_jax._types import Params
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.schedules._budget import Budget
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import (
    check_params,
    check_static,
    check_updates,
    evaluate,
    scale,
)
from rmda_jax.transforms._elsewhere import check_takes_no_prox
from rmda_jax.transforms._frozen import check_masks, support_masks, within
from rmda_jax.transforms._latent_state import LatentState, NotHeld
from rmda_jax.transforms._prox_leaves import critical_strengths, prox_each
from rmda_jax.transforms._state import (
    as_updates,
    in_containers_of,
    starting_point,
    state_leaves,
)
from rmda_jax.transforms._strength import as_state, initial_strength, strength_now

BetweenProxes: TypeAlias = Literal["move", "latent"]
"""What the params are in updates without a prox: see `latent`."""

Move: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Any]]
"""The inner update: from gradients, latent weights and state to update and state."""


class Phases(NamedTuple):
    """When a prox is taken; the fields are arguments of `latent`."""

    start_step: int
    freeze_step: int | None
    prox_every: int
    between_proxes: BetweenProxes

    def check(self) -> None:
        """Raise unless they are steps, and in order."""
        for name, least in (("start_step", 0), ("freeze_step", 1), ("prox_every", 1)):
            step = getattr(self, name)
            if step is not None:
                check_static(name, step)
                check_parameter(name, step, at_least=least, integer=True)
        if self.between_proxes not in get_args(BetweenProxes):
            raise ValueError(
                "`between_proxes` must be 'move' or 'latent', got "
                f"{self.between_proxes!r}."
            )
        if self.freeze_step is not None and self.freeze_step <= self.start_step:
            raise ValueError(
                f"`freeze_step` must be more than `start_step`, got {self.freeze_step} "
                f"and {self.start_step}: no prox would come before it."
            )

    @property
    def are_one(self) -> bool:
        """Whether every update before ``freeze_step`` takes a prox."""
        return self.start_step == 0 and self.prox_every == 1

    def has_begun(self, count: jax.Array) -> jax.Array:
        """Return whether the updates of ``inner`` alone are over."""
        return count >= self.start_step

    def is_due(self, count: jax.Array) -> jax.Array:
        """Return whether this update takes a prox."""
        due = (count - self.start_step) % self.prox_every == 0
        return self.has_begun(count) & (due | self.is_last(count))

    def is_last(self, count: jax.Array) -> jax.Array | bool:
        """Return whether the next update freezes the zeros."""
        return False if self.freeze_step is None else count + 1 == self.freeze_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentMethod:
    """A transformation; the fields are the arguments of `latent`, checked."""

    inner: optax.GradientTransformationExtraArgs
    regularizer: RegularizerSpec
    strength: Any
    gamma: Any
    growth: Any
    pull: Any  # None for 0
    phases: Phases
    begin_at_params: bool
    accumulator_dtype: Any

    def init(self, params: Params) -> LatentState:
        """Return the state before the first update."""
        check_params(params)
        rules, count = resolve(self.regularizer, params), jnp.zeros((), jnp.int32)
        lam = initial_strength(self.strength, self.regularizer, params, metric=False)
        gamma = evaluate(self.gamma, count)
        leaves, treedef = jax.tree.flatten(params)
        if self.phases.freeze_step is not None:
            check_masks(rules, leaves)
        held = [rule.regularizer is not None for rule in rules]
        z = [
            starting_point(w, self.accumulator_dtype) if is_held else w
            for w, is_held in zip(leaves, held, strict=True)
        ]
        inner_state = self.inner.init(treedef.unflatten(z))
        check_takes_no_prox("inner", inner_state)
        if self.begin_at_params and not isinstance(self.strength, Budget):
            _add_subgradients(rules, z, gamma * evaluate(self.strength, count))
        kept = treedef.unflatten(_kept(z, held))
        return LatentState(count, gamma, lam, kept, inner_state)

    def update(
        self,
        updates: optax.Updates,
        state: Any,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LatentState]:
        """Return new minus old params, and the state."""
        check_updates(updates, params, state, LatentState)

        def move(g: Any, z: Any, inner_state: Any) -> tuple[Any, Any]:
            like = jax.eval_shape(self.inner.init, z)
            old = in_containers_of(like, inner_state)
            return self.inner.update(g, old, z, **extra_args)

        with_prox = functools.partial(self._with_prox, move)
        if self.phases.freeze_step is None:
            return with_prox(updates, state, params)
        return lax.cond(
            state.count < self.phases.freeze_step,
            with_prox,
            functools.partial(self._frozen, move),
            *(updates, state, params),
        )

    def _with_prox(
        self, move: Move, updates: Any, state: LatentState, params: Params
    ) -> tuple[optax.Updates, LatentState]:
        """Return the update and the state by the formulas of `latent`."""
        rules, count = resolve(self.regularizer, params), state.count
        old = _leaves(params, updates, state)
        # u_t(g_t, z_{t-1})
        u, inner_state = _inner_update(old, state, params, move)
        # z_t = z_{t-1} + u_t - p_t (z_{t-1} - x_{t-1}) / gamma_{t-1}
        z = jax.tree.map(jnp.add, old.latent, u)
        if self.pull is not None:
            share = evaluate(self.pull, count)
            share = share / jnp.where(state.gamma > 0, state.gamma, 1)
            z = jax.tree.map(
                lambda new, z, x: new - scale(share, z - x), z, old.latent, old.params
            )
        # gamma_t = gamma_{t-1} + delta_t
        begun = self.phases.has_begun(count)
        gamma = state.gamma + jnp.where(begun, evaluate(self.growth, count), 0)

        # x_t = prox_{gamma_t lambda psi}(z_t)
        def prox() -> tuple[list[jax.Array], Any]:
            problem = lambda z: z, (z,)
            critical = critical_strengths(*problem, gamma)
            lam = strength_now(self.strength, count, rules, critical, z)
            return prox_each(rules, *problem, gamma, lam), as_state(lam, params)

        # x_t = x_{t-1} + z_t - z_{t-1}, or z_t; and z_t before the first prox
        def no_prox() -> tuple[list[jax.Array], Any]:
            x = z
            if self.phases.between_proxes == "move":
                beside = lambda x, new, z: jnp.where(begun, x + (new - z), new)
                x = jax.tree.map(beside, old.params, z, old.latent)
            return x, in_containers_of(like, state.strength)

        if self.phases.are_one:
            x, lam = prox()
        else:
            like = jax.eval_shape(prox)[1]
            x, lam = lax.cond(self.phases.is_due(count), prox, no_prox)
        if self.phases.freeze_step is not None:
            # What is frozen begins at the params.
            last = self.phases.is_last(count)
            z = jax.tree.map(lambda z, x: jnp.where(last, x, z), z, x)
        update, kept = _update_and_latent(params, old, u, x, z)
        count = jnp.asarray(optax.safe_increment(count))
        return update, LatentState(count, gamma, lam, kept, inner_state)

    def _frozen(
        self, move: Move, updates: Any, state: LatentState, params: Params
    ) -> tuple[optax.Updates, LatentState]:
        """Return the update of ``inner`` where the params are not zero."""
        old = _leaves(params, updates, state)
        masks = support_masks(resolve(self.regularizer, params), old.latent)
        old = old._replace(grads=within(masks, old.grads))
        u, inner_state = _inner_update(old, state, params, move)
        u = within(masks, u)
        z = jax.tree.map(jnp.add, old.latent, u)
        update, kept = _update_and_latent(params, old, u, z, z)
        return update, LatentState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            gamma=state.gamma,
            strength=self._no_strength(params),
            latent=kept,
            inner_state=inner_state,
        )

    def _no_strength(self, params: Params) -> Any:
        """Return what a state holds while no prox is taken."""
        return initial_strength(self.strength, self.regularizer, params, metric=False)


class _Leaves(NamedTuple):
    """What an update works on, a list each; without a regularizer as it came."""

    latent: list[jax.Array]  # without a regularizer, the params
    params: list[jax.Array]  # with one, in the dtype of the latent weights
    grads: list[jax.Array]  # the same
    held: list[bool]  # whether a regularizer acts


def _leaves(params: Params, updates: Any, state: LatentState) -> _Leaves:
    w, g = state_leaves(params, params), state_leaves(params, updates)
    z = state_leaves(params, state.latent, masked=True)
    held = [leaf is not None for leaf in z]
    wide = lambda leaves: [
        x if like is None else x.astype(like.dtype)
        for x, like in zip(leaves, z, strict=True)
    ]
    filled = [x if leaf is None else leaf for leaf, x in zip(z, w, strict=True)]
    return _Leaves(filled, wide(w), wide(g), held)


def _inner_update(
    leaves: _Leaves,
    state: LatentState,
    params: Params,
    move: Move,
) -> tuple[list[jax.Array], Any]:
    """Return the update of ``inner`` for the latent weights, and its state."""
    treedef = jax.tree.structure(params)
    g, z = treedef.unflatten(leaves.grads), treedef.unflatten(leaves.latent)
    u, inner_state = move(g, z, state.inner_state)
    return [
        u.astype(z.dtype)
        for u, z in zip(state_leaves(params, u), leaves.latent, strict=True)
    ], inner_state


def _update_and_latent(
    params: Params, old: _Leaves, u: list[Any], x: list[Any], z: list[Any]
) -> tuple[Any, Any]:
    """Return new minus old params, and what a state keeps of the latent weights."""
    change = [
        new - w if held else u
        for new, w, u, held in zip(x, old.params, u, old.held, strict=True)
    ]
    kept = jax.tree.structure(params).unflatten(_kept(z, old.held))
    return as_updates(params, change), kept


def _kept(leaves: Sequence[Any], held: Sequence[bool]) -> list[Any]:
    """Return what a state keeps: the leaves on which a regularizer acts."""
    return [
        x if is_held else NotHeld() for x, is_held in zip(leaves, held, strict=True)
    ]


def _add_subgradients(
    rules: Sequence[LeafRule], leaves: list[Any], level: jax.Array
) -> None:
    """Move the leaves to where the prox of this step size leads back from."""
    for rule in active(rules):
        x, t = rule.take(leaves), level * rule.multiplier
        step = lambda x, v: x + scale(t, v)  # noqa: B023
        rule.put(leaves, jax.tree.map(step, x, _subgradient(rule.regularizer, x)))


def _subgradient(regularizer: Any, x: Any) -> Any:
    """Return a subgradient, which is 0 where a unit is zero.

    There JAX gives the derivative from one side. As penalties are even, half the sum of
    those from both sides is a subgradient as well, and 0.
    """
    gradient = jax.grad(regularizer.value)
    ahead, behind = gradient(x), gradient(jax.tree.map(jnp.negative, x))
    both = lambda a, b: jnp.where(jnp.isfinite(a - b), (a - b) / 2, 0)
    return jax.tree.map(both, ahead, behind)
