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

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._common import (
    ProxArguments,
    accumulators,
    check_hyperparameter,
    check_params,
    check_restart_steps,
    check_updates,
    evaluate,
    is_step,
)
from rmda_jax.transforms._cube_root import cube_root
from rmda_jax.transforms._leaves import Prox, Step, map_leaves_in_turn


class RAMDAState(NamedTuple):
    """State of `ramda`: scalars, and three trees like the params."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    stage_count: jax.Array  # int32: t, updates so far in this stage
    weight_sum: jax.Array  # floating: alpha_t
    strength: jax.Array  # floating: lambda of the last update
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
        center = jax.tree.map(
            lambda w, v, d: w - v / d, self.anchor, self.grad_sum, metric
        )
        return ProxArguments(center, self.weight_sum * self.strength, metric)

    def mean_gradient(self) -> Params:
        r"""Return the averaged gradient :math:`V_t/\alpha_t` of this stage."""
        scale = 1 / jnp.where(self.weight_sum > 0, self.weight_sum, 1)
        return jax.tree.map(lambda v: v * scale.astype(v.dtype), self.grad_sum)


def ramda(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    averaging: ScalarOrSchedule = 0.01,
    restart_steps: Sequence[int] = (),
    eps: ScalarOrSchedule = 1e-6,
    eps_decay: float = 0.1,
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

    What `rmda` says of stages, averaging, structure, chains and schedules holds here.

    Args:
      learning_rate: :math:`\eta_t \ge 0`, about a tenth of RMDA's.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`.
      averaging: :math:`c_t \in (0, 1]`.
      restart_steps: Counts of updates at which a new stage begins.
      eps: :math:`\epsilon > 0` of the first stage.
      eps_decay: Factor on :math:`\epsilon` at every restart, in (0, 1]; the authors use
        the learning rate's.
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
    check_hyperparameter("strength", strength)
    check_hyperparameter("averaging", averaging, positive=True, most=1)
    check_hyperparameter("eps", eps, positive=True)
    check_hyperparameter("eps_decay", eps_decay, positive=True, most=1)
    restarts = check_restart_steps(restart_steps)

    def init_fn(params: Params) -> RAMDAState:
        return _initial_state(regularizer, params, accumulator_dtype)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, RAMDAState]:
        check_updates(updates, params)
        now = _advance(
            state,
            evaluate(learning_rate, state.count),
            evaluate(strength, state.count),
            evaluate(eps, state.count) * eps_decay ** _n_past(restarts, state.count),
            is_step(state.count, restarts),
        )
        c = evaluate(averaging, state.count)
        inner = {"rtol": rtol, "max_iters": max_iters}
        delta, grad_sum, grad_sq_sum, anchor = map_leaves_in_turn(
            lambda zero, *leaf: _leaf_step(now, c, inner, zero, *leaf),
            4,
            resolve(regularizer, params),
            params,
            updates,
            state.grad_sum,
            state.grad_sq_sum,
            state.anchor,
        )
        return delta, RAMDAState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            stage_count=now.t,
            weight_sum=now.alpha,
            strength=now.lam,
            eps=now.eps,
            grad_sum=grad_sum,
            grad_sq_sum=grad_sq_sum,
            anchor=anchor,
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _initial_state(
    regularizer: RegularizerSpec, params: Params, dtype: Any
) -> RAMDAState:
    check_params(params)
    _ = resolve(regularizer, params)
    real = jnp.result_type(float)
    # An array for each field: a buffer that two of them share cannot be donated.
    return RAMDAState(
        count=jnp.zeros((), jnp.int32),
        stage_count=jnp.zeros((), jnp.int32),
        weight_sum=jnp.zeros((), real),
        strength=jnp.zeros((), real),
        eps=jnp.zeros((), real),
        grad_sum=accumulators(params, dtype),
        grad_sq_sum=accumulators(params, dtype),
        anchor=accumulators(params, dtype),
    )


class _Scalars(NamedTuple):
    """The scalars of one update."""

    first: jax.Array  # whether it begins a stage
    t: jax.Array
    weight: jax.Array  # s_t
    alpha: jax.Array
    lam: jax.Array
    eps: jax.Array


def _advance(
    state: RAMDAState, eta: jax.Array, lam: jax.Array, eps: jax.Array, restart: Any
) -> _Scalars:
    first = (state.stage_count == 0) | restart
    t = jnp.where(first, 1, optax.safe_increment(state.stage_count))
    weight = eta * jnp.sqrt(t.astype(eta.dtype))
    alpha = jnp.where(first, 0, state.weight_sum) + weight
    return _Scalars(first, t, weight, alpha, lam, eps.astype(eta.dtype))


def _n_past(restarts: tuple[int, ...], count: jax.Array) -> jax.Array:
    # What begins with the run is no restart, and leaves eps as it is.
    later = jnp.asarray([step for step in restarts if step > 0], jnp.int32)
    return jnp.sum(count >= later)


def _leaf_step(
    now: _Scalars,
    c: jax.Array,
    inner: dict[str, Any],
    zero: jax.Array,
    w: jax.Array,
    g: jax.Array,
    v: jax.Array,
    u: jax.Array,
    anchor: jax.Array,
) -> Step:
    """Return the update, new sums and anchor of one leaf."""
    wide = v.dtype
    g, w_wide, weight = g.astype(wide), w.astype(wide), now.weight.astype(wide)
    v = jnp.where(now.first, 0, v) + weight * g
    u = jnp.where(now.first, 0, u) + weight * jnp.square(g)
    anchor = jnp.where(now.first, w_wide, anchor)
    metric = _metric(u, now.eps + zero)
    center = lambda anchor, v, metric: anchor - v / metric
    options = {"start": w_wide, **inner}
    structured = yield Prox(
        center, (anchor, v, metric), now.alpha * now.lam, metric, options
    )
    # With c = 1 this lands on the structured iterate's zeros exactly: w + (0 - w).
    delta = (c.astype(wide) * (structured - w_wide)).astype(w.dtype)
    return delta, v, u, anchor


def _metric(u: jax.Array, eps: jax.Array) -> jax.Array:
    return cube_root(u) + eps.astype(u.dtype)
