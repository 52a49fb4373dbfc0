"""ProxSGD: a proximal step along an exponential average of gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import (
    check_averaging,
    check_hyperparameter,
    check_params,
    check_updates,
    evaluate,
    moving_average,
)
from rmda_jax.transforms._prox_leaves import critical_strengths, prox_each
from rmda_jax.transforms._signature import readable
from rmda_jax.transforms._state import accumulators, as_updates, leaf_lists
from rmda_jax.transforms._strength import (
    as_state,
    check_strength,
    initial_strength,
    strength_now,
)


class ProxSGDState(NamedTuple):
    """State of `proxsgd`."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    strength: Any  # floating: lambda of the last update; for a budget, one a leaf
    mu: Params  # accumulator dtype: the average of the gradients


@readable
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
    deviation :math:`\sigma\sqrt{\rho/(2-\rho)}` indefinitely, so that which entries are
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
    check_strength(strength)
    check_averaging(averaging)

    def init_fn(params: Params) -> ProxSGDState:
        check_params(params)
        return ProxSGDState(
            count=jnp.zeros((), jnp.int32),
            strength=initial_strength(strength, regularizer, params, metric=False),
            mu=accumulators(params, accumulator_dtype),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, ProxSGDState]:
        check_updates(updates, params, state, ProxSGDState)
        return _proxsgd_update(
            resolve(regularizer, params),
            updates,
            state,
            params,
            evaluate(learning_rate, state.count),
            strength,
            evaluate(averaging, state.count),
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _proxsgd_update(
    rules: list[LeafRule],
    updates: optax.Updates,
    state: ProxSGDState,
    params: Params,
    eta: jax.Array,
    strength: Any,
    rho: jax.Array,
) -> tuple[optax.Updates, ProxSGDState]:
    """Return the update and the state by the formulas of `proxsgd`."""
    w, g, mu = leaf_lists(params, updates, state.mu)
    # m_t = (1 - rho_t) m_{t-1} + rho_t g_t
    mu = jax.tree.map(lambda m, g: moving_average(m, g, rho), mu, g)
    # W_t = prox_{eta_t lambda psi}(W_{t-1} - eta_t m_t)
    # eta is an operand of the centre, so that the prox can compute eta_t m_t anew.
    etas = [eta.astype(m.dtype) for m in mu]
    center = lambda w, m, eta: w - eta * m
    critical = critical_strengths(center, (w, mu, etas), eta)
    lam = strength_now(strength, state.count, rules, critical, w)
    new = prox_each(rules, center, (w, mu, etas), eta, lam)
    change = jax.tree.map(jnp.subtract, new, w)

    return as_updates(params, change), ProxSGDState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        strength=as_state(lam, params),
        mu=jax.tree.structure(params).unflatten(mu),
    )
