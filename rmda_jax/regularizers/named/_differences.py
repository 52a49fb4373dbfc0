"""The named penalties on differences of neighbours."""

from rmda_jax.regularizers._axes import as_axes
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._total_variation import TotalVariation


def total_variation(axis: int = -1) -> Regularizer:
    r"""1-D total variation: :math:`\psi(x) = \sum_j |x_{j+1} - x_j|` along an axis.

    Args:
      axis: The axis along which neighbours are compared; the sum runs over the others.

    Returns:
      A convex regularizer; prox makes runs of exactly equal entries. `support` flags
      the jumps between runs.

    Raises:
      ValueError: at use, an axis that does not exist.

    Examples:
      >>> rj.regularizers.total_variation().prox(jnp.array([0.0, 0.0, 3.0, 3.0]), 1.0)
      Array([0.5, 0.5, 2.5, 2.5], dtype=float32)

    References:
      Johnson, `A dynamic programming algorithm for the fused lasso and
      L0-segmentation <https://doi.org/10.1080/10618600.2012.681238>`_, 2013.
    """
    return fused_lasso(axis, l1_ratio=0.0)


def fused_lasso(axis: int = -1, *, l1_ratio: float = 0.5) -> Regularizer:
    r"""Fused lasso: :math:`\rho\|x\|_1 + (1-\rho)\sum_j |x_{j+1} - x_j|`.

    Args:
      axis: The axis along which neighbours are compared.
      l1_ratio: :math:`\rho \in [0, 1]`.

    Returns:
      A convex regularizer; prox makes runs of equal entries and exact zeros.

    Raises:
      ValueError: ``l1_ratio`` outside [0, 1]; at use, an axis that does not exist.

    Examples:
      >>> rj.regularizers.fused_lasso().prox(jnp.array([0.0, 0.0, 3.0, 3.0]), 2.0)
      Array([0. , 0. , 1.5, 1.5], dtype=float32)

    References:
      Friedman et al., `Pathwise coordinate optimization
      <https://doi.org/10.1214/07-AOAS131>`_, 2007, Proposition 1.
    """
    (axis,) = as_axes(axis, name="axis")
    return TotalVariation(axis, l1_ratio)
