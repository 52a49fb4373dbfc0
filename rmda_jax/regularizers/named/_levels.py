"""The named sets of evenly spaced levels."""

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._levels import Levels


def binary(scale: float = 1.0, *, soft: bool = False) -> Regularizer:
    r"""Two levels, :math:`\{-s, +s\}`.

    Hard: the indicator of :math:`\{-s,+s\}^n`, prox :math:`s\,\mathrm{sign}(x)` (at 0:
    :math:`+s`). Soft: :math:`\sum_i \min(|x_i - s|, |x_i + s|)`, the ProxQuant penalty.

    Args:
      scale: :math:`s > 0`.
      soft: Penalise the distance to the levels instead of forbidding it.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape.

    Raises:
      ValueError: ``scale`` is not positive and finite.

    Examples:
      >>> rj.regularizers.binary().prox(jnp.array([0.2, -3.0]), 1.0)
      Array([ 1., -1.], dtype=float32)

    References:
      Bai, Wang & Liberty, `ProxQuant <https://arxiv.org/abs/1810.00861>`_, 2019.
    """
    check_parameter("scale", scale, above=0, finite=True)
    return Levels(-scale, scale, 2, soft)


def ternary(scale: float = 1.0, *, soft: bool = False) -> Regularizer:
    r"""Three levels, :math:`\{-s, 0, +s\}`.

    Hard: the indicator, prox rounds to the nearest level. Soft:
    :math:`\sum_i \min(|x_i|, |x_i - s|, |x_i + s|)`.

    Args:
      scale: :math:`s > 0`.
      soft: Penalise the distance to the levels instead of forbidding it.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape.

    Raises:
      ValueError: ``scale`` is not positive and finite.

    Examples:
      >>> rj.ternary().prox(jnp.array([0.2, -3.0, 0.7]), 1.0)
      Array([ 0., -1.,  1.], dtype=float32)

    References:
      Bai, Wang & Liberty, `ProxQuant <https://arxiv.org/abs/1810.00861>`_, 2019.
    """
    check_parameter("scale", scale, above=0, finite=True)
    return Levels(-scale, scale, 3, soft)


def uniform_levels(
    bits: int, lower: float = -1.0, upper: float = 1.0, *, soft: bool = False
) -> Regularizer:
    r"""The :math:`2^k` evenly spaced levels of ``bits`` = k bits.

    Args:
      bits: k, from 1 to 16.
      lower: Lowest level.
      upper: Highest level.
      soft: Penalise the distance to the nearest level instead of forbidding it.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape. With an even number of
      levels symmetric about 0, zero is not a level.

    Raises:
      ValueError: ``bits`` out of range, ``upper`` not above ``lower`` or infinite.

    Examples:
      >>> levels = rj.regularizers.uniform_levels(2, 0.0, 3.0)
      >>> levels.prox(jnp.array([0.4, 2.6, 9.0]), 1.0)
      Array([0., 3., 3.], dtype=float32)
    """
    if not (isinstance(bits, int) and 1 <= bits <= 16):
        raise ValueError(f"`bits` must be an integer from 1 to 16, got {bits}.")
    return Levels(lower, upper, 2**bits, soft)
