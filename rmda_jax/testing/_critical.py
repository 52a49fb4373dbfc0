"""The law of critical strengths: below them a unit lives, above it is zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import wide_dtype
from rmda_jax.regularizers import Regularizer
from rmda_jax.testing._answers import checked
from rmda_jax.testing._numerics import BATCH, epsilon, noise, require, require_close

# Of the strengths tried, these many are critical ones; the others are far beyond.
_TRIED = (BATCH - 4) // 2
_FAR = (1.5, 10.0, 1e3)
# Where the metric prox iterates, so close to a critical strength it is not asked.
_ITERATED = 1e-2


def check_critical_strengths(
    regularizer: Regularizer, x: ArrayLike, step_size: float
) -> None:
    r"""Check that `critical_strengths` says when each unit vanishes.

    At every strength tried (0, six critical ones, from a hair below to a hair above,
    and up to 1000 times the largest) exactly those units of the prox are zero whose
    critical strength lies below; so what is zero once stays zero. A hair is
    :math:`32\sqrt n` rounding units for an array of n entries, which the sums in prox
    and strength may lose, in the metric 1 and in another; 1 % where `metric_prox`
    iterates. NaN makes its unit's strength NaN, and half precision is float32.

    Holds trivially where the regularizer raises NotImplementedError: with or without a
    metric, or both.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`\eta`, positive.

    Raises:
      AssertionError: a unit is zero below its critical strength, or alive above.
    """
    x = checked(regularizer, x, step_size)
    if step_size == 0:
        return
    hair = 32 * epsilon(x) * np.sqrt(max(x.size, 1))
    found = _strengths(regularizer, x, step_size, None)
    if found is not None:
        _check_numbers(regularizer, x, step_size, found)
        _check_supports(regularizer, x, step_size, None, found, hair)
    metric = np.exp(noise(x, 1)[0])
    found = _strengths(regularizer, x, step_size, metric)
    if found is not None:
        hook = regularizer._counted_metric_prox
        iterates = jax.eval_shape(hook, x, x.dtype.type(1), x) is None
        hair = _ITERATED if iterates else hair
        _check_supports(regularizer, x, step_size, metric, found, hair)


def _check_numbers(
    regularizer: Regularizer, x: np.ndarray, step_size: float, found: np.ndarray
) -> None:
    """Check shape, dtype and sign, and what becomes of NaN and half precision."""
    law = "critical strengths"
    wanted = jax.eval_shape(regularizer.support, x).shape, wide_dtype(x.dtype)
    says = f"have shape {found.shape} and dtype {found.dtype}, not {wanted}."
    require((found.shape, found.dtype) == wanted, law, regularizer, says)
    require((found >= 0).all(), law, regularizer, "has negative ones, or NaN.")
    if not x.size:
        return
    poisoned = x.copy()
    poisoned.flat[x.size // 2] = np.nan
    other = np.asarray(_compiled(regularizer, poisoned, step_size, None))
    says = "gives none that is NaN for an array that holds NaN."
    require(np.isnan(other).any(), law, regularizer, says)
    low = x.astype(jnp.bfloat16)
    got, wide = (
        np.asarray(_compiled(regularizer, y, step_size, None))
        for y in (low, low.astype(np.float32))
    )
    finite = np.abs(wide[np.isfinite(wide)]).max(initial=0)
    says = "differ between bfloat16 and the same numbers in float32"
    rounding = 32 * float(jnp.finfo(np.float32).eps) * np.sqrt(x.size) * finite
    require_close(got, wide, rounding, law, regularizer, says)


def _check_supports(
    regularizer: Regularizer,
    x: np.ndarray,
    step_size: float,
    metric: np.ndarray | None,
    found: np.ndarray,
    hair: float,
) -> None:
    """Compare the supports at some strengths with the critical ones."""
    positive = np.unique(found[(found > 0) & np.isfinite(found)])
    places = np.linspace(0, len(positive) - 1, _TRIED).round().astype(int)
    tried = positive[places] if len(positive) else np.ones(_TRIED, found.dtype)
    factors = np.array([1 - 2 * hair, 1 + 2 * hair])
    far = tried.max() * np.array(_FAR)
    strengths = np.concatenate([[0.0], np.outer(factors, tried).ravel(), far])
    strengths = strengths.astype(found.dtype)
    steps = strengths * np.asarray(step_size, found.dtype)
    alive = np.asarray(_supports(regularizer, x, steps, metric))
    where = "" if metric is None else " in a metric"
    for strength, units in zip(strengths, alive, strict=True):
        early = ~units & (found > strength * (1 + hair))
        says = (
            f"makes {int(early.sum())} units zero at strength {strength:.9g}{where}, "
            f"below their critical strengths {found[early][:3]}."
        )
        require(not early.any(), "critical strengths", regularizer, says)
        late = units & (found < strength * (1 - hair)) | (units & (found == 0))
        says = (
            f"leaves {int(late.sum())} units at strength {strength:.9g}{where}, above "
            f"their critical strengths {found[late][:3]}."
        )
        require(not late.any(), "critical strengths", regularizer, says)


def _strengths(
    regularizer: Regularizer, x: ArrayLike, step_size: float, metric: ArrayLike | None
) -> np.ndarray | None:
    """Return the critical strengths; None where the regularizer says it has none."""
    try:
        return np.asarray(_compiled(regularizer, x, step_size, metric))
    except NotImplementedError:
        return None


@functools.partial(jax.jit, static_argnums=0)
def _compiled(
    regularizer: Regularizer, x: ArrayLike, step: ArrayLike, metric: ArrayLike | None
) -> jax.Array:
    return regularizer.critical_strengths(x, step, metric)


@functools.partial(jax.jit, static_argnums=0)
def _supports(
    regularizer: Regularizer, x: ArrayLike, steps: ArrayLike, metric: ArrayLike | None
) -> jax.Array:
    """Return the support of the prox at every step size."""

    def support(t: jax.Array) -> jax.Array:
        if metric is None:
            return regularizer.prox_support(x, t)
        options = {"rtol": 1e-5, "max_iters": 10_000}
        return regularizer.support(regularizer.metric_prox(x, t, metric, **options))

    return jax.vmap(support)(jnp.asarray(steps))
