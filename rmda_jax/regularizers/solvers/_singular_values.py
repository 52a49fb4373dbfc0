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
_SAFE = 0.04


def transpose(x: jax.Array) -> jax.Array:
    """Return the transposed matrices of a batch."""
    return jnp.swapaxes(x, -1, -2)


def singular_values(x: jax.Array) -> jax.Array:
    """Return the singular values of a batch of matrices, the largest first.

    Without ``full_matrices=False``, the CPU reserves a square of the longer side for
    singular vectors that nobody asked for.
    """
    return jnp.linalg.svd(x, full_matrices=False, compute_uv=False)


def shrunk_singular_values(
    x: jax.Array, shrink: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    r"""Return the matrices with every singular value s replaced by ``shrink(s)``.

    With the Gram matrix :math:`X^\top X = V S^2 V^\top` of the shorter side,

    .. math:: U f(S) V^\top = X\, V \frac{f(S)}{S} V^\top

    takes an eigendecomposition in place of an SVD, a fraction of the time. The result
    is kept if `shrink` makes 0 of all that is less than 4 % of the largest singular
    value, for every matrix of a batch: the error is then 4e-6 of the largest at most in
    float32. Otherwise an SVD follows. (Under `jax.vmap` it does always.)

    Args:
      x: Matrices along the last two axes.
      shrink: Nondecreasing function of singular values.

    Returns:
      Matrices of the same shape.

    Raises:
      ValueError: the matrices are sharded, where shardings are types; elsewhere XLA
        gathers them.
    """
    _require_whole(x)
    if x.size == 0:
        return x
    if x.shape[-2] < x.shape[-1]:
        return transpose(shrunk_singular_values(transpose(x), shrink))
    eigenvalues, v = jnp.linalg.eigh(matmul(transpose(x), x))
    s = jnp.sqrt(jnp.maximum(eigenvalues, 0))
    floor = _SAFE * jnp.max(s, axis=-1, keepdims=True)

    def by_eigenvalues(x: jax.Array, s: jax.Array, v: jax.Array) -> jax.Array:
        factor = jnp.where(s > 0, shrink(s) / jnp.where(s > 0, s, 1), 0)
        return matmul(x, matmul(v * factor[..., None, :], transpose(v)))

    def by_svd(x: jax.Array, s: jax.Array, v: jax.Array) -> jax.Array:
        del s, v
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        return matmul(u * shrink(s)[..., None, :], vt)

    return lax.cond(jnp.all(shrink(floor) == 0), by_eigenvalues, by_svd, x, s, v)


def leading_part(x: jax.Array, k: int) -> jax.Array:
    """Return the matrices with all but the ``k`` largest singular values made 0.

    Args:
      x: Matrices along the last two axes.
      k: How many stay.

    Returns:
      Matrices of the same shape; ``x`` itself where the others are of rounding.

    Raises:
      ValueError: as in `shrunk_singular_values`.
    """
    _require_whole(x)
    if k >= min(x.shape[-2:]) or x.size == 0:
        return x
    if x.shape[-2] < x.shape[-1]:
        return transpose(leading_part(transpose(x), k))
    _, s, vt = jnp.linalg.svd(x, full_matrices=False)
    vt = vt[..., :k, :]
    # A matrix that has no more, up to rounding, keeps its very bits.
    dust = x.shape[-2] * float(jnp.finfo(x.dtype).eps) * s[..., :1]
    has_more = ~(s[..., k : k + 1] <= dust)
    return jnp.where(has_more[..., None], matmul(x, matmul(transpose(vt), vt)), x)


def _require_whole(x: jax.Array) -> None:
    spec = jax.typeof(x).sharding.spec
    if any(axis is not None for axis in spec[-2:]):
        raise ValueError(
            "the axes of a matrix must be unsharded for its singular values, got "
            f"{spec} for shape {x.shape}. Reshard it before, or choose groups instead."
        )
