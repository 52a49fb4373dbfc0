"""All laws of regularizers, as one table and one call."""

from collections.abc import Callable, Collection

from jax.typing import ArrayLike

from rmda_jax.regularizers import Regularizer
from rmda_jax.testing._answers import check_answers
from rmda_jax.testing._critical import check_critical_strengths
from rmda_jax.testing._exactness import (
    check_certificate,
    check_exact_zeros,
    check_finite,
    check_finite_gradients,
    check_nan,
    check_snap,
    check_units,
)
from rmda_jax.testing._leftovers import check_tiny_entries
from rmda_jax.testing._minimality import (
    check_firmly_nonexpansive,
    check_homogeneous,
    check_huge_step,
    check_metric_prox,
    check_minimizes,
    check_projection,
    check_separable,
    check_zero_step,
)
from rmda_jax.testing._programs import (
    check_dtypes,
    check_jit,
    check_object,
    check_vmap,
)
from rmda_jax.testing._support_mask import check_support_mask

Law = Callable[[Regularizer, ArrayLike, float], None]

LAWS: tuple[Law, ...] = (
    check_object,
    check_answers,
    check_minimizes,
    check_firmly_nonexpansive,
    check_zero_step,
    check_huge_step,
    check_projection,
    check_homogeneous,
    check_separable,
    check_metric_prox,
    check_exact_zeros,
    check_tiny_entries,
    check_finite,
    check_finite_gradients,
    check_nan,
    check_snap,
    check_units,
    check_support_mask,
    check_certificate,
    check_critical_strengths,
    check_jit,
    check_vmap,
    check_dtypes,
)


def check_regularizer(
    regularizer: Regularizer,
    x: ArrayLike,
    step_size: float,
    *,
    exempt: Collection[Law] = (),
) -> None:
    r"""Check every law of regularizers at one array and one step size.

    A regularizer that passes in float32 and float64, on arrays of the shapes it is
    meant for with the step sizes where it shrinks some units and removes others, is
    ready for any transformation of this library. What the laws cannot know is whether
    :math:`\psi` is the function you meant: test its value against plain numpy.

    Args:
      regularizer: The regularizer; its predicates (``is_convex``, ...) say which laws
        apply.
      x: Real floating array. Its values should be of the size of the thresholds.
      step_size: :math:`t > 0`, as in `Regularizer.prox`.
      exempt: Laws to leave out, for a reason that the regularizer's docstring gives;
        ``check_finite_gradients`` for an SVD, for instance.

    Raises:
      AssertionError: a law is broken; the message names it, the regularizer and the
        numbers.

    Examples:
      >>> from rmda_jax.testing import check_regularizer
      >>> x = jnp.array([[3.0, -0.5, 0.2], [0.1, 0.2, -0.1]])
      >>> check_regularizer(rj.group_lasso(0), x, 0.5)
    """
    for law in LAWS:
        if law not in exempt:
            law(regularizer, x, step_size)
