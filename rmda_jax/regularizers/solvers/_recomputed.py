"""The barrier that makes XLA compute something again instead of storing it."""

from typing import Any

from jax import lax


def recomputed(*operands: Any) -> Any:
    """Return the operands, which XLA cannot tell from new ones.

    What is computed from them is then computed anew, inside the pass that uses it.
    Without it XLA shares the first result and writes it out, as large as the weights.
    docs/performance.md ("Computed twice, stored never") has the measurements.
    """
    out = lax.optimization_barrier(operands)
    return out if len(operands) > 1 else out[0]
