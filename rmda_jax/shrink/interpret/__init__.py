"""Interpreters of jaxprs: which axes index the same units, and which values are known.

To import the rules is to register them.
"""

from rmda_jax.shrink.interpret import (
    contractions as contractions,
    control_flow as control_flow,
    elementwise as elementwise,
    indexing as indexing,
    reductions as reductions,
    shapes as shapes,
)
