"""Linear algebra of singular values, in the accuracy of the arrays' dtype."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Accelerators multiply float32 matrices in fewer bits, unless told otherwise.
matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)

# Singular values below this share of the largest are left to the SVD: squaring costs
# one of them twice the digits it lies below the largest.
_SAFE = 0.05


def transpose(x: jax.Array) -> jax.Array:
    """Return the transposed matrices of a batch."""
    return jnp.swapaxes(x, -1, -2)


def shrunk_singular_values(
    x: jax.Array, shrink: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    r"""Return the matrices with every singular value s replaced by ``shrink(s)``.

    With the Gram matrix :math:`X^\top X = V S^2 V^\top` of the shorter side,

    .. math:: U f(S) V^\top = X\, V \frac{f(S)}{S} V^\top

    takes an eigendecomposition in place of an SVD, a third of the time. It is taken if
    `shrink` makes 0 of all that is less than 5 % of the largest singular value, for
    every matrix of a batch: the error is then 4e-6 of the largest at most in float32.
    Otherwise the SVD is taken. (Under `jax.vmap` both are.)

    Args:
      x: Matrices along the last two axes.
      shrink: Nondecreasing function of singular values.

    Returns:
      Matrices of the same shape.
    """
    if x.size == 0:
        return x
    if x.shape[-2] < x.shape[-1]:
        return transpose(shrunk_singular_values(transpose(x), shrink))
    gram = matmul(transpose(x), x)
    floor = _SAFE * jnp.sqrt(_largest_eigenvalue_bound(gram))
    safe = jnp.all(shrink(floor[..., None]) == 0)

    def by_eigenvalues(x: jax.Array, gram: jax.Array) -> jax.Array:
        eigenvalues, v = jnp.linalg.eigh(gram)
        s = jnp.sqrt(jnp.maximum(eigenvalues, 0))
        factor = jnp.where(s > 0, shrink(s) / jnp.where(s > 0, s, 1), 0)
        return matmul(x, matmul(v * factor[..., None, :], transpose(v)))

    def by_svd(x: jax.Array, gram: jax.Array) -> jax.Array:
        del gram
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        return matmul(u * shrink(s)[..., None, :], vt)

    return lax.cond(safe, by_eigenvalues, by_svd, x, gram)


def _largest_eigenvalue_bound(gram: jax.Array) -> jax.Array:
    r"""Return :math:`(\sum_i \lambda_i^4)^{1/4}`, at most :math:`n^{1/4}` too large."""
    trace = jnp.trace(gram, axis1=-2, axis2=-1)
    scale = jnp.where(trace > 0, trace, 1)
    # In units of the trace no power leaves the range of float32.
    gram = gram / scale[..., None, None]
    fourth = jnp.sum(jnp.square(matmul(gram, gram)), axis=(-2, -1))
    return scale * jnp.sqrt(jnp.sqrt(fourth))
