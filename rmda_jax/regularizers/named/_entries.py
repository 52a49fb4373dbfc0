"""The named penalties on entries."""

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._boxed import Boxed
from rmda_jax.regularizers._geometries import Entries
from rmda_jax.regularizers._magnitude import MagnitudePenalty
from rmda_jax.regularizers._penalties import (
    L0,
    MCP,
    SCAD,
    Abs,
    Elastic,
    Laplace,
    LogSum,
    Lq,
)
from rmda_jax.regularizers._sets import Box


def l1() -> Regularizer:
    r"""The l1 norm, :math:`\psi(x) = \sum_i |x_i|`: unstructured sparsity.

    Returns:
      A convex, separable regularizer for arrays of any shape. Prox is the soft
      threshold :math:`\mathrm{sign}(x_i)\max(|x_i| - t, 0)`; zeros are exact.

    Examples:
      >>> rj.l1().prox(jnp.array([1.5, -0.5]), 1.0)
      Array([0.5, 0. ], dtype=float32)
    """
    return MagnitudePenalty(Abs(), Entries())


def squared_l2() -> Regularizer:
    r"""Ridge, :math:`\psi(x) = \tfrac12\|x\|^2` (mind the half): prox :math:`x/(1+t)`.

    Returns:
      A convex, separable regularizer for arrays of any shape; it makes nothing zero.

    Examples:
      >>> rj.regularizers.squared_l2().prox(jnp.array([3.0]), 2.0)
      Array([1.], dtype=float32)
    """
    return MagnitudePenalty(Elastic(0.0), Entries())


def elastic_net(l1_ratio: float = 0.5) -> Regularizer:
    r"""Elastic net, :math:`\rho\|x\|_1 + \tfrac{1-\rho}2\|x\|^2`.

    Args:
      l1_ratio: :math:`\rho \in [0, 1]`.

    Returns:
      A convex, separable regularizer for arrays of any shape. Prox:
      :math:`\mathrm{sign}(x_i)\max(|x_i| - t\rho, 0) / (1 + t(1-\rho))`.

    Raises:
      ValueError: ``l1_ratio`` outside [0, 1].

    Examples:
      >>> rj.elastic_net(0.5).prox(jnp.array([4.0, -0.5]), 2.0)
      Array([1.5, 0. ], dtype=float32)

    References:
      Zou & Hastie, `Regularization and variable selection via the elastic net
      <https://doi.org/10.1111/j.1467-9868.2005.00503.x>`_, 2005.
    """
    return MagnitudePenalty(Elastic(l1_ratio), Entries())


def mcp(lam: float = 1.0, gamma: float = 3.0) -> Regularizer:
    r"""Minimax concave penalty on entries: like l1 at zero, no bias on large weights.

    .. math:: \psi(x) = \sum_i \varphi(|x_i|), \quad
        \varphi(r) = \lambda_0 r - \tfrac{r^2}{2\gamma}\ (r \le \gamma\lambda_0),
        \quad \tfrac12\gamma\lambda_0^2 \text{ beyond}

    Args:
      lam: :math:`\lambda_0 > 0`, the slope at zero. The strength multiplies all of
        :math:`\psi`; ``lam * gamma`` is where weights become free.
      gamma: :math:`\gamma > 0`.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape. Prox is firm
      thresholding while :math:`t < \gamma`, a hard threshold at
      :math:`\lambda_0\sqrt{t\gamma}` from there on.

    Raises:
      ValueError: ``lam`` or ``gamma`` not positive.

    Examples:
      >>> rj.mcp(gamma=2.0).prox(jnp.array([0.5, 1.5, 3.0]), 1.0)
      Array([0., 1., 3.], dtype=float32)

    References:
      Zhang, `Nearly unbiased variable selection under minimax concave penalty
      <https://doi.org/10.1214/09-AOS729>`_, 2010.
    """
    return MagnitudePenalty(MCP(lam, gamma), Entries())


def scad(lam: float = 1.0, a: float = 3.7) -> Regularizer:
    r"""Smoothly clipped absolute deviation on entries.

    .. math:: \varphi(r) = \lambda_0 r\ (r \le \lambda_0),\quad
        \frac{2a\lambda_0 r - r^2 - \lambda_0^2}{2(a-1)}\ (r \le a\lambda_0),\quad
        \tfrac12\lambda_0^2(a+1) \text{ beyond}

    Args:
      lam: :math:`\lambda_0 > 0`, the slope at zero.
      a: Where the penalty levels off, in units of ``lam``; more than 2.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape; prox is the global
      minimiser for every step size.

    Raises:
      ValueError: ``lam`` not positive or ``a`` not above 2.

    Examples:
      >>> rj.regularizers.scad().prox(jnp.array([0.5, 1.5, 5.0]), 1.0)
      Array([0. , 0.5, 5. ], dtype=float32)

    References:
      Fan & Li, `Variable selection via nonconcave penalized likelihood
      <https://doi.org/10.1198/016214501753382273>`_, 2001.
    """
    return MagnitudePenalty(SCAD(lam, a), Entries())


def l0() -> Regularizer:
    r"""The number of nonzeros; prox is the hard threshold at :math:`\sqrt{2t}`.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape. At the threshold
      itself, a tie, the result is 0.

    Examples:
      >>> rj.regularizers.l0().prox(jnp.array([0.9, 1.1]), 0.5)
      Array([0. , 1.1], dtype=float32)
    """
    return MagnitudePenalty(L0(), Entries())


def lq(q: float = 0.5) -> Regularizer:
    r"""The power :math:`\psi(x) = \sum_i |x_i|^q`, :math:`0 < q < 1`.

    Args:
      q: The power; 1/2 and 2/3 are those with a name in the literature.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape. Prox is 0 up to
      :math:`\frac{2-q}{2(1-q)}(2t(1-q))^{1/(2-q)}` and jumps there.

    Raises:
      ValueError: ``q`` outside (0, 1).

    Examples:
      >>> rj.regularizers.lq(0.5).prox(jnp.array([1.4, 4.0]), 1.0).round(3)
      Array([0.   , 3.742], dtype=float32)

    References:
      Marjanovic & Solo, `On lq optimization and matrix completion
      <https://doi.org/10.1109/TSP.2012.2212015>`_, 2012; for q = 1/2 Xu et al.,
      `L1/2 regularization <https://doi.org/10.1109/TNNLS.2012.2197412>`_, 2012; for
      q = 2/3 Cao, Sun & Xu, `Fast image deconvolution using closed-form thresholding
      formulas of Lq regularization <https://doi.org/10.1016/j.jvcir.2012.10.006>`_,
      2013.
    """
    return MagnitudePenalty(Lq(q), Entries())


def log_sum(eps: float = 0.1) -> Regularizer:
    r"""The log-sum penalty, :math:`\sum_i \log(1 + |x_i|/\epsilon)`.

    Args:
      eps: :math:`\epsilon > 0`; the slope at zero is its inverse.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape.

    Raises:
      ValueError: ``eps`` not positive.

    Examples:
      >>> rj.regularizers.log_sum(1.0).prox(jnp.array([0.9, 3.0]), 1.0).round(3)
      Array([0.   , 2.732], dtype=float32)

    References:
      Candes, Wakin & Boyd, `Enhancing sparsity by reweighted l1 minimization
      <https://arxiv.org/abs/0711.1612>`_, 2008.
    """
    return MagnitudePenalty(LogSum(eps), Entries())


def laplace(eps: float = 0.1) -> Regularizer:
    r"""The Laplace penalty, :math:`\sum_i 1 - e^{-|x_i|/\epsilon}`.

    A smooth count of the nonzeros: entries far above :math:`\epsilon` cost 1 each, and
    are left alone.

    Args:
      eps: :math:`\epsilon > 0`; the slope at zero is its inverse.

    Returns:
      A separable, nonconvex regularizer for arrays of any shape; prox is the global
      minimiser for every step size.

    Raises:
      ValueError: ``eps`` not positive.

    Examples:
      >>> rj.regularizers.laplace(1.0).prox(jnp.array([0.9, 3.0]), 1.0).round(1)
      Array([0. , 2.9], dtype=float32)

    References:
      Trzasko & Manduca, `Highly undersampled magnetic resonance image reconstruction
      via homotopic l0-minimization <https://doi.org/10.1109/TMI.2008.927346>`_, 2009.
    """
    return MagnitudePenalty(Laplace(eps), Entries())


def boxed(inner: Regularizer, lower: float, upper: float) -> Regularizer:
    r"""Any convex sum over entries, restricted to a box.

    ``boxed(l1(), 0, jnp.inf)`` is the l1 norm of nonnegative entries.

    Args:
      inner: A convex, separable regularizer, such as `elastic_net`.
      lower: Lowest value of an entry.
      upper: Highest value of an entry.

    Returns:
      A convex, separable regularizer; its prox is the inner one's, clipped.

    Raises:
      ValueError: ``inner`` is not convex and separable, or the box is empty.

    Examples:
      >>> inside = rj.regularizers.boxed(rj.elastic_net(0.5), 0.0, 1.0)
      >>> inside.prox(jnp.array([4.0, 1.5]), 1.0)
      Array([1.       , 0.6666667], dtype=float32)
    """
    return Boxed(inner, Box(float(lower), float(upper)))
