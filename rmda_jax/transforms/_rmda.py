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
norm, which keeps the step free of temporaries as large as a leaf
(``docs/performance.md``).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
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
from rmda_jax.transforms._prox_leaves import critical_strengths, prox_each
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


class RMDAState(NamedTuple):
    """State of `rmda`; three arrays of scalars and two trees like the params."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far, over the whole run  # pyright: ignore[reportIncompatibleMethodOverride]
    stage_count: jax.Array  # int32: t, updates so far in this stage
    weight_sum: jax.Array  # floating: tau_t = alpha_t / sqrt(t)
    strength: Any  # floating: lambda of the last update; for a budget, one a leaf
    grad_sum: Params  # accumulator dtype: M_t = V_t / sqrt(t)
    anchor: Params  # accumulator dtype: W_0 of this stage

    def prox_arguments(self) -> ProxArguments:
        """Return centre and step size of the prox that gives the structured iterate."""
        center = jax.tree.map(lambda w, m: w - m, self.anchor, self.grad_sum)
        return ProxArguments(center, self.weight_sum)

    def mean_gradient(self) -> Params:
        r"""Return the averaged gradient :math:`\bar G_t = M_t/\tau_t` of this stage."""
        # Before the first update, and at learning rate 0, the sum is 0 as well.
        scale = 1 / jnp.where(self.weight_sum > 0, self.weight_sum, 1)
        return jax.tree.map(lambda m: m * scale.astype(m.dtype), self.grad_sum)


@readable
def rmda(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    averaging: ScalarOrSchedule = 0.01,
    restart_steps: Sequence[int] = (),
    weight_decay: ScalarOrSchedule = 0.0,
    decay_mask: DecayMask = None,
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

    The variance of the averaged gradient :math:`V_t/\alpha_t` goes to 0, so that the
    prox finds the zeros (or ranks) of the solution and keeps them. The anchor
    :math:`W_0` (the proximal centre of dual averaging) is the params that ``init`` was
    given. A restart makes the current params the new anchor and starts t, V and
    :math:`\alpha` from 0.

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
      weight_decay: :math:`\omega \ge 0`, for leaves without a regularizer, whose
        :math:`g_t` becomes :math:`g_t + \omega W_{t-1}`. It does not depend on the
        strength. Leaves with one take `squared_l2` or `elastic_net`.
      decay_mask: Which of them decay: a pytree prefix of the params with booleans, or a
        function that makes it, as in `optax.adamw`; all by default.
      accumulator_dtype: Dtype of ``grad_sum`` and ``anchor``; at least float32 by
        default, because a bfloat16 sum saturates.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `RMDAState`; it ignores
      extra arguments. ``init`` never aliases the params; from `jax.ShapeDtypeStruct`
      leaves it makes a state of the right shapes, whose anchor is NaN. With bfloat16
      params, pass ``hyperparam_dtype=jnp.float32`` to `optax.inject_hyperparams`.

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
    check_strength(strength)
    check_averaging(averaging)
    restarts = check_restart_steps(restart_steps)
    check_hyperparameter("weight_decay", weight_decay)

    def init_fn(params: Params) -> RMDAState:
        check_params(params)
        lam = initial_strength(strength, regularizer, params, metric=False)
        return _initial_state(params, accumulator_dtype, lam)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, RMDAState]:
        check_updates(updates, params, state, RMDAState)
        return _rmda_update(
            resolve(regularizer, params),
            updates,
            state,
            params,
            evaluate(learning_rate, state.count),
            strength,
            evaluate(averaging, state.count),
            is_step(state.count, restarts),
            decay_at(weight_decay, decay_mask, state.count),
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _rmda_update(
    rules: list[LeafRule],
    updates: optax.Updates,
    state: RMDAState,
    params: Params,
    eta: jax.Array,
    strength: Any,
    c: jax.Array,
    restart: ArrayLike,
    weight_decay: Decay | None,
) -> tuple[optax.Updates, RMDAState]:
    """Return the update and the state by the formulas of the module's docstring."""
    w, g, grad_sum, anchor = leaf_lists(params, updates, state.grad_sum, state.anchor)
    # t = 1, 2, ... within a stage; sqrt((t - 1) / t) is 0 at its first update, and
    # thereby forgets both sums.
    first = (state.stage_count == 0) | restart
    t = jnp.where(first, 1, optax.safe_increment(state.stage_count))
    decay = jnp.sqrt(1 - 1 / t.astype(eta.dtype))

    # tau_t = sqrt((t - 1) / t) tau_{t-1} + eta_t
    tau = decay * state.weight_sum + eta
    # g_t + omega W_{t-1}, where no regularizer acts
    if weight_decay is not None:
        g = weight_decay.added(g, w, rules, params)
    # M_t = sqrt((t - 1) / t) M_{t-1} + eta_t g_t
    grad_sum = jax.tree.map(lambda m, g: scale(decay, m) + scale(eta, g), grad_sum, g)
    # W_0 = the params that the stage begins with, in the first one those of `init`
    anchor = renewed(anchor, w, restart)
    # What_t = prox_{tau_t lambda psi}(W_0 - M_t)
    problem = jnp.subtract, (anchor, grad_sum)
    critical = critical_strengths(*problem, tau)
    lam = strength_now(strength, state.count, rules, critical, w)
    structured = prox_each(rules, *problem, tau, lam)
    # W_t - W_{t-1} = c_t (What_t - W_{t-1}). At c_t = 1 the params get the exact
    # zeros of What_t, because w + (0 - w) is 0.
    change = jax.tree.map(lambda x, w: scale(c, x - w), structured, w)

    treedef = jax.tree.structure(params)
    return as_updates(params, change), RMDAState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        stage_count=t,
        weight_sum=tau,
        strength=as_state(lam, params),
        grad_sum=treedef.unflatten(grad_sum),
        anchor=treedef.unflatten(anchor),
    )


def _initial_state(params: Params, dtype: Any, strength: Any) -> RMDAState:
    real = jnp.result_type(float)
    # An array for each field: a buffer that two of them share cannot be donated.
    return RMDAState(
        count=jnp.zeros((), jnp.int32),
        stage_count=jnp.zeros((), jnp.int32),
        weight_sum=jnp.zeros((), real),
        strength=strength,
        grad_sum=accumulators(params, dtype),
        anchor=jax.tree.map(lambda w: starting_point(w, dtype), params),
    )
