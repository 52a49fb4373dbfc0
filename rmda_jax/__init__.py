"""Structured neural networks by regularized dual averaging, for JAX and Optax."""

from rmda_jax._version import __version__ as __version__  # first: it looks at JAX's

# isort: split
from rmda_jax import metrics as metrics, regularizers as regularizers, shrink as shrink
from rmda_jax.regularizers import (
    Regularizer as Regularizer,
    binary as binary,
    box as box,
    boxed as boxed,
    elastic_net as elastic_net,
    fused_lasso as fused_lasso,
    group_l0 as group_l0,
    group_lasso as group_lasso,
    group_linf as group_linf,
    group_log_sum as group_log_sum,
    group_lq as group_lq,
    group_mcp as group_mcp,
    group_scad as group_scad,
    l0 as l0,
    l1 as l1,
    l1_ball as l1_ball,
    l2_ball as l2_ball,
    l_half_ball as l_half_ball,
    log_sum as log_sum,
    lq as lq,
    mcp as mcp,
    n_m as n_m,
    nuclear_norm as nuclear_norm,
    on_groups as on_groups,
    on_singular_values as on_singular_values,
    on_tied_groups as on_tied_groups,
    scad as scad,
    simplex as simplex,
    sparse_group_lasso as sparse_group_lasso,
    spectral_mcp as spectral_mcp,
    squared_l2 as squared_l2,
    ternary as ternary,
    tied_group_lasso as tied_group_lasso,
    top_k as top_k,
    total_variation as total_variation,
    uniform_levels as uniform_levels,
)
from rmda_jax.schedules import stages as stages
from rmda_jax.specs import RegularizerMap as RegularizerMap
from rmda_jax.transforms import (
    AdamState as AdamState,
    ProxSGDAdaptiveState as ProxSGDAdaptiveState,
    ProxSGDState as ProxSGDState,
    RAMDAState as RAMDAState,
    RigLState as RigLState,
    RMDAState as RMDAState,
    masked_params as masked_params,
    proxgen as proxgen,
    proxsgd as proxsgd,
    proxsgd_adaptive as proxsgd_adaptive,
    proxssi as proxssi,
    ramda as ramda,
    rigl as rigl,
    rmda as rmda,
    structured_params as structured_params,
    structured_support as structured_support,
)
