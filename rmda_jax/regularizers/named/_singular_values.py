"""The named penalties on singular values."""

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._geometries import as_singular_values
from rmda_jax.regularizers._magnitude import MagnitudePenalty
from rmda_jax.regularizers._penalties import MCP, Abs


def nuclear_norm(matrix_axes: tuple[int, int] = (-2, -1)) -> Regularizer:
    r"""The sum of the singular values, :math:`\|X\|_*`: low rank.

    Args:
      matrix_axes: Rows and columns; the other axes are a batch of matrices.

    Returns:
      A convex regularizer for arrays of rank 2 or more; prox soft-thresholds the
      singular values. `support` flags those above rounding, its sum is the rank. Both
      matrix axes must be unsharded; gradients through the SVD may be NaN.

    Raises:
      ValueError: there are not two axes; at use, one that does not exist.

    Examples:
      >>> rj.nuclear_norm().prox(jnp.diag(jnp.array([3.0, 1.0])), 1.0).round(3)
      Array([[2., 0.],
             [0., 0.]], dtype=float32)

    References:
      Cai, Candes & Shen, `A singular value thresholding algorithm
      <https://arxiv.org/abs/0810.3286>`_, 2010.
    """
    return MagnitudePenalty(Abs(), as_singular_values(matrix_axes))


def spectral_mcp(
    matrix_axes: tuple[int, int] = (-2, -1), *, lam: float = 1.0, gamma: float = 3.0
) -> Regularizer:
    r"""MCP on the singular values: low rank, large singular values left alone.

    Args:
      matrix_axes: Rows and columns; the other axes are a batch of matrices.
      lam: Slope at zero, as in `mcp`.
      gamma: As in `mcp`.

    Returns:
      A nonconvex regularizer for arrays of rank 2 or more; see `nuclear_norm` for what
      its SVD asks.

    Raises:
      ValueError: ``lam`` or ``gamma`` not positive, not two axes; at use, a missing
        axis.

    Examples:
      >>> few = rj.regularizers.spectral_mcp()
      >>> few.prox(jnp.diag(jnp.array([4.0, 1.0])), 1.0).round(3)
      Array([[4., 0.],
             [0., 0.]], dtype=float32)
    """
    return MagnitudePenalty(MCP(lam, gamma), as_singular_values(matrix_axes))
