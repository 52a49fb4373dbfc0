"""Low-rank matrices as two factors."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import wide_dtype


def factors(kernel: ArrayLike, rank: int | None = None) -> tuple[jax.Array, jax.Array]:
    r"""Factor a matrix of low rank, as the nuclear norm leaves behind.

    .. math:: X = U\,\mathrm{diag}(\sigma)\,V^\top
        = (U_r\sqrt{\sigma_r})\,(\sqrt{\sigma_r}V_r^\top)

    Two layers of ``rank * (rows + columns)`` weights do the work of one of ``rows *
    columns``. The factors are balanced: they have the same singular values.

    Args:
      kernel: Array of shape ``(..., rows, columns)``: a batch of matrices, as those of
        `nuclear_norm`. The kernel of a convolution, ``(height, width, in, out)``, is to
        be reshaped to ``(-1, out)`` first; its second factor is a 1x1 convolution.
      rank: Number of singular values to keep; all those above the rounding of the
        kernel's dtype if None, of the matrix in the batch that has the most.

    Returns:
      Two arrays of shapes ``(..., rows, rank)`` and ``(..., rank, columns)``, of the
      kernel's dtype, whose matrix product is the kernel (the best approximation of that
      rank if there are more singular values). A kernel of zeros has rank 1.

    Raises:
      ValueError: ``kernel`` has less than two axes or is not finite, or ``rank`` is not
        among 1, ..., ``min(rows, columns)``.

    Examples:
      >>> from rmda_jax import shrink
      >>> kernel = jnp.outer(jnp.arange(1.0, 5.0), jnp.ones(3))
      >>> left, right = shrink.factors(kernel)
      >>> left.shape, right.shape
      ((4, 1), (1, 3))
      >>> bool(jnp.allclose(left @ right, kernel))
      True
    """
    x = jnp.asarray(kernel)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"`kernel` must be a matrix or a batch of them, got shape {x.shape}."
        )
    # On the host and in float64: nothing is lost but the rounding of the factors.
    matrix = np.asarray(x.astype(wide_dtype(x.dtype)), np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError(f"`kernel` of shape {x.shape} must be finite.")
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    least = s.max(-1, keepdims=True) * max(x.shape[-2:]) * float(jnp.finfo(x.dtype).eps)
    if rank is None:
        rank = max(int((s > least).sum(-1).max()), 1)
    if not 1 <= rank <= s.shape[-1]:
        raise ValueError(
            f"`rank` must be among 1, ..., {s.shape[-1]} for a kernel of shape "
            f"{x.shape}, got {rank}."
        )
    root = np.sqrt(s[..., :rank])
    left = u[..., :rank] * root[..., None, :]
    right = root[..., :, None] * v[..., :rank, :]
    return jnp.asarray(left, x.dtype), jnp.asarray(right, x.dtype)
