"""ProxSSI: AdamW with a proximal step in the uncorrected metric of its authors."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._adam import AdamOptions, AdamState
from rmda_jax.transforms._common import check_updates
from rmda_jax.transforms._leaves import Prox, Step, map_leaves_in_turn


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
    r"""Structured sparsity inducing adaptive optimizer, as its authors wrote it.

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
      An `optax.GradientTransformationExtraArgs` with state `AdamState`, two arrays per
      parameter. Let nothing stand after it in a chain.

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

    def init_fn(params: Params) -> AdamState:
        return options.init(regularizer, params, amsgrad=False)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        check_updates(updates, params)
        now = options.at(state.count)
        eta, t = now.learning_rate, (state.count + 1).astype(now.b1.dtype)
        corrected = eta
        if bias_correction:
            corrected = eta * jnp.sqrt(1 - now.b2**t) / (1 - now.b1**t)

        def step(zero: jax.Array, w, g, mu, nu) -> Step:
            wide = mu.dtype
            w_wide = w.astype(wide)
            mu, nu = now.moments(g.astype(wide), mu, nu)
            metric = jnp.sqrt(nu + zero) + now.eps.astype(wide)
            new = w_wide - corrected.astype(wide) * mu / metric
            new = (1 - eta * now.weight_decay).astype(wide) * new
            step_size, options = eta * now.strength, {"start": w_wide}
            new = yield Prox(lambda x: x, (new,), step_size, metric, options)
            return (new - w_wide).astype(w.dtype), mu, nu

        bounds = resolve(regularizer, params)
        delta, mu, nu = map_leaves_in_turn(
            step, 3, bounds, params, updates, state.mu, state.nu
        )
        count = jnp.asarray(optax.safe_increment(state.count))
        return delta, AdamState(count=count, mu=mu, nu=nu, nu_max=())

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )
