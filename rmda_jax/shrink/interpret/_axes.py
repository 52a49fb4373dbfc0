"""Which axes index the same units: a jaxpr interpreted with axes in place of arrays.

Every array has axes of index sets (see `_index_sets`). The rule of a primitive unifies
the index sets of its operands and says which of them its results have. A primitive
without a rule freezes all index sets that it touches, with its name as the reason.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rmda_jax.shrink.interpret._index_sets import Axis, IndexSet, freeze, fresh, unify
from rmda_jax.shrink.interpret._interpreter import RULES, Interpreter, Path


@dataclasses.dataclass(frozen=True)
class AxisValue:
    """The axes of an array, and the name of the leaf that it is (a view of)."""

    axes: tuple[Axis, ...]
    leaf: str | None = None


class EqnAxes(NamedTuple):
    """An equation with the axes of its operands and results."""

    eqn: Any
    operands: tuple[AxisValue, ...]
    results: tuple[AxisValue, ...]


CONSTANT = "a constant array: pass it in params"


class AxisInterpreter(Interpreter[AxisValue]):
    """Finds the axes of all arrays, and records what the leaves do to index sets."""

    def __init__(self) -> None:
        super().__init__()
        self.roles: list[tuple[str, IndexSet, str]] = []
        self.eqns: dict[Path, EqnAxes] = {}

    def record_role(self, value: AxisValue, axes: Sequence[int], role: str) -> None:
        """Record what a leaf does to the index sets along some of its axes."""
        if value.leaf is not None:
            self.roles += [
                (value.leaf, index_set, role)
                for i in axes
                for index_set, _ in value.axes[i]
                if index_set is not None
            ]

    def constant(self, x: Any) -> AxisValue:
        """Return the axes of an array that the function closes over: frozen.

        Its length is not that of any param: it stays the same when the params become
        smaller. An array that the function makes of a scalar, as `jax.numpy.zeros`
        does, is not a constant of the jaxpr: it is broadcast.
        """
        return AxisValue(tuple(fresh(n, CONSTANT) for n in np.shape(x)))

    def eval_eqn(self, eqn: Any, *operands: AxisValue) -> Sequence[AxisValue]:
        """Apply the primitive's rule of axes, and keep what it returns."""
        rules = RULES.get(eqn.primitive.name)
        rule = freeze_all if rules is None else rules.axes
        results = tuple(rule(self, eqn, *operands))
        self.eqns[self.path] = EqnAxes(eqn, operands, results)
        return results

    def eval_unsupported(self, eqn: Any, *operands: AxisValue) -> Sequence[AxisValue]:
        """Freeze everything."""
        return freeze_all(self, eqn, *operands)


def unified_axes(values: Sequence[AxisValue]) -> list[Axis]:
    """Unify arrays of one shape, axis by axis, and return the axes of all."""
    axes = list(values[0].axes)
    for value in values[1:]:
        axes = [unify(a, b) for a, b in zip(axes, value.axes, strict=True)]
    return axes


def freeze_all(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Freeze all operands: the rule of a primitive that is not understood."""
    del interpreter
    name = eqn.primitive.name
    for operand in operands:
        for axis in operand.axes:
            freeze(axis, name)
    return [
        AxisValue(tuple(fresh(n, name) for n in getattr(out.aval, "shape", ())))
        for out in eqn.outvars
    ]
