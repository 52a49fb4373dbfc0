"""ProxSGD: a proximal step along an exponential average of gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._common import (
    accumulators,
    check_hyperparameter,
    check_params,
    check_updates,
    evaluate,
)
from rmda_jax.transforms._leaves import Prox, Step, map_leaves


class ProxSGDState(NamedTuple):
    """State of `proxsgd`."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    mu: Params  # accumulator dtype: the average of the gradients


def proxsgd(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    averaging: ScalarOrSchedule = 0.1,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Proximal SGD with momentum and unit step, the baseline of the papers.

    .. math::
        m_t &= (1 - \rho_t) m_{t-1} + \rho_t g_t, \quad m_0 = 0 \\
        W_t &= \operatorname{prox}_{\eta_t\lambda\psi}(W_{t-1} - \eta_t m_t)

    The params carry exact zeros at every step. The average keeps a noise of standard
    deviation :math:`\sigma\sqrt{\rho/(2-\rho)}` for ever, so that which entries are
    zero keeps changing, however small the learning rate: that is what `rmda` mends.
    The method as first published, whose step is a convex combination and never
    exactly sparse, is `proxsgd_adaptive`.

    Args:
      learning_rate: :math:`\eta_t \ge 0`.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`.
      averaging: :math:`\rho_t \in (0, 1]`: the weight of the new gradient; heavy-ball
        momentum is :math:`1 - \rho`.
      accumulator_dtype: Dtype of the average; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `ProxSGDState`, one array
      per parameter. It returns new minus old params: let nothing stand after it in a
      chain.

    Raises:
      TypeError, ValueError: as `rmda`.

    Examples:
      >>> tx = rj.proxsgd(0.1, rj.l1(), strength=1.0, averaging=1.0)
      >>> params = jnp.array([1.0, 0.05])
      >>> updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([0.9, 0. ], dtype=float32)

    References:
      Yang et al., `ProxSGD: Training Structured Neural Networks under Regularization
      and Constraints <https://openreview.net/forum?id=HygpthEtvr>`_, ICLR 2020, in the
      form of Huang, Lee & Lee, `RAMDA <https://arxiv.org/abs/2403.14398>`_, 2024.
    """
    check_hyperparameter("learning_rate", learning_rate)
    check_hyperparameter("strength", strength)
    check_hyperparameter("averaging", averaging, positive=True, most=1)

    def init_fn(params: Params) -> ProxSGDState:
        check_params(params)
        _ = resolve(regularizer, params)
        mu = accumulators(params, accumulator_dtype)
        return ProxSGDState(count=jnp.zeros((), jnp.int32), mu=mu)

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, ProxSGDState]:
        check_updates(updates, params)
        eta = evaluate(learning_rate, state.count)
        lam = evaluate(strength, state.count)
        rho = evaluate(averaging, state.count)

        def step(w, g, mu) -> Step:
            wide = mu.dtype
            w_wide, eta_, rho_ = w.astype(wide), eta.astype(wide), rho.astype(wide)
            mu = (1 - rho_) * mu + rho_ * g.astype(wide)
            center = lambda w, mu, eta: w - eta * mu
            new = yield Prox(center, (w_wide, mu, eta_), eta * lam)
            return (new - w_wide).astype(w.dtype), mu

        bounds = resolve(regularizer, params)
        delta, mu = map_leaves(step, 2, bounds, params, updates, state.mu)
        count = jnp.asarray(optax.safe_increment(state.count))
        return delta, ProxSGDState(count=count, mu=mu)

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )
