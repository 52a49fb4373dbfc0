"""ProxGen: AdamW whose proximal step is taken in AdamW's own metric."""

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
from rmda_jax.transforms._weight_decay import DecayMask, decaying


@readable
def proxgen(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    decay_mask: DecayMask = None,
    amsgrad: bool = False,
    rtol: float | None = None,
    max_iters: int = 100,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The general adaptive proximal method, with the moments and metric of AdamW.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
            v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad
            D_t = \sqrt{v_t/(1-\beta_2^t)} + \epsilon \\
        W_t &= \arg\min_W \Big\langle \frac{m_t}{1-\beta_1^t}, W\Big\rangle
            + \frac1{2\eta_t}\|W - (1-\eta_t\omega) W_{t-1}\|^2_{D_t} + \lambda\psi(W)

    The params carry exact zeros at every step. Any regularizer will do;
    `Regularizer.metric_prox` says for which the step is exact, and for which it
    iterates. With ``binary(soft=True)`` and its like this is the revised ProxQuant.

    Args:
      learning_rate: :math:`\eta_t \ge 0`.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`.
      b1: :math:`\beta_1 \in [0, 1)`.
      b2: :math:`\beta_2 \in [0, 1)`.
      eps: :math:`\epsilon > 0`.
      weight_decay: :math:`\omega \ge 0`, decoupled.
      decay_mask: Which leaves decay: a pytree prefix of the params with booleans, or a
        function that makes it, as in `optax.adamw`; all by default.
      amsgrad: Take the largest :math:`v` so far in the metric.
      rtol: Where the step takes iterations: stop at this certificate, see
        `Regularizer.solve_metric_prox`.
      max_iters: And no later than this.
      accumulator_dtype: Dtype of the moments; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `ProxAdamState`, two arrays
      per parameter (three with ``amsgrad``). Let nothing stand after it in a chain.

    Raises:
      TypeError, ValueError: as `rmda`; ``b1``, ``b2``, ``eps`` out of range.

    Examples:
      >>> tx = rj.proxgen(0.1, rj.l1(), strength=0.1)
      >>> params = jnp.array([1.0, 0.05])
      >>> grads = jnp.array([0.01, 0.001])
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([0., 0.], dtype=float32)

    References:
      Yun, Lozano & Yang, `Adaptive Proximal Gradient Methods for Structured Neural
      Networks <https://papers.neurips.cc/paper/2021>`_, 2021; as ProxAdamW in Huang,
      Lee & Lee, `RAMDA <https://arxiv.org/abs/2403.14398>`_, 2024, whose released
      solver stops on a wrong objective.
    """
    options = AdamOptions(
        learning_rate, strength, b1, b2, eps, weight_decay, accumulator_dtype
    )
    options.check()

    def init_fn(params: Params) -> ProxAdamState:
        return options.init(regularizer, params, amsgrad)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, ProxAdamState]:
        check_updates(updates, params, state, ProxAdamState)
        return _proxgen_update(
            resolve(regularizer, params),
            updates,
            state,
            params,
            options.at(state.count),
            strength,
            decaying(decay_mask, params),
            amsgrad,
            rtol=rtol,
            max_iters=max_iters,
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _proxgen_update(
    rules: list[LeafRule],
    updates: optax.Updates,
    state: ProxAdamState,
    params: Params,
    now: AdamScalars,
    strength: Any,
    decays: list[bool],
    amsgrad: bool,
    **options: Any,
) -> tuple[optax.Updates, ProxAdamState]:
    """Return the update and the state by the formulas of `proxgen`."""
    eta, t = now.learning_rate, (state.count + 1).astype(now.b1.dtype)

    # m_t, v_t: the moments of Adam; with AMSGrad, the largest v_t so far
    largest = state.nu_max if amsgrad else state.nu
    w, g, mu, nu, nu_max = leaf_lists(params, updates, state.mu, state.nu, largest)
    mu, nu = now.moments(g, mu, nu)
    nu_max = jax.tree.map(jnp.maximum, nu_max, nu) if amsgrad else nu
    # D_t = sqrt(v_t / (1 - beta_2^t)) + epsilon
    metric = lambda v: (
        jnp.sqrt(v) / jnp.sqrt(1 - now.b2**t).astype(v.dtype) + now.eps.astype(v.dtype)
    )
    # Z_t = (1 - eta_t omega) W_{t-1} - eta_t / (1 - beta_1^t) m_t / D_t, as in AdamW
    shrunk = 1 - eta * now.weight_decay
    kept = [
        (shrunk if x else jnp.ones_like(shrunk)).astype(leaf.dtype)
        for x, leaf in zip(decays, w, strict=True)
    ]
    center = lambda w, m, kept, metric: (
        kept * w - scale(eta / (1 - now.b1**t), m) / metric
    )
    # W_t = prox_{eta_t lambda psi}(Z_t) in the metric D_t
    problem = center, (w, mu, kept), metric, nu_max
    critical = metric_critical_strengths(*problem, eta)
    lam = strength_now(strength, state.count, rules, critical, w)
    new = metric_prox_each(rules, *problem, eta, lam, start=w, **options)
    change = jax.tree.map(jnp.subtract, new, w)

    treedef = jax.tree.structure(params)
    return as_updates(params, change), ProxAdamState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        strength=as_state(lam, params),
        mu=treedef.unflatten(mu),
        nu=treedef.unflatten(nu),
        nu_max=treedef.unflatten(nu_max) if amsgrad else (),
    )
