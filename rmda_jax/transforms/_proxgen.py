"""ProxGen: AdamW whose proximal step is taken in AdamW's own metric."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._adam import AdamOptions, AdamScalars, AdamState
from rmda_jax.transforms._common import check_updates
from rmda_jax.transforms._leaves import Prox, Step, map_leaves_in_turn


def proxgen(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
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
      amsgrad: Take the largest :math:`v` so far in the metric.
      rtol: Where the step takes iterations: stop at this certificate, see
        `Regularizer.solve_metric_prox`.
      max_iters: And no later than this.
      accumulator_dtype: Dtype of the moments; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `AdamState`, two arrays per
      parameter (three with ``amsgrad``). Let nothing stand after it in a chain.

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

    def init_fn(params: Params) -> AdamState:
        return options.init(regularizer, params, amsgrad)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        check_updates(updates, params)
        now = options.at(state.count)
        t = (state.count + 1).astype(now.b1.dtype)
        inner = {"rtol": rtol, "max_iters": max_iters}
        delta, mu, nu, nu_max = map_leaves_in_turn(
            lambda zero, *leaf: _leaf_step(now, t, amsgrad, inner, zero, *leaf),
            4,
            resolve(regularizer, params),
            params,
            updates,
            state.mu,
            state.nu,
            state.nu_max if amsgrad else state.nu,
        )
        return delta, AdamState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            mu=mu,
            nu=nu,
            nu_max=nu_max if amsgrad else (),
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _leaf_step(
    now: AdamScalars,
    t: jax.Array,
    amsgrad: bool,
    inner: dict[str, Any],
    zero: jax.Array,
    w: jax.Array,
    g: jax.Array,
    mu: jax.Array,
    nu: jax.Array,
    nu_max: jax.Array,
) -> Step:
    """Return the update and the new moments of one leaf."""
    wide, eta = mu.dtype, now.learning_rate
    w_wide = w.astype(wide)
    mu, nu = now.moments(g.astype(wide), mu, nu)
    nu_max = jnp.maximum(nu_max, nu)
    correction = jnp.sqrt(1 - now.b2**t).astype(wide)
    largest = nu_max if amsgrad else nu
    metric = jnp.sqrt(largest + zero) / correction + now.eps.astype(wide)
    pull = (eta / (1 - now.b1**t)).astype(wide) * mu
    new = (1 - eta * now.weight_decay).astype(wide) * w_wide - pull / metric
    options = {"start": w_wide, **inner}
    new = yield Prox(lambda x: x, (new,), eta * now.strength, metric, options)
    return (new - w_wide).astype(w.dtype), mu, nu, nu_max
