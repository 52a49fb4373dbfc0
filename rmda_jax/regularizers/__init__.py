"""WHAT structure, on one array: penalties, geometries, levels, sets and their sums."""

from rmda_jax.regularizers._base import Regularizer as Regularizer
from rmda_jax.regularizers._counts import n_m as n_m, top_k as top_k
from rmda_jax.regularizers._levels import (
    binary as binary,
    ternary as ternary,
    uniform_levels as uniform_levels,
)
from rmda_jax.regularizers._lhalf import l_half_ball as l_half_ball
from rmda_jax.regularizers._on_entries import (
    box_l1 as box_l1,
    boxed as boxed,
    elastic_net as elastic_net,
    l0 as l0,
    l1 as l1,
    l_half as l_half,
    l_two_thirds as l_two_thirds,
    log_sum as log_sum,
    lq as lq,
    mcp as mcp,
    nonnegative_l1 as nonnegative_l1,
    scad as scad,
    squared_l2 as squared_l2,
)
from rmda_jax.regularizers._on_groups import (
    group_l0 as group_l0,
    group_l_half as group_l_half,
    group_l_two_thirds as group_l_two_thirds,
    group_lasso as group_lasso,
    group_linf as group_linf,
    group_log_sum as group_log_sum,
    group_lq as group_lq,
    group_mcp as group_mcp,
    group_scad as group_scad,
    l2_norm as l2_norm,
    linf_norm as linf_norm,
    sparse_group_lasso as sparse_group_lasso,
)
from rmda_jax.regularizers._on_spectra import (
    nuclear_norm as nuclear_norm,
    spectral_mcp as spectral_mcp,
)
from rmda_jax.regularizers._sets import (
    box as box,
    l1_ball as l1_ball,
    l2_ball as l2_ball,
    nonnegative as nonnegative,
    simplex as simplex,
)
from rmda_jax.regularizers._variation import (
    fused_lasso as fused_lasso,
    total_variation as total_variation,
)
