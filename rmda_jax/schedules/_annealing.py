"""The strength that makes quantization hard, as PARQ anneals it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def parq_annealing(
    start_step: int, end_step: int, *, steepness: float = 10.0
) -> Callable[[ArrayLike], jax.Array]:
    r"""A strength for `piecewise_affine` that rises from 0 to 1, along a sigmoid.

    .. math:: \lambda_k = \frac{\sigma(0) - \sigma(u_k)}{\sigma(0) - \sigma(1)}, \qquad
        u_k = \frac{k - k_0}{k_1 - k_0}, \quad
        \sigma(u) = \frac1{1 + e^{s (u - 1/2)}}

    with s the steepness: PARQ's inverse slope is :math:`1 - \lambda_k`. It is 0 up to
    the start, and 1, where the prox is the nearest level, from the end on. PARQ takes
    no prox at all before the start: give its number as ``start_step`` to `latent`, too.

    Args:
      start_step: :math:`k_0 \ge 0`, the number of the update that begins to anneal.
      end_step: :math:`k_1 > k_0`.
      steepness: s > 0.

    Returns:
      A schedule: a function from the number of updates so far to a scalar.

    Raises:
      ValueError: an argument is out of range.

    Examples:
      >>> strength = rj.parq_annealing(0, 100)
      >>> [f"{strength(step):.3f}" for step in (0, 30, 50, 100)]
      ['0.000', '0.114', '0.500', '1.000']

    References:
      Jin et al., `PARQ: Piecewise-Affine Regularized Quantization
      <https://arxiv.org/abs/2503.15748>`_, 2025.
    """
    if not 0 <= start_step < end_step:
        raise ValueError(
            "`start_step` and `end_step` must be 0 or more, and increase, got "
            f"{start_step} and {end_step}."
        )
    if not 0 < steepness < float("inf"):
        raise ValueError(f"`steepness` must be positive and finite, got {steepness}.")

    def sigmoid(u: ArrayLike) -> jax.Array:
        return jax.nn.sigmoid(steepness * (0.5 - jnp.asarray(u, float)))

    def strength(count: ArrayLike) -> jax.Array:
        done = (jnp.asarray(count, float) - start_step) / (end_step - start_step)
        risen = sigmoid(0.0) - sigmoid(jnp.clip(done, 0, 1))
        share = risen / (sigmoid(0.0) - sigmoid(1.0))
        return jnp.where(done < 1, share, 1)  # 1 without rounding

    return strength
