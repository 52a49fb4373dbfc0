"""REMOVE: hidden units that are zero, found by tracing (`trace`)."""

from rmda_jax.shrink._trace import (
    Couplings as Couplings,
    Member as Member,
    Units as Units,
    trace as trace,
)
