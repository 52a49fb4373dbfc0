"""Structured neural networks by regularized dual averaging, for JAX and Optax.

All regularizers are in `rmda_jax.regularizers`; the dozen that most people use are here
as well.
"""

from rmda_jax._version import __version__ as __version__  # first: it looks at JAX's

# isort: split
from rmda_jax import metrics as metrics, regularizers as regularizers, shrink as shrink
from rmda_jax._former_names import (
    __getattr__ as __getattr__,  # pyright: ignore[reportAttributeAccessIssue]
)
from rmda_jax.regularizers import (
    Regularizer as Regularizer,
    box as box,
    elastic_net as elastic_net,
    group_lasso as group_lasso,
    group_mcp as group_mcp,
    l1 as l1,
    mcp as mcp,
    n_m as n_m,
    nuclear_norm as nuclear_norm,
    sparse_group_lasso as sparse_group_lasso,
    ternary as ternary,
    tied_group_lasso as tied_group_lasso,
    top_k as top_k,
)
from rmda_jax.schedules import (
    budget as budget,
    parq_annealing as parq_annealing,
    stages as stages,
)
from rmda_jax.specs import RegularizerMap as RegularizerMap
from rmda_jax.transforms import (
    HealState as HealState,
    LatentState as LatentState,
    ProxAdamState as ProxAdamState,
    ProxSGDAdaptiveState as ProxSGDAdaptiveState,
    ProxSGDState as ProxSGDState,
    RAMDAState as RAMDAState,
    RigLState as RigLState,
    RMDAState as RMDAState,
    Suggestion as Suggestion,
    aprox as aprox,
    collapse_gates as collapse_gates,
    gate_params as gate_params,
    gate_penalty as gate_penalty,
    heal as heal,
    latent as latent,
    linbreg as linbreg,
    normal_map as normal_map,
    proxgen as proxgen,
    proxsgd as proxsgd,
    proxsgd_adaptive as proxsgd_adaptive,
    proxssi as proxssi,
    ramda as ramda,
    rigl as rigl,
    rigl_params as rigl_params,
    rmda as rmda,
    structured_params as structured_params,
    structured_support as structured_support,
    suggest_strength as suggest_strength,
)
