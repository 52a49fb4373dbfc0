r"""RAMDA: RMDA in the metric of a cube root of summed squared gradients.

.. math::
    V_t &= V_{t-1} + s_t g_t, \quad U_t = U_{t-1} + s_t g_t^2, \quad
        P_t = \sqrt[3]{U_t} + \epsilon \\
    \hat W_t &= \arg\min_W \langle V_t, W\rangle
        + \tfrac12\langle W - W_0, P_t (W - W_0)\rangle + \alpha_t\lambda\psi(W)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import (
    check_averaging,
    check_hyperparameter,
    check_params,
    check_restart_steps,
    check_updates,
    evaluate,
    is_step,
    scale,
)
from rmda_jax.transforms._cube_root import cube_root
from rmda_jax.transforms._prox_leaves import (
    metric_critical_strengths,
    metric_prox_each,
)
from rmda_jax.transforms._signature import readable
from rmda_jax.transforms._state import (
    ProxArguments,
    accumulators,
    as_updates,
    leaf_lists,
    renewed,
    starting_point,
)
from rmda_jax.transforms._strength import (
    as_state,
    check_strength,
    initial_strength,
    strength_now,
)
from rmda_jax.transforms._weight_decay import Decay, DecayMask, decay_at


class RAMDAState(NamedTuple):
    """State of `ramda`: scalars, and three trees like the params."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    stage_count: jax.Array  # int32: t, updates so far in this stage
    weight_sum: jax.Array  # floating: alpha_t
    strength: Any  # floating: lambda of the last update; for a budget, one a leaf
    eps: jax.Array  # floating: epsilon of the last update
    grad_sum: Params  # accumulator dtype: V_t
    grad_sq_sum: Params  # accumulator dtype: U_t
    anchor: Params  # accumulator dtype: W_0 of this stage

    def metric(self) -> Params:
        """Return the diagonal metric of the last update."""
        return jax.tree.map(lambda u: _metric(u, self.eps), self.grad_sq_sum)

    def prox_arguments(self) -> ProxArguments:
        """Return centre, step size and metric of the last prox."""
        metric = self.metric()
        center = jax.tree.map(_center, self.anchor, self.grad_sum, metric)
        return ProxArguments(center, self.weight_sum, metric)

    def mean_gradient(self) -> Params:
        r"""Return the averaged gradient :math:`V_t/\alpha_t` of this stage."""
        scale = 1 / jnp.where(self.weight_sum > 0, self.weight_sum, 1)
        return jax.tree.map(lambda v: v * scale.astype(v.dtype), self.grad_sum)


@readable
def ramda(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    averaging: ScalarOrSchedule = 0.01,
    restart_steps: Sequence[int] = (),
    eps: ScalarOrSchedule = 1e-6,
    eps_decay: float = 0.1,
    weight_decay: ScalarOrSchedule = 0.0,
    decay_mask: DecayMask = None,
    rtol: float | None = None,
    max_iters: int = 100,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Regularized adaptive momentum dual averaging, the adaptive successor of `rmda`.

    In stage-local time t = 1, 2, ..., with :math:`s_t = \eta_t\sqrt t` and
    :math:`\alpha_t = \sum_k s_k`:

    .. math::
        V_t &= V_{t-1} + s_t g_t, \quad U_t = U_{t-1} + s_t g_t^2, \quad
            P_t = \sqrt[3]{U_t} + \epsilon \\
        \hat W_t &= \arg\min_W \langle V_t, W\rangle
            + \tfrac12\langle W - W_0, P_t(W - W_0)\rangle + \alpha_t\lambda\psi(W) \\
        W_t &= (1 - c_t) W_{t-1} + c_t\hat W_t

    The subproblem is the prox of :math:`W_0 - V_t/P_t` in the metric :math:`P_t`. Where
    `Regularizer.metric_prox` is exact (entries, group lasso, ...) so is this, where the
    paper iterates; elsewhere it is proximal gradient from :math:`W_{t-1}`.

    What `rmda` says of ``init``, stages, averaging, structure, chains and schedules
    holds here.

    Args:
      learning_rate: :math:`\eta_t \ge 0`, about a tenth of RMDA's.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`.
      averaging: :math:`c_t \in (0, 1]`.
      restart_steps: Counts of updates at which a new stage begins.
      eps: :math:`\epsilon > 0` of the first stage.
      eps_decay: Factor on :math:`\epsilon` at every restart, in (0, 1]; the authors use
        the learning rate's.
      weight_decay: :math:`\omega \ge 0`, for leaves without a regularizer, decoupled:
        their :math:`V_t` gains :math:`s_t\omega P_tW_{t-1}/\sqrt t`, of which the step
        of :math:`V_t/P_t` is that of `rmda`, and :math:`U_t` gains nothing.
      decay_mask: As in `rmda`.
      rtol: Where the subproblem takes iterations: stop at this certificate, see
        `Regularizer.solve_metric_prox`.
      max_iters: And no later than this.
      accumulator_dtype: Dtype of the sums and the anchor; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `RAMDAState`, three arrays
      per parameter.

    Raises:
      TypeError, ValueError: as `rmda`; ``eps`` or ``eps_decay`` out of range.

    Examples:
      >>> tx = rj.ramda(0.01, rj.group_lasso(0), strength=0.1, averaging=1.0)
      >>> params = jnp.array([[0.5, 0.5], [0.1, 0.1]])
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(300):
      ...     grads = params - jnp.array([[3.0, 4.0], [0.05, 0.0]])
      ...     updates, state = update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> rj.group_lasso(0).support(params)
      Array([ True, False], dtype=bool)

    References:
      Huang, Lee & Lee, `Regularized Adaptive Momentum Dual Averaging with an Efficient
      Inexact Subproblem Solver <https://arxiv.org/abs/2403.14398>`_, 2024, Algorithm 1.
      Its released solver stops on a wrong objective; this one is exact.
    """
    check_hyperparameter("learning_rate", learning_rate)
    check_strength(strength)
    check_averaging(averaging)
    check_hyperparameter("eps", eps, positive=True)
    check_hyperparameter("eps_decay", eps_decay, positive=True, most=1)
    restarts = check_restart_steps(restart_steps)
    check_hyperparameter("weight_decay", weight_decay)

    def init_fn(params: Params) -> RAMDAState:
        check_params(params)
        lam = initial_strength(strength, regularizer, params, metric=True)
        return _initial_state(params, accumulator_dtype, lam)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, RAMDAState]:
        check_updates(updates, params, state, RAMDAState)
        return _ramda_update(
            resolve(regularizer, params),
            updates,
            state,
            params,
            evaluate(learning_rate, state.count),
            strength,
            evaluate(averaging, state.count),
            evaluate(eps, state.count) * _decay(eps_decay, restarts, state.count),
            is_step(state.count, restarts),
            decay_at(weight_decay, decay_mask, state.count),
            rtol=rtol,
            max_iters=max_iters,
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _ramda_update(
    rules: list[LeafRule],
    updates: optax.Updates,
    state: RAMDAState,
    params: Params,
    eta: jax.Array,
    strength: Any,
    c: jax.Array,
    eps: jax.Array,
    restart: ArrayLike,
    weight_decay: Decay | None,
    **options: Any,
) -> tuple[optax.Updates, RAMDAState]:
    """Return the update and the state by the formulas of the module's docstring."""
    w, g, grad_sum, grad_sq_sum, anchor = leaf_lists(
        params, updates, state.grad_sum, state.grad_sq_sum, state.anchor
    )
    # t = 1, 2, ... within a stage, at whose first update the sums begin at 0
    first = (state.stage_count == 0) | restart
    t = jnp.where(first, 1, optax.safe_increment(state.stage_count))
    so_far = lambda total: jnp.where(first, 0, total)

    # s_t = eta_t sqrt(t), alpha_t = alpha_{t-1} + s_t
    s = eta * jnp.sqrt(t.astype(eta.dtype))
    alpha = so_far(state.weight_sum) + s
    # V_t = V_{t-1} + s_t g_t
    grad_sum = jax.tree.map(lambda v, g: so_far(v) + scale(s, g), grad_sum, g)
    # U_t = U_{t-1} + s_t g_t^2
    grad_sq_sum = jax.tree.map(
        lambda u, g: so_far(u) + scale(s, jnp.square(g)), grad_sq_sum, g
    )
    # W_0 = the params that the stage begins with, in the first one those of `init`
    anchor = renewed(anchor, w, restart)
    # P_t = cube root of U_t, + eps
    eps = eps.astype(eta.dtype)
    metric = lambda u: _metric(u, eps)
    # V_t gains s_t omega P_t W_{t-1} / sqrt(t), where no regularizer acts
    if weight_decay is not None:
        share = s / jnp.sqrt(t.astype(s.dtype))
        factors = [scale(share, metric(u)) for u in grad_sq_sum]
        grad_sum = weight_decay.added(grad_sum, w, rules, params, factors)
    # What_t = prox_{alpha_t lambda psi}(W_0 - V_t / P_t) in the metric P_t
    problem = _center, (anchor, grad_sum), metric, grad_sq_sum
    critical = metric_critical_strengths(*problem, alpha)
    lam = strength_now(strength, state.count, rules, critical, w)
    structured = metric_prox_each(rules, *problem, alpha, lam, start=w, **options)
    # W_t - W_{t-1} = c_t (What_t - W_{t-1}). At c_t = 1 the params get the exact
    # zeros of What_t, because w + (0 - w) is 0.
    change = jax.tree.map(lambda x, w: scale(c, x - w), structured, w)

    treedef = jax.tree.structure(params)
    return as_updates(params, change), RAMDAState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        stage_count=t,
        weight_sum=alpha,
        strength=as_state(lam, params),
        eps=eps,
        grad_sum=treedef.unflatten(grad_sum),
        grad_sq_sum=treedef.unflatten(grad_sq_sum),
        anchor=treedef.unflatten(anchor),
    )


def _metric(u: jax.Array, eps: jax.Array) -> jax.Array:
    return cube_root(u) + eps.astype(u.dtype)


def _center(anchor: jax.Array, v: jax.Array, metric: jax.Array) -> jax.Array:
    return anchor - v / metric


def _initial_state(params: Params, dtype: Any, strength: Any) -> RAMDAState:
    real = jnp.result_type(float)
    # An array for each field: a buffer that two of them share cannot be donated.
    return RAMDAState(
        count=jnp.zeros((), jnp.int32),
        stage_count=jnp.zeros((), jnp.int32),
        weight_sum=jnp.zeros((), real),
        strength=strength,
        eps=jnp.zeros((), real),
        grad_sum=accumulators(params, dtype),
        grad_sq_sum=accumulators(params, dtype),
        anchor=jax.tree.map(lambda w: starting_point(w, dtype), params),
    )


def _decay(factor: float, restarts: tuple[int, ...], count: jax.Array) -> jax.Array:
    """Return the factor to the power of the number of restarts so far."""
    # What begins with the run is no restart, and leaves eps as it is.
    later = jnp.asarray([step for step in restarts if step > 0], jnp.int32)
    return lax.pow(evaluate(factor, count), jnp.sum(count >= later))
