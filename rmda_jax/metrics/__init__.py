"""MEASURE: sparsity, rank, identification and optimality; all jit-able."""

from rmda_jax.metrics._identification import (
    nondegeneracy_margin as nondegeneracy_margin,
    stable_since as stable_since,
    stationarity as stationarity,
    support_distance as support_distance,
    support_stable_since as support_stable_since,
)
from rmda_jax.metrics._sparsity import (
    group_sparsity as group_sparsity,
    rank as rank,
    sparsity as sparsity,
)
