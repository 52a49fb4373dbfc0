r"""Latent weights: any optimizer moves them, and the params are their prox.

What `latent` leaves open tells the methods in `_latent_methods.py` apart.
docs/latent.md derives them, and dual averaging as one more.
"""

from typing import Any

import jax
import optax

from rmda_jax._types import Scalar, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec
from rmda_jax.transforms._arguments import check_hyperparameter, with_extra_args
from rmda_jax.transforms._latent_update import BetweenProxes, LatentMethod, Phases
from rmda_jax.transforms._signature import readable
from rmda_jax.transforms._strength import check_strength


@readable
def latent(
    inner: optax.GradientTransformation,
    regularizer: RegularizerSpec,
    strength: ScalarOrSchedule,
    gamma: Scalar = 1.0,
    *,
    growth: ScalarOrSchedule = 0.0,
    pull: ScalarOrSchedule = 0.0,
    start_step: int = 0,
    freeze_step: int | None = None,
    prox_every: int = 1,
    between_proxes: BetweenProxes = "move",
    begin_at_params: bool = False,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Let any optimizer move latent weights, and take the params as their prox.

    With g the gradient at the params x, u the update of ``inner`` for the latent
    weights z, :math:`\psi` = ``regularizer`` and :math:`\lambda` = ``strength``:

    .. math::
        \gamma_t &= \gamma_{t-1} + \delta_t \\
        z_t &= z_{t-1} + u_t(g_t, z_{t-1})
            - p_t\,\frac{z_{t-1} - x_{t-1}}{\gamma_{t-1}}, \quad z_0 = x_0 \\
        x_t &= \operatorname{prox}_{\gamma_t\lambda\psi}(z_t)

    ============  ==========  ==================  ==================
    method        ``gamma``   ``growth``          ``pull``
    ============  ==========  ==================  ==================
    `aprox`       0           the learning rate   0
    `normal_map`  positive    0                   the learning rate
    `linbreg`     positive    0                   0
    ============  ==========  ==================  ==================

    The params carry exact zeros after every prox. Weight decay of ``inner`` acts on z.
    Leaves without a regularizer get the update of ``inner`` untouched, and no z.

    The update returned is new minus old params, in the params' dtype: nothing may stand
    after it in an `optax.chain`; clipping stands before it, or inside of ``inner``.

    Args:
      inner: Any Optax optimizer, complete with its learning rate. It is given z for the
        params, in the accumulator dtype.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      strength: :math:`\lambda \ge 0`, or a `budget`.
      gamma: :math:`\gamma_0 \ge 0`, in units of the learning rate; number or array.
      growth: :math:`\delta_t \ge 0`: what an update adds to gamma.
      pull: :math:`p_t \ge 0`: how strongly z is drawn to the params.
      start_step: Number of updates before the first prox. In them ``inner`` is alone,
        the params are z, and gamma stands still.
      freeze_step: From this update on what is zero stays zero, and ``inner``, whose
        state goes on, trains the rest alone, from the params. None: never. `heal` does
        that with another optimizer.
      prox_every: A prox is taken in one update of so many, counted from ``start_step``,
        and in the last one before ``freeze_step``; in the others gamma advances alone.
        For regularizers whose prox is expensive.
      between_proxes: What the params are in these others. ``"move"``: they move as z
        does, :math:`x_t = x_{t-1} + z_t - z_{t-1}`, and off zero. What gamma grows by
        is made up for at the next prox, as is what params of bfloat16 are too coarse
        for. ``"latent"``: they are z, as in PAT; then gamma outgrows z, and in the end
        all params are 0: see docs/latent.md.
      begin_at_params: Whether z begins where its prox is the params,
        :math:`z_0 = x_0 + \gamma_0\lambda\nabla\psi(x_0)` with 0 for the gradient where
        there is none; with a `budget`, whose first :math:`\lambda` is not known, it
        begins at the params all the same.
      accumulator_dtype: Dtype of z; at least float32 by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `LatentState`, one array per
      regularized parameter beside the state of ``inner``. Extra arguments of ``update``
      reach ``inner``. From `jax.ShapeDtypeStruct` leaves ``init`` makes a state of the
      right shapes, whose z is NaN.

    Raises:
      NotImplementedError: with ``freeze_step``, a regularizer whose structure no mask
        keeps, see `Regularizer.support_mask`.
      TypeError: ``inner`` is no transformation or takes a prox itself, a number that
        the program depends on is an array, or as `rmda`.
      ValueError: an argument is out of range; gamma is 0 and does not grow, or
        something pulls; ``freeze_step`` is not after ``start_step``; or as `rmda`.

    Examples:
      >>> tx = rj.latent(optax.sgd(0.5), rj.l1(), strength=0.2, gamma=1.0, pull=0.5)
      >>> params, target = jnp.zeros(3), jnp.array([2.0, 1.0, 0.1])
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(50):
      ...     updates, state = update(params - target, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(", ".join(f"{x:.2f}" for x in params))
      1.80, 0.80, 0.00
    """
    check_strength(strength)
    check_hyperparameter("growth", growth)
    check_hyperparameter("pull", pull)
    _check_gamma(gamma, growth, pull)
    phases = Phases(start_step, freeze_step, prox_every, between_proxes)
    phases.check()
    method = LatentMethod(
        inner=with_extra_args("inner", inner),
        regularizer=regularizer,
        strength=strength,
        gamma=gamma,
        growth=growth,
        pull=pull if _may_be_positive(pull) else None,
        phases=phases,
        begin_at_params=begin_at_params,
        accumulator_dtype=accumulator_dtype,
    )
    return optax.GradientTransformationExtraArgs(method.init, method.update)


def _check_gamma(gamma: Any, growth: Any, pull: Any) -> None:
    if callable(gamma):
        raise TypeError(
            f"`gamma` must be a number or an array of rank 0, got {gamma!r}. What "
            "changes it from step to step is `growth`."
        )
    check_hyperparameter("gamma", gamma)
    stays = not _may_be_positive(growth)
    if not _may_be_positive(gamma) and (stays or _may_be_positive(pull)):
        raise ValueError(
            "`gamma` must be positive where it does not grow, or something pulls, got "
            f"{gamma}. Give gamma=1.0."
        )


def _may_be_positive(value: Any) -> bool:
    """Return whether a hyperparameter is anything else than a concrete 0."""
    return callable(value) or isinstance(value, jax.Array) or bool(value)
