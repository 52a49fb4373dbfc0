"""HOW to train: one algorithm per file, each an `optax.GradientTransformation`."""

from rmda_jax.transforms._adam import AdamState as AdamState
from rmda_jax.transforms._proxgen import proxgen as proxgen
from rmda_jax.transforms._proxsgd import (
    ProxSGDState as ProxSGDState,
    proxsgd as proxsgd,
)
from rmda_jax.transforms._proxsgd_adaptive import (
    ProxSGDAdaptiveState as ProxSGDAdaptiveState,
    proxsgd_adaptive as proxsgd_adaptive,
)
from rmda_jax.transforms._proxssi import proxssi as proxssi
from rmda_jax.transforms._ramda import RAMDAState as RAMDAState, ramda as ramda
from rmda_jax.transforms._rigl import (
    RigLState as RigLState,
    masked_params as masked_params,
    rigl as rigl,
)
from rmda_jax.transforms._rmda import RMDAState as RMDAState, rmda as rmda
from rmda_jax.transforms._structured import (
    structured_params as structured_params,
    structured_support as structured_support,
)
