"""The barrier that makes XLA compute something again instead of storing it."""

from typing import Any

import jax
from jax import lax


def recomputed(*operands: Any) -> Any:
    """Return the operands, which XLA:CPU cannot tell from new ones.

    What is computed from them is then computed anew, inside the pass that uses it.
    Without it XLA:CPU shares the first result and writes it out, as large as the
    weights. The compilers for GPU and TPU compute it again by themselves, and a barrier
    would only keep apart what they fuse: there is none.
    docs/performance.md ("Computed twice, stored never") has the measurements.
    """
    out = _behind_a_barrier_on_cpu(*operands)
    return out if len(operands) > 1 else out[0]


# Under `jit`, so that a program holds it once for all leaves of the same shape.
@jax.jit
def _behind_a_barrier_on_cpu(*operands: Any) -> tuple[Any, ...]:
    return lax.platform_dependent(*operands, cpu=_behind_a_barrier, default=_unchanged)


def _behind_a_barrier(*operands: Any) -> tuple[Any, ...]:
    return lax.optimization_barrier(operands)


def _unchanged(*operands: Any) -> tuple[Any, ...]:
    return operands
