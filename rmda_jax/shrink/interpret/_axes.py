"""Which axes index the same units: a jaxpr interpreted with axes in place of arrays.

Every array has axes of index sets (see `_index_sets`). The rule of a primitive unifies
the index sets of its operands and says which of them its results have. A primitive
without a rule needs all axes whole, which freezes their index sets, with its name as
the reason; but see `AxisInterpreter.for_program`.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    IndexSet,
    freeze,
    fresh,
)
from rmda_jax.shrink.interpret._interpreter import RULES, Interpreter, Path, line_of
from rmda_jax.shrink.interpret._unification import digits_as_factors, unify


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
    """Finds the axes of all arrays, and records what the leaves do to index sets.

    Args:
      for_program: Whether the function will run as `SmallInterpreter` runs it. Then an
        equation that needs all positions along an axis gets them, if the values at the
        removed ones are known: its units need not be frozen.

    Attributes:
      roles: What leaves do to index sets.
      eqns: The axes of the operands and results of every equation.
      read_whole: The axes that an equation needs whole, by the number of its operand.
      computed_whole: The axes that results of an equation have whole at first.
      constants: The axes of what a jaxpr closes over, by the equation that calls it.
      outputs: The axes of the outputs of a jaxpr, by the equation that calls it.
    """

    def __init__(self, for_program: bool = False) -> None:
        super().__init__()
        self.for_program = for_program
        self.roles: list[tuple[str, IndexSet, str]] = []
        self.eqns: dict[Path, EqnAxes] = {}
        self.read_whole: dict[Path, dict[int, list[int]]] = {}
        self.computed_whole: dict[Path, list[Axis]] = {}
        self.constants: dict[tuple[Path, int], list[AxisValue]] = {}
        self.outputs: dict[tuple[Path, int], list[AxisValue]] = {}

    def record_role(self, value: AxisValue, axes: Sequence[int], role: str) -> None:
        """Record what a leaf does to the index sets along some of its axes."""
        if value.leaf is not None:
            self.roles += [
                (value.leaf, index_set, role)
                for i in axes
                for index_set, _ in value.axes[i]
                if index_set is not None
            ]

    def need_whole(
        self, number: int, value: AxisValue, places: Iterable[int], reason: str
    ) -> None:
        """Say that the equation needs all positions along axes of an operand."""
        for i in places:
            if self.for_program:
                digits_as_factors(value.axes[i])
                self.read_whole.setdefault(self.path, {}).setdefault(number, []).append(
                    i
                )
            else:
                freeze(value.axes[i], reason)

    def line(self, path: Path) -> str:
        """Return file and line of an equation, or of the innermost of its callers."""
        lines = [line_of(self.eqns[path[:i]].eqn) for i in range(len(path), 0, -1)]
        return next(filter(None, lines), "")

    def label(self, path: Path) -> str:
        """Return the primitive of an equation, and file and line."""
        name, where = self.eqns[path].eqn.primitive.name, self.line(path)
        return f"{name} at {where}" if where else name

    def fresh(self, size: int, reason: str) -> Axis:
        """Return an axis of a result that is computed whole; a program takes a part."""
        if not self.for_program:
            return fresh(size, reason)
        axis = fresh(size)
        self.computed_whole.setdefault(self.path, []).append(axis)
        return axis

    def constant(self, x: Any) -> AxisValue:
        """Return the axes of an array that the function closes over: frozen.

        Its length is not that of any param: it stays the same when the params become
        smaller. An array that the function makes of a scalar, as `jax.numpy.zeros`
        does, is not a constant of the jaxpr: it is broadcast.
        """
        return AxisValue(tuple(self.fresh(n, CONSTANT) for n in np.shape(x)))

    def eval_closed_jaxpr(
        self, closed: Any, args: Sequence[AxisValue]
    ) -> list[AxisValue]:
        """Return the axes of the outputs of a jaxpr, and keep them."""
        key = self.path, id(closed)
        self.constants[key] = [self.constant(x) for x in closed.consts]
        self.outputs[key] = self.eval_jaxpr(closed.jaxpr, self.constants[key], args)
        return self.outputs[key]

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
    name = eqn.primitive.name
    for i, operand in enumerate(operands):
        interpreter.need_whole(i, operand, range(len(operand.axes)), name)
    shapes = [getattr(out.aval, "shape", ()) for out in eqn.outvars]
    return [
        AxisValue(tuple(interpreter.fresh(n, name) for n in shape)) for shape in shapes
    ]
