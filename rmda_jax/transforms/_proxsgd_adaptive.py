"""ProxSGD as first published: adaptive metric, decaying step, no exact zeros."""

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
    check_updates,
    evaluate,
    moving_average,
    scale,
)
from rmda_jax.transforms._prox_leaves import (
    metric_critical_strengths,
    metric_prox_each,
)
from rmda_jax.transforms._signature import readable
from rmda_jax.transforms._state import accumulators, as_updates, leaf_lists
from rmda_jax.transforms._strength import (
    as_state,
    check_strength,
    initial_strength,
    strength_now,
)


class ProxSGDAdaptiveState(NamedTuple):
    """State of `proxsgd_adaptive`."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    strength: Any  # floating: lambda of the last update; for a budget, one a leaf
    mu: Params  # accumulator dtype: average of the gradients
    nu: Params  # accumulator dtype: average of their squares


def _authors_averaging(count: ArrayLike) -> jax.Array:
    return 0.9 / jnp.sqrt(jnp.asarray(count, float) + 4.0)


@readable
def proxsgd_adaptive(
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    averaging: ScalarOrSchedule = _authors_averaging,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-7,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""ProxSGD in the form of its own paper.

    .. math::
        v_t &= (1-\rho_t) v_{t-1} + \rho_t g_t, \quad
            r_t = \beta r_{t-1} + (1-\beta) g_t^2, \quad
            \tau_t = \sqrt{r_t/(1-\beta^t)} + \delta \\
        \hat W_t &= \arg\min_W \langle v_t, W - W_{t-1}\rangle
            + \tfrac12\|W - W_{t-1}\|^2_{\tau_t} + \lambda\psi(W) \\
        W_t &= W_{t-1} + \epsilon_t (\hat W_t - W_{t-1})

    As :math:`W_t` is a convex combination it is never exactly structured: `proxsgd` is
    the variant with unit step that papers compare with. Constraints go into the
    regularizer, such as ``boxed(l1(), -1, 1)``.

    Args:
      learning_rate: :math:`\epsilon_t \ge 0`, at most 1 for a convex combination. The
        authors take :math:`0.06/\sqrt{t+4}` after t updates.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`.
      averaging: :math:`\rho_t \in (0, 1]`; the authors' :math:`0.9/\sqrt{t+4}` after t
        updates by default.
      b2: :math:`\beta \in [0, 1)`.
      eps: :math:`\delta > 0`.
      accumulator_dtype: Dtype of the averages; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `ProxSGDAdaptiveState`, two
      arrays per parameter. Let nothing stand after it in a chain.

    Raises:
      TypeError, ValueError: as `rmda`; a number out of the ranges above.

    Examples:
      >>> schedule = lambda count: 0.06 / jnp.sqrt(count + 4)
      >>> tx = rj.proxsgd_adaptive(schedule, rj.l1(), strength=100.0)
      >>> params = jnp.array([1.0, -1.0])
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates) == 0
      Array([False, False], dtype=bool)

    References:
      Yang et al., `ProxSGD: Training Structured Neural Networks under Regularization
      and Constraints <https://openreview.net/forum?id=HygpthEtvr>`_, ICLR 2020,
      Algorithm 1. The released TensorFlow scripts add an l1 penalty of Keras on top.
    """
    check_hyperparameter("learning_rate", learning_rate)
    check_strength(strength)
    check_averaging(averaging)
    check_hyperparameter("b2", b2, below=1)
    check_hyperparameter("eps", eps, positive=True)

    def init_fn(params: Params) -> ProxSGDAdaptiveState:
        check_params(params)
        return ProxSGDAdaptiveState(
            count=jnp.zeros((), jnp.int32),
            strength=initial_strength(strength, regularizer, params, metric=True),
            mu=accumulators(params, accumulator_dtype),
            nu=accumulators(params, accumulator_dtype),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, ProxSGDAdaptiveState]:
        check_updates(updates, params, state, ProxSGDAdaptiveState)
        numbers = (learning_rate, averaging, b2, eps)
        return _adaptive_update(
            resolve(regularizer, params),
            updates,
            state,
            params,
            strength,
            *(evaluate(number, state.count) for number in numbers),
        )

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )


def _adaptive_update(
    rules: list[LeafRule],
    updates: optax.Updates,
    state: ProxSGDAdaptiveState,
    params: Params,
    strength: Any,
    step: jax.Array,
    rho: jax.Array,
    beta: jax.Array,
    delta: jax.Array,
) -> tuple[optax.Updates, ProxSGDAdaptiveState]:
    """Return the update and the state by the formulas of `proxsgd_adaptive`."""
    w, g, mu, nu = leaf_lists(params, updates, state.mu, state.nu)
    # v_t = (1 - rho_t) v_{t-1} + rho_t g_t
    mu = jax.tree.map(lambda v, g: moving_average(v, g, rho), mu, g)
    # r_t = beta r_{t-1} + (1 - beta) g_t^2
    nu = jax.tree.map(
        lambda r, g: scale(beta, r) + scale(1 - beta, jnp.square(g)), nu, g
    )
    # tau_t = sqrt(r_t / (1 - beta^t)) + delta
    correction = 1 - beta ** (state.count + 1).astype(beta.dtype)
    metric = lambda r: jnp.sqrt(r / correction.astype(r.dtype)) + delta.astype(r.dtype)
    # What_t = prox_{lambda psi}(W_{t-1} - v_t / tau_t) in the metric tau_t
    center = lambda w, v, metric: w - v / metric
    problem, one = (center, (w, mu), metric, nu), jnp.ones((), beta.dtype)
    critical = metric_critical_strengths(*problem, one)
    lam = strength_now(strength, state.count, rules, critical, w)
    target = metric_prox_each(rules, *problem, one, lam, start=w)
    # W_t - W_{t-1} = epsilon_t (What_t - W_{t-1})
    change = jax.tree.map(lambda x, w: scale(step, x - w), target, w)

    treedef = jax.tree.structure(params)
    return as_updates(params, change), ProxSGDAdaptiveState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        strength=as_state(lam, params),
        mu=treedef.unflatten(mu),
        nu=treedef.unflatten(nu),
    )
