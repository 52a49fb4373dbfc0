r"""Latent weights: any optimizer moves them, and the params are their prox.

What `latent` leaves open tells the methods in `_latent_methods.py` apart.
docs/latent.md derives them, and dual averaging as one more.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rmda_jax._types import Params, Scalar, ScalarOrSchedule, wide_dtype
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.schedules._budget import Budget
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import (
    check_hyperparameter,
    check_params,
    check_static,
    check_updates,
    evaluate,
    scale,
    with_extra_args,
)
from rmda_jax.transforms._elsewhere import check_takes_no_prox
from rmda_jax.transforms._frozen import check_masks, support_masks, within
from rmda_jax.transforms._latent_state import LatentState, NotHeld
from rmda_jax.transforms._prox_leaves import critical_strengths, prox_each
from rmda_jax.transforms._signature import readable
from rmda_jax.transforms._state import as_updates, in_containers_of, state_leaves
from rmda_jax.transforms._strength import (
    as_state,
    check_strength,
    initial_strength,
    strength_now,
)


@readable
def latent(
    inner: optax.GradientTransformation,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    gamma: Scalar = 1.0,
    *,
    growth: ScalarOrSchedule = 0.0,
    pull: ScalarOrSchedule = 0.0,
    start_step: int = 0,
    freeze_step: int | None = None,
    prox_every: int = 1,
    begin_at_params: bool = False,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Let any optimizer move latent weights, and take the params as their prox.

    With g the gradient at the params x, u the update of ``inner`` for the latent
    weights z, :math:`\psi` = ``regularizer`` and :math:`\lambda` = ``strength``:

    .. math::
        \gamma_t &= \gamma_{t-1} + \delta_t \\
        z_t &= z_{t-1} + u_t(g_t, z_{t-1})
            - p_t\,\frac{z_{t-1} - x_{t-1}}{\gamma_{t-1}}, \quad z_0 = x_0 \\
        x_t &= \operatorname{prox}_{\gamma_t\lambda\psi}(z_t)

    ============  ==========  ==================  ==================
    method        ``gamma``   ``growth``          ``pull``
    ============  ==========  ==================  ==================
    `aprox`       0           the learning rate   0
    `normal_map`  positive    0                   the learning rate
    `linbreg`     positive    0                   0
    ============  ==========  ==================  ==================

    The params carry exact zeros after every prox. Weight decay of ``inner`` acts on z.
    Leaves without a regularizer get the update of ``inner`` untouched, and no z.

    The update returned is new minus old params, in the params' dtype: nothing may stand
    after it in an `optax.chain`; clipping stands before it, or inside of ``inner``.

    Args:
      inner: Any Optax optimizer, complete with its learning rate. It is given z for the
        params, in the accumulator dtype.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`, or a `budget`.
      gamma: :math:`\gamma_0 \ge 0`, in units of the learning rate; number or array.
      growth: :math:`\delta_t \ge 0`: what an update adds to gamma.
      pull: :math:`p_t \ge 0`: how strongly z is drawn to the params.
      start_step: Number of updates before the first prox. In them ``inner`` is alone,
        the params are z, and gamma stands still.
      freeze_step: From this update on what is zero stays zero, and ``inner``, whose
        state goes on, trains the rest alone, from the params. None: never. `heal` does
        that with another optimizer.
      prox_every: A prox is taken in one update of so many, counted from ``start_step``,
        and in the last one before ``freeze_step``. In the others gamma advances, and
        the params are z, without zeros. For regularizers whose prox is expensive.
      begin_at_params: Whether z begins where its prox is the params,
        :math:`z_0 = x_0 + \gamma_0\lambda\nabla\psi(x_0)` with 0 for the gradient where
        there is none; with a `budget`, whose first :math:`\lambda` is not known, it
        begins at the params all the same.
      accumulator_dtype: Dtype of z; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `LatentState`, one array per
      regularized parameter beside the state of ``inner``. Extra arguments of ``update``
      reach ``inner``.

    Raises:
      NotImplementedError: with ``freeze_step``, a regularizer whose structure no mask
        keeps, see `Regularizer.support_mask`.
      TypeError: ``inner`` is no transformation or takes a prox itself, a number that
        the program depends on is an array, or as `rmda`.
      ValueError: an argument is out of range; gamma is 0 and does not grow, or
        something pulls; ``freeze_step`` is not after ``start_step``; or as `rmda`.

    Examples:
      >>> tx = rj.latent(optax.sgd(0.5), rj.l1(), strength=0.2, gamma=1.0, pull=0.5)
      >>> params, target = jnp.zeros(3), jnp.array([2.0, 1.0, 0.1])
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(50):
      ...     updates, state = update(params - target, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(", ".join(f"{x:.2f}" for x in params))
      1.80, 0.80, 0.00
    """
    inner = with_extra_args("inner", inner)
    check_strength(strength)
    check_hyperparameter("growth", growth)
    check_hyperparameter("pull", pull)
    _check_gamma(gamma, growth, pull)
    phases = _Phases(start_step, freeze_step, prox_every)
    phases.check()

    def init_fn(params: Params) -> LatentState:
        check_params(params)
        rules, count = resolve(regularizer, params), jnp.zeros((), jnp.int32)
        lam = initial_strength(strength, regularizer, params, metric=False)
        leaves, treedef = jax.tree.flatten(params)
        if freeze_step is not None:
            check_masks(rules, leaves)
        held = [rule.regularizer is not None for rule in rules]
        z = [
            jnp.array(w, accumulator_dtype or wide_dtype(w.dtype)) if is_held else w
            for w, is_held in zip(map(jnp.asarray, leaves), held, strict=True)
        ]
        inner_state = inner.init(treedef.unflatten(z))
        check_takes_no_prox("inner", inner_state)
        if begin_at_params and not isinstance(strength, Budget):
            level = evaluate(gamma, count) * evaluate(strength, count)
            _add_subgradients(rules, z, level)
        return LatentState(
            count=count,
            gamma=evaluate(gamma, count),
            strength=lam,
            latent=treedef.unflatten(_kept(z, held)),
            inner_state=inner_state,
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LatentState]:
        check_updates(updates, params, state, LatentState)
        rules = resolve(regularizer, params)

        def move(g: Any, z: Any, inner_state: Any) -> tuple[Any, Any]:
            like = jax.eval_shape(inner.init, z)
            return inner.update(g, in_containers_of(like, inner_state), z, **extra_args)

        def step(updates: Any, state: LatentState, params: Params) -> Any:
            return _latent_update(
                rules,
                updates,
                state,
                params,
                move,
                strength,
                evaluate(growth, state.count),
                evaluate(pull, state.count) if _may_be_positive(pull) else None,
                phases,
            )

        def frozen(updates: Any, state: LatentState, params: Params) -> Any:
            return _frozen_update(rules, updates, state, params, move)

        if freeze_step is None:
            return step(updates, state, params)
        return lax.cond(state.count < freeze_step, step, frozen, updates, state, params)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Phases(NamedTuple):
    """When a prox is taken; the fields are arguments of `latent`."""

    start_step: int
    freeze_step: int | None
    prox_every: int

    def check(self) -> None:
        """Raise unless they are steps, and in order."""
        for name, least in (("start_step", 0), ("freeze_step", 1), ("prox_every", 1)):
            step = getattr(self, name)
            if step is not None:
                check_static(name, step)
                check_parameter(name, step, at_least=least, integer=True)
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


class _Leaves(NamedTuple):
    """What an update works on, a list each; without a regularizer as it came."""

    latent: list[jax.Array]  # without a regularizer, the params
    params: list[jax.Array]  # with one, in the dtype of the latent weights
    grads: list[jax.Array]  # the same
    held: list[bool]  # whether a regularizer acts


def _latent_update(
    rules: Sequence[LeafRule],
    updates: optax.Updates,
    state: LatentState,
    params: Params,
    move: Callable[[Any, Any, Any], tuple[Any, Any]],
    strength: Any,
    growth: jax.Array,
    pull: jax.Array | None,
    phases: _Phases,
) -> tuple[optax.Updates, LatentState]:
    """Return the update and the state by the formulas of `latent`."""
    old, count, treedef = _leaves(params, updates, state), state.count, _treedef(params)
    # u_t(g_t, z_{t-1})
    u, inner_state = _moved(old, state, params, move)
    # z_t = z_{t-1} + u_t - p_t (z_{t-1} - x_{t-1}) / gamma_{t-1}
    z = jax.tree.map(jnp.add, old.latent, u)
    if pull is not None:
        share = pull / jnp.where(state.gamma > 0, state.gamma, 1)
        z = jax.tree.map(
            lambda new, z, x: new - scale(share, z - x), z, old.latent, old.params
        )
    # gamma_t = gamma_{t-1} + delta_t
    gamma = state.gamma + jnp.where(phases.has_begun(count), growth, 0)

    # x_t = prox_{gamma_t lambda psi}(z_t)
    def prox() -> tuple[list[jax.Array], Any]:
        problem = lambda z: z, (z,)
        critical = critical_strengths(*problem, gamma)
        lam = strength_now(strength, count, rules, critical, z)
        return prox_each(rules, *problem, gamma, lam), as_state(lam, params)

    def no_prox() -> tuple[list[jax.Array], Any]:
        began = jnp.asarray(phases.has_begun(count))
        return z, jax.tree.map(lambda lam: jnp.where(began, lam, 0), state.strength)

    if phases.are_one:
        x, lam = prox()
    else:
        x, lam = lax.cond(phases.is_due(count), prox, no_prox)
    if phases.freeze_step is not None:
        # What is frozen begins at the params.
        last = phases.is_last(count)
        z = jax.tree.map(lambda z, x: jnp.where(last, x, z), z, x)
    change = [
        new - w if held else u
        for new, w, u, held in zip(x, old.params, u, old.held, strict=True)
    ]
    return as_updates(params, change), LatentState(
        count=jnp.asarray(optax.safe_increment(count)),
        gamma=gamma,
        strength=lam,
        latent=treedef.unflatten(_kept(z, old.held)),
        inner_state=inner_state,
    )


def _frozen_update(
    rules: Sequence[LeafRule],
    updates: optax.Updates,
    state: LatentState,
    params: Params,
    move: Callable[[Any, Any, Any], tuple[Any, Any]],
) -> tuple[optax.Updates, LatentState]:
    """Return the update of ``inner`` where the params are not zero."""
    old = _leaves(params, updates, state)
    masks = support_masks(rules, old.latent)
    old = old._replace(grads=within(masks, old.grads))
    u, inner_state = _moved(old, state, params, move)
    u = within(masks, u)
    z = jax.tree.map(jnp.add, old.latent, u)
    change = [
        z - w if held else u
        for z, w, u, held in zip(z, old.params, u, old.held, strict=True)
    ]
    return as_updates(params, change), LatentState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        gamma=state.gamma,
        strength=jax.tree.map(jnp.zeros_like, state.strength),
        latent=_treedef(params).unflatten(_kept(z, old.held)),
        inner_state=inner_state,
    )


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


def _moved(
    leaves: _Leaves,
    state: LatentState,
    params: Params,
    move: Callable[[Any, Any, Any], tuple[Any, Any]],
) -> tuple[list[jax.Array], Any]:
    """Return the update of ``inner`` for the latent weights, and its state."""
    treedef = _treedef(params)
    g, z = treedef.unflatten(leaves.grads), treedef.unflatten(leaves.latent)
    u, inner_state = move(g, z, state.inner_state)
    return [
        u.astype(z.dtype)
        for u, z in zip(state_leaves(params, u), leaves.latent, strict=True)
    ], inner_state


def _treedef(params: Params) -> Any:
    return jax.tree.structure(params)


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


def _check_gamma(gamma: Any, growth: Any, pull: Any) -> None:
    if callable(gamma):
        raise TypeError(
            f"`gamma` must be a number or an array of rank 0, got {gamma!r}. What "
            "changes it from step to step is `growth`."
        )
    check_hyperparameter("gamma", gamma)
    stays = not _may_be_positive(growth)
    if not _may_be_positive(gamma) and (stays or _may_be_positive(pull)):
        raise ValueError(
            "`gamma` must be positive where it does not grow, or something pulls, got "
            f"{gamma}. Give gamma=1.0."
        )


def _may_be_positive(value: Any) -> bool:
    """Return whether a hyperparameter is anything else than a concrete 0."""
    return callable(value) or isinstance(value, jax.Array) or bool(value)
