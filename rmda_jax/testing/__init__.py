"""The laws a regularizer must obey, for your own ones, too; needs no test framework."""

from rmda_jax.testing._answers import check_answers as check_answers
from rmda_jax.testing._exactness import (
    check_certificate as check_certificate,
    check_exact_zeros as check_exact_zeros,
    check_finite as check_finite,
    check_finite_gradients as check_finite_gradients,
    check_nan as check_nan,
    check_snap as check_snap,
    check_units as check_units,
)
from rmda_jax.testing._laws import (
    LAWS as LAWS,
    check_regularizer as check_regularizer,
)
from rmda_jax.testing._leftovers import check_tiny_entries as check_tiny_entries
from rmda_jax.testing._minimality import (
    check_firmly_nonexpansive as check_firmly_nonexpansive,
    check_homogeneous as check_homogeneous,
    check_huge_step as check_huge_step,
    check_metric_prox as check_metric_prox,
    check_minimizes as check_minimizes,
    check_projection as check_projection,
    check_separable as check_separable,
    check_zero_step as check_zero_step,
)
from rmda_jax.testing._programs import (
    check_dtypes as check_dtypes,
    check_jit as check_jit,
    check_object as check_object,
    check_vmap as check_vmap,
)
