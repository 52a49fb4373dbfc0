"""What the laws share: batched evaluation, competitors, rounding, messages."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import wide_dtype
from rmda_jax.regularizers import Regularizer

# Every law evaluates batches of this one size, so that each compiles once per shape.
BATCH = 16


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(
    regularizer: Regularizer, xs: jax.Array, steps: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return proxes and values of all rows: one program, for what all laws ask."""
    return jax.vmap(regularizer.prox)(xs, steps), jax.vmap(regularizer.value)(xs)


def proxes(regularizer: Regularizer, xs: Any, steps: Any) -> np.ndarray:
    """Return the prox of every row of ``xs``, each with its own step or all with one.

    Args:
      regularizer: The regularizer.
      xs: Array of shape ``(BATCH, ...)``.
      steps: Number, or array of shape ``(BATCH,)``.

    Returns:
      Array like ``xs``.
    """
    xs = np.asarray(xs)
    steps = np.broadcast_to(np.asarray(steps, _step_dtype(xs.dtype)), xs.shape[:1])
    return np.asarray(_evaluate(regularizer, xs, steps)[0])


def values(regularizer: Regularizer, xs: Any) -> np.ndarray:
    """Return the value of every row of ``xs``, an array of shape ``(BATCH, ...)``."""
    xs = np.asarray(xs)
    steps = np.ones(xs.shape[:1], _step_dtype(xs.dtype))
    return np.asarray(_evaluate(regularizer, xs, steps)[1], np.float64)


def prox(regularizer: Regularizer, x: Any, step_size: float) -> np.ndarray:
    """Return the prox of one array, by the same program."""
    return proxes(regularizer, _repeat(x), step_size)[0]


def value(regularizer: Regularizer, x: Any) -> float:
    """Return the value of one array, by the same program."""
    return float(values(regularizer, _repeat(x))[0])


def epsilon(x: np.ndarray) -> float:
    """Return the spacing of the numbers in which ``x`` is computed, relative to 1."""
    return float(jnp.finfo(wide_dtype(x.dtype)).eps)


def norm(x: np.ndarray) -> float:
    """Return the Euclidean norm of all entries, in float64."""
    return float(np.linalg.norm(np.asarray(x, np.float64).ravel()))


def noise(x: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` fixed normal arrays of ``x``'s shape and dtype."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, *x.shape)).astype(x.dtype)


def competitors(
    regularizer: Regularizer, x: np.ndarray, y: np.ndarray, step: float
) -> np.ndarray:
    """Return 2 BATCH points that a minimiser ``y`` of the prox objective must beat.

    Zero, the centre, rescalings of ``y``, perturbations (dense, sparse, on its zero
    pattern), hard thresholds of the centre, mixtures of both; then the prox of all of
    these, which lies where the regularizer is finite and has its structure.
    """
    size = np.abs(x).max(initial=0) or 1.0
    dense = size * noise(x, BATCH)
    sparse = np.where(np.abs(dense) > 1.5 * size, dense, 0)
    cuts = np.quantile(np.abs(x), (0.3, 0.6, 0.9)) if x.size else np.zeros(3)
    slices = np.zeros(x.shape, bool)
    slices[slice(0, 1) if x.ndim else ()] = True
    points = [
        *(y + h * z for h, z in zip((1e-3, 1e-1), dense, strict=False)),
        *(y + h * z for h, z in zip((1e-2, 1.0), sparse, strict=False)),
        np.where(y == 0, 0, y + 1e-2 * dense[2]),
        *(np.where(np.abs(x) > cut, x, 0) for cut in cuts),
        np.where(dense[3] > 0, x, y),
        np.where(slices, x, y),
        *(np.zeros_like(x), x, -y, 0.9 * y, 1.1 * y, dense[4]),
    ]
    batch = np.stack(points).astype(x.dtype)
    return np.concatenate([batch, proxes(regularizer, batch, step)])


def require(holds: Any, law: str, regularizer: Regularizer, says: str) -> None:
    """Raise an AssertionError that names law and regularizer unless it holds."""
    if not holds:
        raise AssertionError(f"{law}: {regularizer} {says}")


def require_close(
    got: Any,
    wanted: Any,
    tolerance: float,
    law: str,
    regularizer: Regularizer,
    says: str,
) -> None:
    """Raise an AssertionError with the largest deviation unless it is tolerable.

    NaN is close to NaN alone, and infinities to themselves.
    """
    got, wanted = (np.asarray(a, np.float64) for a in (got, wanted))
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0, np.abs(got - wanted))
    worst = float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0))
    require(
        worst <= tolerance,
        law,
        regularizer,
        f"{says}: they differ by {worst:.3g}, where rounding explains {tolerance:.3g}.",
    )


def _repeat(x: Any) -> np.ndarray:
    return np.broadcast_to(x, (BATCH, *np.shape(x)))


def _step_dtype(dtype: Any) -> Any:
    return wide_dtype(dtype)
