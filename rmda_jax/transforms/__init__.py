"""HOW to train: one algorithm per file, each an `optax.GradientTransformation`."""

from rmda_jax.transforms._rmda import RMDAState as RMDAState, rmda as rmda
from rmda_jax.transforms._structured import (
    structured_params as structured_params,
    structured_support as structured_support,
)
