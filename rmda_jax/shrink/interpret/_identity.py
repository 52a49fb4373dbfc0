"""Which layers of a scan are the identity: they return the carry that they are given.

So does a block of a residual network whose last kernels are zero: x + 0 = x. The body
of the scan is evaluated for one layer, with a carry of which nothing need be known, and
arrays remember which entries of the carry they are copies of. A sum with zeros is one.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    with_provenance,
)


def unchanged_by(
    body: Any,
    consts: Sequence[PartialValue],
    carry: Sequence[PartialValue],
    rows: Sequence[PartialValue],
) -> np.ndarray:
    """Return which iterations of a scan return the carry, whatever it is.

    Args:
      body: The closed jaxpr of one iteration.
      consts: What is known of what every iteration reads.
      carry: What is known of the carry at the start of every iteration.
      rows: What is known of the arrays that are scanned over, along their first axis.
    """
    length = len(rows[0].value) if rows else 0
    if not carry:
        return np.ones(length, bool)
    found = np.zeros(length, bool)
    # A layer that does nothing has zeros among its params: others are not tried.
    zero = [x.zero.reshape(length, -1).all(axis=1) for x in rows if x.value.size]
    for i in np.flatnonzero(np.any(zero, axis=0)) if zero else ():
        layer = [x.move(lambda y, i=i: y[i]) for x in rows]
        found[i] = _is_identity(body, consts, carry, layer)
    return found


def _is_identity(
    body: Any,
    consts: Sequence[PartialValue],
    carry: Sequence[PartialValue],
    layer: Sequence[PartialValue],
) -> bool:
    """Return whether one iteration returns all of the carry as it was."""
    # The numbers of the arrays of the carry stand for paths.
    start = [with_provenance(x, (number,)) for number, x in enumerate(carry)]
    copies = _CopyInterpreter([x.value.dtype for x in carry])
    out = copies.eval_closed_jaxpr(body, [*consts, *start, *layer])
    rows = zip(start, out, strict=False)
    return all(_is_copy(*row, (number,)) for number, row in enumerate(rows))


def _is_copy(before: PartialValue, after: PartialValue, source: Path) -> bool:
    """Return whether an array is all of an array of the carry, in its order."""
    if after.provenance is None or after.value.dtype != before.value.dtype:
        return False
    found, positions = after.provenance
    in_order = np.arange(before.value.size).reshape(before.value.shape)
    return found == source and np.array_equal(positions, in_order)


class _CopyInterpreter(ValueInterpreter):
    """Knows which arrays are copies of entries of the carry, by their provenance.

    Args:
      dtypes: Those of the arrays of the carry.
    """

    def __init__(self, dtypes: Sequence[Any]) -> None:
        super().__init__()
        self.dtypes = dtypes
        self.loop_depth = 1  # results of contractions are no sources

    def eval_eqn(self, eqn: Any, *operands: PartialValue) -> Sequence[PartialValue]:
        """Take a sum with zeros for the other operand."""
        name = eqn.primitive.name
        if name in ("add", "add_any", "sub"):
            x, y = operands
            if _is_all_of(eqn, x) and y.zero.all():
                return [x]
            if name != "sub" and _is_all_of(eqn, y) and x.zero.all():
                return [y]
        results = super().eval_eqn(eqn, *operands)
        if name == "convert_element_type" and operands[0].provenance is not None:
            (number,) = operands[0].provenance.source
            if not _holds_all(self.dtypes[int(number)], eqn.params["new_dtype"]):
                return [x._replace(provenance=None) for x in results]
        if name == "scan":
            n_carry = eqn.params["num_carry"]
            before = operands[eqn.params["num_consts"] :][:n_carry]
            if _all_unchanged(eqn, operands, results[:n_carry]):
                return [*before, *results[n_carry:]]
        return results


def _all_unchanged(
    eqn: Any, operands: Sequence[PartialValue], carry: Sequence[PartialValue]
) -> bool:
    """Return whether all iterations of a scan are the identity."""
    n_consts = eqn.params["num_consts"]
    rows = operands[n_consts + len(carry) :]
    found = unchanged_by(eqn.params["jaxpr"], operands[:n_consts], carry, rows)
    return found.size > 0 and bool(found.all())


def _is_all_of(eqn: Any, x: PartialValue) -> bool:
    """Return whether an operand, a copy, has the shape of the result."""
    return x.provenance is not None and x.value.shape == eqn.outvars[0].aval.shape


def _holds_all(old: Any, new: Any) -> bool:
    """Return whether all numbers of a dtype are numbers of another."""
    are_floats = all(jnp.issubdtype(x, jnp.floating) for x in (old, new))
    return old == new or (are_floats and jnp.promote_types(old, new) == new)
