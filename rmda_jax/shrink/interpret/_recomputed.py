"""Operands that are computed anew where units are removed: x - mean(x), squared.

The variance of a layer normalization sums (x - m)**2. Where a unit of x is zero that is
m**2: no known value, for m depends on the inputs. But it follows from a known value,
and from what is the same for all units: a few equations, run at full size, give it.
"""

import math

from rmda_jax.shrink.interpret._axes import AxisInterpreter, Recomputation
from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    atoms_of,
    is_uniform,
    length,
)
from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._readings import Reading
from rmda_jax.shrink.interpret._small import SmallInterpreter

_ELEMENTWISE = frozenset(
    "abs neg sign floor ceil round exp exp2 log log1p expm1 tanh logistic sqrt rsqrt "
    "erf integer_pow square convert_element_type stop_gradient copy copy_p real imag "
    "add sub mul div max min pow add_any select_n eq ne lt le gt ge and or not".split()
)


def recomputation(
    axes: AxisInterpreter, path: Path, number: int, place: int
) -> Recomputation | None:
    """Return how to compute an operand of an equation anew, along one axis.

    From the operand back, through equations that compute each entry from those at the
    same position, to those which combine units with what all units share.

    Args:
      axes: The interpreter that followed the jaxpr.
      path: Of the equation that reads the operand.
      number: Of the operand.
      place: The axis along which units are removed.

    Returns:
      None if the operand is no such combination.
    """
    rank = len(axes.eqns[path].operands[number].axes)
    eqns: list[Path] = []
    reads: list[tuple[Path, int]] = []

    def visit(path: Path, number: int) -> bool:
        source = axes.source(path, number)
        if source in eqns:
            return True
        if source is None or axes.eqns[source].eqn.primitive.name not in _ELEMENTWISE:
            return False
        operands = {i: x for i, x in enumerate(axes.eqns[source].operands) if x.axes}
        if any(len(x.axes) != rank for x in operands.values()):
            return False
        shared = {i for i, x in operands.items() if is_uniform(x.axes[place])}
        own = [i for i in operands if i not in shared]
        # What depends on no input is known: only the others make a value unknown.
        mixes = any(operands[i].weights is None for i in shared)
        if mixes:
            reads.extend((source, i) for i in own)
        elif not all(visit(source, i) for i in own):
            return False
        eqns.append(source)
        return True

    if not visit(path, number):
        return None
    return Recomputation(tuple(eqns), tuple(reads))


def find_recomputations(axes: AxisInterpreter) -> None:
    """Find what operands that are read whole can be computed from."""
    for path, operands in axes.read_whole.items():
        for number, places in operands.items():
            along = axes.eqns[path].operands[number].axes
            free = [i for i in set(places) if _has_free_units(along[i])]
            if len(free) == 1:
                found = recomputation(axes, path, number, free[0])
                if found is not None:
                    axes.recomputed[path, number, free[0]] = found


def known_from(
    axes: AxisInterpreter, path: Path, number: int, places: list[int]
) -> list[tuple[Path, int]]:
    """Return the operands whose values tell those of one that is read whole."""
    found = (axes.recomputed.get((path, number, i)) for i in places)
    return [(path, number), *(read for x in found if x is not None for read in x.reads)]


def entries_anew(interpreter: SmallInterpreter, reading: Reading) -> int:
    """Return how many entries are computed for a reading, beside the small ones."""
    total = 0
    for path in reading.anew.eqns if reading.anew is not None else ():
        for value in interpreter.axes.eqns[path].results:
            shape = list(interpreter.shape(value))
            for place in reading.places:
                shape[place] = length(value.axes[place])
            total += math.prod(shape)
    return total


def _has_free_units(axis: Axis) -> bool:
    return any(not atom.reasons for atom, _ in atoms_of(axis))
