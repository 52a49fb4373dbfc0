"""Which axes index the same units: a jaxpr interpreted with axes in place of arrays.

Every array has axes of index sets (see `_index_sets`). The rule of a primitive unifies
the index sets of its operands and says which of them its results have. A primitive
without a rule needs all axes whole, which freezes their index sets, with its name as
the reason; but see `AxisInterpreter.for_program`.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

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
    """The axes of an array, and what it is computed from.

    Attributes:
      axes: Its axes.
      leaf: The name of the leaf that it is, or is a view of; None for other arrays.
      weights: The leaves that it is computed from, if from these alone, as a kernel
        that is put together before use; None if it may depend on an input.
    """

    axes: tuple[Axis, ...]
    leaf: str | None = None
    weights: frozenset[str] | None = None


class Role(NamedTuple):
    """What a leaf does to an index set.

    Attributes:
      leaf: The name of the leaf.
      index_set: Along one of its axes.
      name: produces, scales, shifts, consumes, or that of a primitive.
      stage: In an equation that has an input, or what depends on one, a leaf acts
        ``"alone"``, or as a part of what leaves are put together to, ``"in a kernel"``.
        In an equation of leaves alone it is ``"building"`` something of them: a kernel,
        or a state that the network starts with.
    """

    leaf: str
    index_set: IndexSet
    name: str
    stage: Literal["alone", "in a kernel", "building"]


class EqnAxes(NamedTuple):
    """An equation with the axes of its operands and results."""

    eqn: Any
    operands: tuple[AxisValue, ...]
    results: tuple[AxisValue, ...]


class Recomputation(NamedTuple):
    """What gives an operand anew, at full size along one of its axes.

    Attributes:
      eqns: The equations to run, the first ones first.
      reads: The operands of theirs whose values at removed positions must be known.
    """

    eqns: tuple[Path, ...]
    reads: tuple[tuple[Path, int], ...]


CONSTANT = "a constant array: pass it in params"
SCAN = "scan"  # layers: they go only where they are the identity


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
      recomputed: What gives an operand that is read whole anew, where there is such, by
        the path of the equation, the number of the operand and the axis.
      computed_whole: The axes that results of an equation have whole at first.
      constants: The axes of what a jaxpr closes over, by the equation that calls it.
      outputs: The axes of the outputs of a jaxpr, by the equation that calls it.
      layers: The axis that a scan goes along, by its equation.
    """

    def __init__(self, for_program: bool = False) -> None:
        super().__init__()
        self.for_program = for_program
        self.roles: list[Role] = []
        self._of_leaves_alone = False  # whether the equation has no input
        self.eqns: dict[Path, EqnAxes] = {}
        self.read_whole: dict[Path, dict[int, list[int]]] = {}
        self.recomputed: dict[tuple[Path, int, int], Recomputation] = {}
        self._sources: dict[tuple[Path, int], Path] = {}
        self.computed_whole: dict[Path, list[Axis]] = {}
        self.constants: dict[tuple[Path, int], list[AxisValue]] = {}
        self.outputs: dict[tuple[Path, int], list[AxisValue]] = {}
        self.layers: dict[Path, Axis] = {}

    def record_role(self, value: AxisValue, axes: Sequence[int], role: str) -> None:
        """Record what leaves do to the index sets along some axes of an array."""
        if value.leaf is not None:
            leaves = {value.leaf}
            stage = "building" if self._of_leaves_alone else "alone"
        elif value.weights and not self._of_leaves_alone:
            leaves, stage = value.weights, "in a kernel"
        else:
            return
        self.roles += [
            Role(leaf, index_set, role, stage)
            for leaf in sorted(leaves)
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
        axes = tuple(self.fresh(n, CONSTANT) for n in np.shape(x))
        return AxisValue(axes, weights=frozenset())

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
        weights = [x.weights for x in operands if x.weights is not None]
        alone = self._of_leaves_alone = len(weights) == len(operands)
        results = tuple(rule(self, eqn, *operands))
        if alone:
            together = frozenset().union(*weights)
            results = tuple(
                dataclasses.replace(x, weights=together) if x.weights is None else x
                for x in results
            )
        self.eqns[self.path] = EqnAxes(eqn, operands, results)
        for var in eqn.outvars:
            self._sources[self.path[:-1], id(var)] = self.path
        return results

    def source(self, path: Path, number: int) -> Path | None:
        """Return the equation of the same jaxpr that made an operand of another."""
        var = self.eqns[path].eqn.invars[number]
        return self._sources.get((path[:-1], id(var)))

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
