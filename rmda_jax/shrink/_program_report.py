"""What the equations of a program cost, beside those of the function."""

import math
from collections.abc import Container, Iterator
from typing import NamedTuple

from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._recomputed import entries_anew
from rmda_jax.shrink.interpret._small import SmallInterpreter


class ProgramEquation(NamedTuple):
    """An equation of a program that touches units which are removed.

    Attributes:
      primitive: Of the equation.
      where: File and line that made it; "" if not known.
      before: The entries of its operands and results in the function.
      after: Those in the program.
      whole: Whether it runs at its old size along an axis that is smaller elsewhere.
      fixed: Whether it reads values of removed units that follow from params which
        stay: they are those of the params that were planned, also in training.
    """

    primitive: str
    where: str
    before: int
    after: int
    whole: bool
    fixed: bool

    @property
    def label(self) -> str:
        """The primitive, with file and line."""
        return f"{self.primitive} at {self.where}" if self.where else self.primitive


def equations_of(
    small: SmallInterpreter, fixed: Container[Path]
) -> Iterator[ProgramEquation]:
    """Yield what the equations with removed units cost, the most first.

    Args:
      small: The interpreter of the small arrays.
      fixed: The equations that read values which follow from params that stay.
    """
    callers = {path[:-1] for path in small.axes.eqns}
    paths = [p for p in small.axes.eqns if p in small.touched and p not in callers]
    rows = (_equation(small, path, path in fixed) for path in paths)
    yield from sorted(rows, key=lambda x: -x.after)


def _equation(small: SmallInterpreter, path: Path, fixed: bool) -> ProgramEquation:
    """Return what one equation costs."""
    eqn, operands, results = small.axes.eqns[path]
    is_taken = any(map(small.is_cut, small.axes.computed_whole.get(path, [])))
    shapes = [list(small.shape(value)) for value in (*operands, *results)]
    before = [small.old_shape(value) for value in (*operands, *results)]
    readings = {i: x for i, x in small.readings(path).items() if not x.is_neutral}
    for number, reading in readings.items():
        for i in reading.places:
            shapes[number][i] = before[number][i]
    anew = sum(entries_anew(small, reading) for reading in readings.values())
    if is_taken:
        shapes[len(operands) :] = map(list, before[len(operands) :])
    return ProgramEquation(
        eqn.primitive.name,
        small.axes.line(path),
        sum(map(math.prod, before)),
        sum(map(math.prod, shapes)) + anew,
        bool(readings) or is_taken,
        fixed,
    )
