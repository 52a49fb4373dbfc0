"""Interpreters of jaxprs: which axes index the same units, and which values are known.

`_interpreter` has the loop and the table of rules. `_axes`, on `_index_sets` and their
`_unification`, and `_values` have the two kinds of values. The other files have the
rules of primitives, by kind; to import them is to register their rules.
"""

from rmda_jax.shrink.interpret import (
    contractions as contractions,
    control_flow as control_flow,
    elementwise as elementwise,
    indexing as indexing,
    reductions as reductions,
    reshapes as reshapes,
    shapes as shapes,
    updates as updates,
)
