"""MEASURE: sparsity, rank, identification and optimality; all jit-able.

Every function takes first what it measures, and its parameter says what that is:
``params``, ``opt_state``, the support of one step (``support``) or the supports of many
(``supports``). Then come the regularizer, where one is needed, and options.
"""

from rmda_jax.metrics._identification import (
    margin as margin,
    stable_since as stable_since,
    stationarity as stationarity,
    support_distance as support_distance,
    update_stable_since as update_stable_since,
)
from rmda_jax.metrics._sparsity import (
    group_sparsity as group_sparsity,
    rank as rank,
    sparsity as sparsity,
)
from rmda_jax.metrics._summary import Summary as Summary, summary as summary
from rmda_jax.metrics._supported_size import (
    SupportedSize as SupportedSize,
    supported_size as supported_size,
)
