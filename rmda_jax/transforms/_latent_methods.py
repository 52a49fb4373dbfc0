"""The methods that `latent` is: what grows, what pulls, and where it begins."""

from typing import Any

import optax

from rmda_jax._types import Scalar, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec
from rmda_jax.transforms._arguments import check_hyperparameter
from rmda_jax.transforms._latent import latent
from rmda_jax.transforms._latent_update import BetweenProxes
from rmda_jax.transforms._signature import readable


@readable
def aprox(
    inner: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    *,
    start_step: int = 0,
    freeze_step: int | None = None,
    prox_every: int = 1,
    between_proxes: BetweenProxes = "move",
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AProx, the prox of "prune and train" (PAT), around any optimizer.

    .. math::
        \gamma_t = \gamma_{t-1} + \eta_t, \quad
        z_t = z_{t-1} + u_t(g_t, z_{t-1}), \quad
        x_t = \operatorname{prox}_{\gamma_t\lambda\psi}(z_t)

    The latent weights keep what the prox takes away, and gamma is the sum of the
    learning rates, :math:`\gamma_0 = 0`: if ``inner`` is SGD, this is dual averaging
    without its growing step and its averaging, see `rmda`. So the pull to zero grows
    without end, and the latent weights with it.

    Heavy-ball momentum :math:`\mu` inside takes every gradient :math:`1/(1-\mu)` times,
    and gamma grows by the learning rate once: the strength then counts for
    :math:`1 - \mu` of what it says, as in PAT. Momentum that averages does not do this.

    Args:
      inner: As in `latent`.
      learning_rate: :math:`\eta_t \ge 0`, that of ``inner``.
      regularizer: As in `latent`.
      strength: :math:`\lambda \ge 0`, or a `budget`.
      start_step: As in `latent`: the warm-up of PAT.
      freeze_step: As in `latent`: the beginning of the healing of PAT.
      prox_every: As in `latent`.
      between_proxes: As in `latent`; it is ``"latent"`` in PAT, where ``prox_freq`` is
        our ``prox_every``.
      accumulator_dtype: As in `latent`.

    Returns:
      As `latent`.

    Raises:
      NotImplementedError, TypeError, ValueError: as `latent`.

    Examples:
      >>> tx = rj.aprox(optax.adam(0.1), 0.1, rj.l1(), strength=1.0)
      >>> params = jnp.array([1.0, 0.05])
      >>> updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([0.9, 0. ], dtype=float32)

    References:
      `PyTorch AO, Prune and Train (PAT)
      <https://github.com/pytorch/ao/tree/main/torchao/prototype/pat>`_: its
      ``PruneOptimizer``. There zeros are frozen one by one, here unit by unit; the last
      prox before that may be left out there, and never is here.
      Jin et al., `PARQ: Piecewise-Affine Regularized Quantization
      <https://arxiv.org/abs/2503.15748>`_, ICML 2025: AProx, its convergence.
    """
    check_hyperparameter("learning_rate", learning_rate)
    return latent(
        inner,
        regularizer,
        strength,
        0.0,
        growth=learning_rate,
        start_step=start_step,
        freeze_step=freeze_step,
        prox_every=prox_every,
        between_proxes=between_proxes,
        accumulator_dtype=accumulator_dtype,
    )


@readable
def normal_map(
    inner: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    gamma: Scalar = 1.0,
    *,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The normal-map method around any optimizer; around SGD it is NSGD.

    .. math::
        z_t = z_{t-1} + u_t(g_t, z_{t-1}) - \eta_t\,\frac{z_{t-1} - x_{t-1}}{\gamma},
            \quad x_t = \operatorname{prox}_{\gamma\lambda\psi}(z_t)

    With SGD this is a step along the normal map
    :math:`F(z) = \nabla f(x) + (z - x)/\gamma`, :math:`x =
    \operatorname{prox}_{\gamma\lambda\psi}(z)`, which is 0 exactly at the stationary
    points. The latent weights average the gradients over about
    :math:`\gamma/\eta` steps, so that a learning rate which decays finds the structure
    of the limit in finite time, without a variance reduction.

    Args:
      inner: As in `latent`.
      learning_rate: :math:`\eta_t \ge 0`, that of ``inner``.
      regularizer: As in `latent`.
      strength: :math:`\lambda \ge 0`, or a `budget`.
      gamma: :math:`\gamma > 0`: a number or an array; for a :math:`\rho`-weakly convex
        :math:`\psi` less than :math:`1/(\rho\lambda)`.
      accumulator_dtype: As in `latent`.

    Returns:
      As `latent`.

    Raises:
      TypeError, ValueError: as `latent`; ``gamma`` is 0.

    Examples:
      >>> tx = rj.normal_map(optax.sgd(0.5), 0.5, rj.l1(), strength=0.2)
      >>> params, target = jnp.zeros(3), jnp.array([2.0, 1.0, 0.1])
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(50):
      ...     updates, state = update(params - target, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(", ".join(f"{x:.2f}" for x in params))
      1.80, 0.80, 0.00

    References:
      Qiu, Jiang & Milzarek, `A Normal Map-Based Proximal Stochastic Gradient Method:
      Convergence and Identification Properties <https://arxiv.org/abs/2305.05828>`_,
      2023. With momentum or weight decay in ``inner``, the pull is added to its update
      and does not pass through it, as in the code of `PARQ
      <https://github.com/facebookresearch/parq>`_.
    """
    check_hyperparameter("learning_rate", learning_rate)
    return latent(
        inner,
        regularizer,
        strength,
        gamma,
        pull=learning_rate,
        accumulator_dtype=accumulator_dtype,
    )


@readable
def linbreg(
    inner: optax.GradientTransformation,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    gamma: Scalar = 1.0,
    *,
    begin_at_params: bool = True,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Linearized Bregman iterations around any optimizer: LinBreg, AdaBreg.

    .. math::
        z_t = z_{t-1} + u_t(g_t, z_{t-1}), \quad
        x_t = \operatorname{prox}_{\gamma\lambda\psi}(z_t)

    Around SGD this is LinBreg, mirror descent for
    :math:`\lambda\psi + \|x\|^2/(2\gamma)`; around Adam, AdaBreg. Nothing pulls to
    zero: a unit that is zero stays so until its gradients have added up to the
    threshold, and then it grows without bias. So begin with params that are mostly
    zero; dense ones stay dense. ``RegularizerMap.prox(params, t)`` with a large t, or
    the prox of `top_groups`, makes them so; not all weights of a layer, or no
    gradient passes.

    Args:
      inner: As in `latent`.
      regularizer: As in `latent`.
      strength: :math:`\lambda \ge 0`, or a `budget`.
      gamma: :math:`\gamma > 0`: a number or an array. Only the product with the
        strength counts. The authors' :math:`\delta` with a learning rate
        :math:`\eta` is ``gamma`` :math:`\delta` with the rate :math:`\delta\eta`.
      begin_at_params: As in `latent`; otherwise the first update takes the prox of
        params which moved one step, and makes dense ones sparse.
      accumulator_dtype: As in `latent`.

    Returns:
      As `latent`.

    Raises:
      TypeError, ValueError: as `latent`; ``gamma`` is 0.

    Examples:
      >>> tx = rj.linbreg(optax.sgd(0.5), rj.l1(), strength=0.2)
      >>> params, target = jnp.zeros(3), jnp.array([2.0, 1.0, 0.01])
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(30):
      ...     updates, state = update(params - target, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(", ".join(f"{x:.2f}" for x in params))
      2.00, 1.00, 0.00

    References:
      Bungert, Roith, Tenbrinck & Burger, `A Bregman Learning Framework for Sparse
      Neural Networks <https://www.jmlr.org/papers/v23/21-0545.html>`_, JMLR 2022.
    """
    return latent(
        inner,
        regularizer,
        strength,
        gamma,
        begin_at_params=begin_at_params,
        accumulator_dtype=accumulator_dtype,
    )
