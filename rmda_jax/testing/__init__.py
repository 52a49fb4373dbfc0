"""Laws of regularizers and of transformations, for your own ones, too.

They need no test framework.
"""

from rmda_jax.testing._answers import check_answers as check_answers
from rmda_jax.testing._critical import (
    check_critical_strengths as check_critical_strengths,
)
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
from rmda_jax.testing._support_mask import check_support_mask as check_support_mask
from rmda_jax.testing._trial import Trial as Trial
from rmda_jax.testing._update_laws import (
    UPDATE_LAWS as UPDATE_LAWS,
    check_transformation as check_transformation,
)
from rmda_jax.testing._update_numbers import (
    check_accumulators as check_accumulators,
    check_nan_spreads as check_nan_spreads,
    check_update_dtypes as check_update_dtypes,
    check_update_zeros as check_update_zeros,
    check_zero_strength as check_zero_strength,
)
from rmda_jax.testing._update_programs import (
    check_batches as check_batches,
    check_compiled as check_compiled,
    check_pure as check_pure,
    check_scan as check_scan,
)
from rmda_jax.testing._update_states import (
    check_checkpoint as check_checkpoint,
    check_donation as check_donation,
    check_init as check_init,
    check_state as check_state,
    check_trees as check_trees,
)
