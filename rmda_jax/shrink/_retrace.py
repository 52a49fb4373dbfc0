"""Does a function follow when its params are sliced? It is traced on the small shapes.

A function may keep sizes of its own: a number of heads, of groups of a normalization.
Where it infers the other sizes from its params, it runs on small ones as well, with
values that are wrong. The jaxpr of the small function tells: some equation has another
shape than the axes of the old one foresee.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from rmda_jax._types import Params, Shape, shape_dtype_of
from rmda_jax.shrink._trace import Traced
from rmda_jax.shrink.interpret._axes import AxisValue, EqnAxes
from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    UnitMasks,
    atoms_of,
    length,
    removed_along,
)
from rmda_jax.shrink.interpret._interpreter import Path, line_of


@dataclasses.dataclass(frozen=True)
class Conflict:
    """An equation of a function that does not follow when its params are sliced.

    Attributes:
      primitive: Of the equation.
      where: File and line that made it, or that of the primitive's caller in a library.
      foreseen: Shape that it must have for the function to be unchanged; None stands
        for an axis along which all values are the same, of whatever length.
      found: Shape that it has when the function is traced on the sliced params.
      units: A leaf and an axis of each group of units behind it that loses some.
    """

    primitive: str
    where: str
    foreseen: tuple[int | None, ...]
    found: Shape
    units: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        foreseen = str(self.foreseen).replace("None", "any")
        place = f" at {self.where}" if self.where else ""
        return f"{self.primitive}{place}: {foreseen} foreseen, {self.found} found"

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """The lengths of axes that differ, as (found, foreseen)."""
        if len(self.found) != len(self.foreseen):
            return set()
        pairs = zip(self.found, self.foreseen, strict=True)
        return {(a, b) for a, b in pairs if b is not None and a != b}


class Retrace(NamedTuple):
    """The jaxpr of a function on small params, and why it refuses them, if so."""

    closed: Any
    error: str  # what the function raises on small params; "" if it runs


def retrace(
    fn: Callable[..., Any], params: Params, shapes: Sequence[Shape], *inputs: Any
) -> Retrace:
    """Trace ``fn(params, *inputs)`` with leaves of other shapes.

    Linen and Haiku compare the shapes of params with those that they would initialize,
    and raise. Then the function is traced with arrays that pass for those.

    Args:
      fn: The function.
      params: Its params, arrays of the old shapes.
      shapes: The new shapes, in flattening order.
      *inputs: Its inputs.

    Raises:
      Exception: whatever the function raises, if it refuses those, too.
    """
    leaves, treedef = jax.tree.flatten(params)
    specs = [(old, shape_dtype_of(x)[1]) for old, x in zip(shapes, leaves, strict=True)]
    small = treedef.unflatten([jax.ShapeDtypeStruct(*spec) for spec in specs])
    try:
        return Retrace(jax.make_jaxpr(fn)(small, *inputs), "")
    except Exception as exception:  # whatever a function raises on other sizes
        refusal = exception

    def disguised(params: Params, *inputs: Any) -> Any:
        for x, old in zip(jax.tree.leaves(params), leaves, strict=True):
            if x.shape != shape_dtype_of(old)[0]:
                _disguise(x, shape_dtype_of(old)[0])
        return fn(params, *inputs)

    try:
        closed = jax.make_jaxpr(disguised)(small, *inputs)
    except Exception:
        raise refusal from None
    return Retrace(closed, describe(refusal))


def describe(error: Exception) -> str:
    """Return the kind of an exception and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def conflicts(found: Traced, small: Any, removed: UnitMasks) -> tuple[Conflict, ...]:
    """Return the equations of a small jaxpr that have an unforeseen shape.

    Those that follow from others are left out: their operands are not as foreseen.

    Args:
      found: The trace of the function on the old shapes.
      small: Its jaxpr on the small ones.
      removed: The units that were removed.
    """
    compare = _Comparison(found, removed)
    return tuple(compare.jaxprs(found.closed.jaxpr, small.jaxpr, ()))


class _Comparison(NamedTuple):
    trace: Traced
    removed: UnitMasks

    def jaxprs(self, old: Any, new: Any, path: Path) -> Iterator[Conflict]:
        """Yield the conflicts of two jaxprs, the first in the order of the program."""
        for a, b in _aligned(old.eqns, new.eqns):
            here, several = (*path, id(a)), False
            for x, y in zip(_inner(a), _inner(b), strict=False):
                for conflict in self.jaxprs(x, y, here):
                    several = True
                    yield conflict
            # A call has the shapes of its last equations: those are named, not it.
            if not several and here in self.trace.axes.eqns:
                yield from self.equations(self.trace.axes.eqns[here], b)

    def equations(self, old: EqnAxes, new: Any) -> Iterator[Conflict]:
        """Yield the conflict that arises at one equation, if any."""
        # Constants that a call closes over may differ in number: nothing to compare.
        if len(old.operands) != len(new.invars):
            return
        # The first equation that goes wrong is named, not those that follow from it.
        for operand, var in zip(old.operands, new.invars, strict=True):
            if not _fits(_shape(var), self.foreseen(operand)):
                return
        for result, var in zip(old.results, new.outvars, strict=False):
            shape, foreseen = _shape(var), self.foreseen(result)
            if not _fits(shape, foreseen):
                name, where = old.eqn.primitive.name, line_of(new) or line_of(old.eqn)
                yield Conflict(name, where, foreseen, shape, self.units(result))
                return

    def foreseen(self, value: AxisValue) -> tuple[int | None, ...]:
        """Return the lengths of the axes of a value that stay, None where any may."""
        return tuple(self._length(axis) for axis in value.axes)

    def units(self, value: AxisValue) -> tuple[tuple[str, int], ...]:
        """Return a leaf and an axis of each group that loses units of a value."""
        atoms = {atom for axis in value.axes for atom, _ in atoms_of(axis)}
        cut = [a for a, units in self.removed.items() if a in atoms and units.any()]
        members = [self.trace.units[atom].members[0] for atom in cut]
        return tuple((member.leaf, member.axis) for member in members)

    def _length(self, axis: Axis) -> int | None:
        size = length(axis)
        # A uniform dim has whatever length the function gives it.
        if size > 1 and any(index_set is None for index_set, _ in axis):
            return None
        return int((~removed_along(axis, self.removed)).sum())


def _aligned(old: Sequence[Any], new: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Pair the equations of two jaxprs of one function, in order.

    They differ where JAX leaves out what does nothing: a broadcast from 1 to 1.
    """
    label = lambda eqn: (eqn.primitive.name, eqn.params.get("name"))
    names = [[label(eqn) for eqn in eqns] for eqns in (old, new)]
    if names[0] == names[1]:
        yield from zip(old, new, strict=True)
        return
    # The longest runs of equal names: what is in one jaxpr only has no counterpart.
    matcher = difflib.SequenceMatcher(None, *names, autojunk=False)
    for i, j, n in matcher.get_matching_blocks():
        yield from zip(old[i : i + n], new[j : j + n], strict=True)


def _inner(eqn: Any) -> Iterator[Any]:
    """Yield the jaxprs that an equation calls."""
    for param in eqn.params.values():
        for x in param if isinstance(param, tuple | list) else (param,):
            x = getattr(x, "jaxpr", x)
            if hasattr(x, "eqns"):
                yield x


def _fits(shape: Shape, foreseen: tuple[int | None, ...]) -> bool:
    return len(shape) == len(foreseen) and all(
        n is None or length == n for length, n in zip(shape, foreseen, strict=True)
    )


def _shape(var: Any) -> Shape:
    return tuple(getattr(var.aval, "shape", ()))


class _EitherShape(tuple):
    """The small shape of an array, which compares equal to the old one as well."""

    old: Shape

    def __new__(cls, small: Shape, old: Shape) -> "_EitherShape":
        shape = super().__new__(cls, small)
        shape.old = old
        return shape

    def __eq__(self, other: object) -> bool:
        return other == tuple(self) or other == self.old

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


def _disguise(x: Any, old: Shape) -> None:
    """Let a tracer pass for one of the old shape where shapes are compared.

    It becomes an instance of a subclass of its own class. An array-like object of our
    own would not do: the compiled functions of JAX take none in place of a tracer.
    """
    shape = _EitherShape(x.shape, old)
    members = {"__slots__": (), "shape": property(lambda self: shape)}
    x.__class__ = type("Disguised", (type(x),), members)
