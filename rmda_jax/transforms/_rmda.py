r"""RMDA: regularized dual averaging with momentum and restarts.

The paper keeps the weighted gradient sum :math:`V_t`; here it is kept divided by
:math:`\sqrt t`. With :math:`s_t = \eta_t\sqrt t`, :math:`\alpha_t = \sum s_k`:

.. math::
    M_t &= \sqrt{(t-1)/t}\; M_{t-1} + \eta_t g_t   && (= V_t/\sqrt t) \\
    \tau_t &= \sqrt{(t-1)/t}\; \tau_{t-1} + \eta_t && (= \alpha_t/\sqrt t) \\
    \hat W_t &= \operatorname{prox}_{\tau_t\lambda\psi}(W_0 - M_t) \\
    W_t &= (1 - c_t) W_{t-1} + c_t \hat W_t

The two recursions share their coefficient, so its rounding cancels in the averaged
gradient :math:`\bar G_t = M_t/\tau_t`. No scalar multiplies an array inside the group
norm, which keeps the step free of temporaries as large as a leaf.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

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
from rmda_jax.transforms._leaves import Prox, Step, map_leaves


class RMDAState(NamedTuple):
    """State of `rmda`; three arrays of scalars and two trees like the params."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far, over the whole run  # pyright: ignore[reportIncompatibleMethodOverride]
    stage_count: jax.Array  # int32: t, updates so far in this stage
    weight_sum: jax.Array  # floating: tau_t = alpha_t / sqrt(t)
    strength: jax.Array  # floating: lambda of the last update
    grad_sum: Params  # accumulator dtype: M_t = V_t / sqrt(t)
    anchor: Params  # accumulator dtype: W_0 of this stage

    def prox_arguments(self) -> ProxArguments:
        """Return centre and step size of the prox that gives the structured iterate."""
        center = jax.tree.map(lambda w, m: w - m, self.anchor, self.grad_sum)
        return ProxArguments(center, self.weight_sum * self.strength)

    def mean_gradient(self) -> Params:
        r"""Return the averaged gradient :math:`\bar G_t = M_t/\tau_t` of this stage."""
        # Before the first update, and at learning rate 0, the sum is 0 as well.
        scale = 1 / jnp.where(self.weight_sum > 0, self.weight_sum, 1)
        return jax.tree.map(lambda m: m * scale.astype(m.dtype), self.grad_sum)


def rmda(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    averaging: ScalarOrSchedule = 0.01,
    restart_steps: Sequence[int] = (),
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Regularized dual averaging with momentum and restarts.

    Minimises :math:`\mathbb E f_\xi(W) + \lambda\psi(W)`. In stage-local time t = 1, 2,
    ..., with :math:`\eta_t` = ``learning_rate``, :math:`\lambda` = ``strength``,
    :math:`c_t` = ``averaging``, :math:`\psi` = ``regularizer``:

    .. math::
        s_t &= \eta_t\sqrt t, \quad \alpha_t = \alpha_{t-1} + s_t, \quad
            V_t = V_{t-1} + s_t g_t \\
        \hat W_t &= \arg\min_W \langle V_t, W\rangle
            + \tfrac{\sqrt t}2\|W - W_0\|^2 + \alpha_t\lambda\psi(W)
            = \operatorname{prox}_{\tau_t\lambda\psi}(W_0 - V_t/\sqrt t),
            \quad \tau_t = \alpha_t/\sqrt t \\
        W_t &= (1 - c_t) W_{t-1} + c_t \hat W_t

    The variance of :math:`V_t/\alpha_t` dies out, so that the prox finds the zeros (or
    ranks) of the solution and keeps them. A restart makes the current params the new
    anchor :math:`W_0` and starts t, V and :math:`\alpha` from 0.

    The structure lives in :math:`\hat W_t`: the params are exactly structured once the
    averaging reaches 1, see `stages`; `structured_params` gives :math:`\hat W_t`
    always. Leaves without a regularizer follow the same averaging, without a prox.

    The update returned is new minus old params, in the params' dtype: nothing may stand
    after it in an `optax.chain` (weight decay, scaling), clipping may stand before it.

    Args:
      learning_rate: :math:`\eta_t \ge 0`. A schedule sees the number of updates so far
        over the whole run; restarts do not reset it.
      regularizer: A `RegularizerMap`, one regularizer (it then acts on every leaf), or
        a pytree prefix of the params with regularizers or None.
      strength: :math:`\lambda \ge 0`, a number, an array or a schedule: sweeping it
        does not recompile, and `jax.vmap` over it trains a whole path at once.
      averaging: :math:`c_t \in (0, 1]`; 1 is none. The authors' code calls it momentum;
        MADGRAD's momentum is :math:`1 - c_t`.
      restart_steps: Counts of updates at which a new stage begins: the update that
        finds this many behind it is the first of its stage. Strictly ascending.
      accumulator_dtype: Dtype of ``grad_sum`` and ``anchor``; at least float32 by
        default, for a bfloat16 sum saturates.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `RMDAState`; it ignores
      extra arguments. ``init`` accepts `jax.ShapeDtypeStruct` leaves and never aliases
      the params. With bfloat16 params, pass ``hyperparam_dtype=jnp.float32`` to
      `optax.inject_hyperparams`.

    Raises:
      TypeError: a hyperparameter is no number, array or schedule; at ``init`` or
        ``update``, a leaf is not real floating.
      ValueError: a number out of range, restart steps negative or not ascending; at
        ``init`` or ``update``, a rule matches nothing, a regularizer does not fit its
        leaf, two leaves have the same name, params are missing, or gradients or the
        state do not match them.

    Examples:
      >>> tx = rj.rmda(0.5, rj.group_lasso(0), strength=0.1, averaging=1.0)
      >>> params = jnp.array([[0.5, 0.5], [0.1, 0.1]])
      >>> state = tx.init(params)
      >>> for _ in range(100):
      ...     grads = params - jnp.array([[3.0, 4.0], [0.05, 0.0]])
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params.round(1)
      Array([[2.9, 3.9],
             [0. , 0. ]], dtype=float32)

    References:
      Huang & Lee, `Training Structured Neural Networks Through Manifold Identification
      and Variance Reduction <https://openreview.net/forum?id=mdUYT5QV0O>`_, ICLR 2022,
      Algorithm 1. Its released code updates only the last of several parameter groups;
      here every leaf advances.
    """
    check_hyperparameter("learning_rate", learning_rate)
    check_hyperparameter("strength", strength)
    check_hyperparameter("averaging", averaging, positive=True, most=1)
    restarts = check_restart_steps(restart_steps)

    def init_fn(params: Params) -> RMDAState:
        check_params(params)
        _ = resolve(regularizer, params)
        real = jnp.result_type(float)
        # An array for each field: a buffer that two of them share cannot be donated.
        return RMDAState(
            count=jnp.zeros((), jnp.int32),
            stage_count=jnp.zeros((), jnp.int32),
            weight_sum=jnp.zeros((), real),
            strength=jnp.zeros((), real),
            grad_sum=accumulators(params, accumulator_dtype),
            anchor=accumulators(params, accumulator_dtype),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, RMDAState]:
        check_updates(updates, params)
        now = _advance(
            state,
            evaluate(learning_rate, state.count),
            evaluate(strength, state.count),
            is_step(state.count, restarts),
        )
        c = evaluate(averaging, state.count)
        delta, grad_sum, anchor = map_leaves(
            lambda *leaf: _leaf_step(now, c, *leaf),
            3,
            resolve(regularizer, params),
            params,
            updates,
            state.grad_sum,
            state.anchor,
        )
        return delta, RMDAState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            stage_count=now.t,
            weight_sum=now.tau,
            strength=now.lam,
            grad_sum=grad_sum,
            anchor=anchor,
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


class _Scalars(NamedTuple):
    """The scalars of one update."""

    first: jax.Array  # whether it begins a stage
    t: jax.Array
    eta: jax.Array
    decay: jax.Array  # sqrt((t - 1) / t)
    tau: jax.Array
    lam: jax.Array


def _advance(
    state: RMDAState, eta: jax.Array, lam: jax.Array, restart: ArrayLike
) -> _Scalars:
    first = (state.stage_count == 0) | restart
    t = jnp.where(first, 1, optax.safe_increment(state.stage_count))
    decay = jnp.sqrt(1 - 1 / t.astype(eta.dtype))
    return _Scalars(first, t, eta, decay, decay * state.weight_sum + eta, lam)


def _leaf_step(
    now: _Scalars,
    c: jax.Array,
    w: jax.Array,
    g: jax.Array,
    m: jax.Array,
    anchor: jax.Array,
) -> Step:
    """Return the update, the new gradient sum and the anchor of one leaf."""
    wide = m.dtype
    w_wide = w.astype(wide)
    m = now.decay.astype(wide) * m + now.eta.astype(wide) * g.astype(wide)
    anchor = jnp.where(now.first, w_wide, anchor)
    structured = yield Prox(jnp.subtract, (anchor, m), now.tau * now.lam)
    # With c = 1 this lands on the structured iterate's zeros exactly: w + (0 - w).
    return (c.astype(wide) * (structured - w_wide)).astype(w.dtype), m, anchor
