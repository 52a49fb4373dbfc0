"""ProxSGD as first published: adaptive metric, decaying step, no exact zeros."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._common import (
    accumulators,
    check_hyperparameter,
    check_params,
    check_updates,
    evaluate,
)
from rmda_jax.transforms._leaves import Prox, Step, map_leaves_in_turn


class ProxSGDAdaptiveState(NamedTuple):
    """State of `proxsgd_adaptive`."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    mu: Params  # accumulator dtype: average of the gradients
    nu: Params  # accumulator dtype: average of their squares


def _authors_step(count: ArrayLike) -> jax.Array:
    return 0.06 / jnp.sqrt(jnp.asarray(count) + 4.0)


def _authors_averaging(count: ArrayLike) -> jax.Array:
    return 0.9 / jnp.sqrt(jnp.asarray(count) + 4.0)


def proxsgd_adaptive(
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule = _authors_step,
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
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`.
      learning_rate: :math:`\epsilon_t \ge 0`, at most 1 for a combination; the authors'
        :math:`0.06/\sqrt{t+4}` by default, t being the updates so far.
      averaging: :math:`\rho_t \in (0, 1]`; the authors' :math:`0.9/\sqrt{t+4}`.
      b2: :math:`\beta \in [0, 1)`.
      eps: :math:`\delta > 0`.
      accumulator_dtype: Dtype of the averages; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `ProxSGDAdaptiveState`, two
      arrays per parameter. Let nothing stand after it in a chain.

    Raises:
      TypeError, ValueError: as `rmda`; a number out of the ranges above.

    Examples:
      >>> tx = rj.proxsgd_adaptive(rj.l1(), strength=100.0)
      >>> params = jnp.array([1.0, -1.0])
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates) == 0
      Array([False, False], dtype=bool)

    References:
      Yang et al., `ProxSGD: Training Structured Neural Networks under Regularization
      and Constraints <https://openreview.net/forum?id=HygpthEtvr>`_, ICLR 2020,
      Algorithm 1. The released TensorFlow scripts add an l1 penalty of Keras on top.
    """
    check_hyperparameter("strength", strength)
    check_hyperparameter("learning_rate", learning_rate)
    check_hyperparameter("averaging", averaging, positive=True, most=1)
    check_hyperparameter("b2", b2, below=1)
    check_hyperparameter("eps", eps, positive=True)

    def init_fn(params: Params) -> ProxSGDAdaptiveState:
        check_params(params)
        _ = resolve(regularizer, params)
        return ProxSGDAdaptiveState(
            count=jnp.zeros((), jnp.int32),
            mu=accumulators(params, accumulator_dtype),
            nu=accumulators(params, accumulator_dtype),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Params | None = None
    ) -> tuple[optax.Updates, ProxSGDAdaptiveState]:
        check_updates(updates, params)
        numbers = (strength, learning_rate, averaging, b2, eps)
        lam, step_, rho, beta, delta = (evaluate(n, state.count) for n in numbers)
        correction = 1 - beta ** (state.count + 1).astype(beta.dtype)

        def step(zero: jax.Array, w, g, mu, nu) -> Step:
            wide = mu.dtype
            w_wide, g, rho_ = w.astype(wide), g.astype(wide), rho.astype(wide)
            mu = (1 - rho_) * mu + rho_ * g
            nu = beta.astype(wide) * nu + (1 - beta).astype(wide) * jnp.square(g)
            metric = jnp.sqrt((nu + zero) / correction.astype(wide))
            metric += delta.astype(wide)
            center = lambda w, mu, metric: w - mu / metric
            options = {"start": w_wide}
            new = yield Prox(center, (w_wide, mu, metric), lam, metric, options)
            change = (step_.astype(wide) * (new - w_wide)).astype(w.dtype)
            return change, mu, nu

        bounds = resolve(regularizer, params)
        delta_w, mu, nu = map_leaves_in_turn(
            step, 3, bounds, params, updates, state.mu, state.nu
        )
        count = jnp.asarray(optax.safe_increment(state.count))
        return delta_w, ProxSGDAdaptiveState(count=count, mu=mu, nu=nu)

    return optax.with_extra_args_support(
        optax.GradientTransformation(init_fn, update_fn)
    )
