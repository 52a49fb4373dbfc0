"""ProxSSI: AdamW with a proximal step in a metric without bias correction."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._adam import AdamOptions, AdamScalars, ProxAdamState
from rmda_jax.transforms._arguments import check_updates, scale
from rmda_jax.transforms._prox_leaves import (
    metric_critical_strengths,
    metric_prox_each,
)
from rmda_jax.transforms._signature import readable
from rmda_jax.transforms._state import as_updates, leaf_lists
from rmda_jax.transforms._strength import as_state, strength_now


@readable
def proxssi(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    bias_correction: bool = True,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The published adaptive proximal method, including its bias in the warm-up.

    .. math::
        D_t &= \sqrt{v_t} + \epsilon, \quad
            \eta'_t = \eta_t\sqrt{1-\beta_2^t}/(1-\beta_1^t) \\
        Z_t &= (1 - \eta_t\omega)(W_{t-1} - \eta'_t\, m_t / D_t) \\
        W_t &= \arg\min_W \tfrac12\|W - Z_t\|^2_{D_t} + \eta_t\lambda\psi(W)

    The metric lacks Adam's bias correction while the threshold does not make up for it:
    early on the effective strength is :math:`\lambda/\sqrt{1-\beta_2^t}`, 31.6 times
    :math:`\lambda` at the first step with :math:`\beta_2 = 0.999`. That is the authors'
    method, and kept; `proxgen` has no such factor.

    Args:
      learning_rate: :math:`\eta_t \ge 0`.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix. The authors
        have the group lasso and, with :math:`\lambda` inside, the group MCP:
        ``group_mcp(lam=...)`` with strength 1.
      strength: :math:`\lambda \ge 0`.
      b1: :math:`\beta_1 \in [0, 1)`.
      b2: :math:`\beta_2 \in [0, 1)`.
      eps: :math:`\epsilon > 0`.
      weight_decay: :math:`\omega \ge 0`, decoupled, after the step and before the prox.
      bias_correction: Whether :math:`\eta'_t` is corrected, or simply :math:`\eta_t`.
      accumulator_dtype: Dtype of the moments; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `ProxAdamState`, two arrays
      per parameter. Let nothing stand after it in a chain.

    Raises:
      TypeError, ValueError: as `rmda`; ``b1``, ``b2``, ``eps`` out of range.

    Examples:
      >>> tx = rj.proxssi(0.1, rj.l1(), strength=0.1)
      >>> params = jnp.array([1.0, 0.05])
      >>> grads = jnp.array([0.01, 0.001])
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([0., 0.], dtype=float32)

    References:
      Deleu & Bengio, `Structured Sparsity Inducing Adaptive Optimizers for Deep
      Learning <https://arxiv.org/abs/2102.03869>`_, 2021.
    """
    options = AdamOptions(
        learning_rate, strength, b1, b2, eps, weight_decay, accumulator_dtype
    )
    options.check()

    def init_fn(params: Params) -> ProxAdamState:
        return options.init(regularizer, params, amsgrad=False)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, ProxAdamState]:
        check_updates(updates, params, state, ProxAdamState)
        return _proxssi_update(
            resolve(regularizer, params),
            updates,
            state,
            params,
            options.at(state.count),
            strength,
            bias_correction,
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _proxssi_update(
    rules: list[LeafRule],
    updates: optax.Updates,
    state: ProxAdamState,
    params: Params,
    now: AdamScalars,
    strength: Any,
    bias_correction: bool,
) -> tuple[optax.Updates, ProxAdamState]:
    """Return the update and the state by the formulas of `proxssi`."""
    w, g, mu, nu = leaf_lists(params, updates, state.mu, state.nu)
    eta, t = now.learning_rate, (state.count + 1).astype(now.b1.dtype)

    # m_t, v_t: the moments of Adam
    mu, nu = now.moments(g, mu, nu)
    # D_t = sqrt(v_t) + epsilon, without the bias correction of Adam
    metric = lambda v: jnp.sqrt(v) + now.eps.astype(v.dtype)
    # eta'_t = eta_t sqrt(1 - beta_2^t) / (1 - beta_1^t)
    corrected = eta
    if bias_correction:
        corrected = eta * jnp.sqrt(1 - now.b2**t) / (1 - now.b1**t)
    # Z_t = (1 - eta_t omega) (W_{t-1} - eta'_t m_t / D_t)
    kept = 1 - eta * now.weight_decay
    center = lambda w, m, metric: scale(kept, w - scale(corrected, m) / metric)
    # W_t = prox_{eta_t lambda psi}(Z_t) in the metric D_t: the threshold has eta_t,
    # and not eta'_t
    problem = center, (w, mu), metric, nu
    critical = metric_critical_strengths(*problem, eta)
    lam = strength_now(strength, state.count, rules, critical, w)
    new = metric_prox_each(rules, *problem, eta, lam, start=w)
    change = jax.tree.map(jnp.subtract, new, w)

    treedef = jax.tree.structure(params)
    return as_updates(params, change), ProxAdamState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        strength=as_state(lam, params),
        mu=treedef.unflatten(mu),
        nu=treedef.unflatten(nu),
        nu_max=(),
    )
