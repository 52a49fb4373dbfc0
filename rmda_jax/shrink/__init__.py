"""REMOVE: hidden units that are zero, found by tracing (`trace`, `plan`, `apply`)."""

from rmda_jax.shrink._apply import apply as apply
from rmda_jax.shrink._factors import factors as factors
from rmda_jax.shrink._files import load as load, save as save
from rmda_jax.shrink._module import slice_module as slice_module
from rmda_jax.shrink._plan import Cut as Cut, Plan as Plan, plan as plan
from rmda_jax.shrink._report import (
    Change as Change,
    Layer as Layer,
    Report as Report,
    report as report,
)
from rmda_jax.shrink._retrace import Conflict as Conflict
from rmda_jax.shrink._spec import spec as spec
from rmda_jax.shrink._trace import (
    Couplings as Couplings,
    Member as Member,
    Units as Units,
    trace as trace,
)
from rmda_jax.shrink._verify import Difference as Difference, verify as verify
