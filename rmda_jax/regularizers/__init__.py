"""WHAT structure, on one array or on several: penalties of units, and sets."""

from rmda_jax.regularizers._base import Regularizer as Regularizer
from rmda_jax.regularizers.named._differences import (
    fused_lasso as fused_lasso,
    total_variation as total_variation,
)
from rmda_jax.regularizers.named._entries import (
    boxed as boxed,
    elastic_net as elastic_net,
    l0 as l0,
    l1 as l1,
    laplace as laplace,
    log_sum as log_sum,
    lq as lq,
    mcp as mcp,
    scad as scad,
    squared_l2 as squared_l2,
)
from rmda_jax.regularizers.named._groups import (
    group_l0 as group_l0,
    group_lasso as group_lasso,
    group_linf as group_linf,
    group_log_sum as group_log_sum,
    group_lq as group_lq,
    group_mcp as group_mcp,
    group_scad as group_scad,
    sparse_group_lasso as sparse_group_lasso,
)
from rmda_jax.regularizers.named._levels import (
    binary as binary,
    ternary as ternary,
    uniform_levels as uniform_levels,
)
from rmda_jax.regularizers.named._products import (
    on_groups as on_groups,
    on_singular_values as on_singular_values,
    on_tied_groups as on_tied_groups,
    tied_group_lasso as tied_group_lasso,
)
from rmda_jax.regularizers.named._quantization import (
    least_squares_levels as least_squares_levels,
    piecewise_affine as piecewise_affine,
)
from rmda_jax.regularizers.named._reweighted import (
    reweighting as reweighting,
    weighted_group_lasso as weighted_group_lasso,
)
from rmda_jax.regularizers.named._sets import (
    box as box,
    l1_ball as l1_ball,
    l2_ball as l2_ball,
    l_half_ball as l_half_ball,
    max_rank as max_rank,
    n_m as n_m,
    simplex as simplex,
    top_groups as top_groups,
    top_k as top_k,
)
from rmda_jax.regularizers.named._singular_values import (
    nuclear_norm as nuclear_norm,
    spectral_mcp as spectral_mcp,
)
