r"""Groups of units whose number the function computes with, as attention does.

A jaxpr holds the number :math:`1/\sqrt d`, not where it comes from. If the function can
be traced on smaller params, the numbers of the two jaxprs tell: these change.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from rmda_jax.shrink.interpret._axes import AxisInterpreter
from rmda_jax.shrink.interpret._index_sets import IndexSet, atoms_of

TOLERANCE = 1e-5


def width_dependent(
    closed: Any,
    retrace: Callable[[list[IndexSet]], Any],
    axes: AxisInterpreter,
    atoms: list[IndexSet],
) -> list[IndexSet]:
    """Return the atoms whose number of units the function computes with.

    Args:
      closed: The jaxpr.
      retrace: From some of the atoms to the jaxpr without their removed units.
      axes: The interpreter that found the axes of the jaxpr.
      atoms: Those of which units are to be removed.

    Returns:
      The atoms that the numbers of the jaxpr depend on. If the function cannot be
      traced with fewer units, because it keeps sizes of its own: the atoms that are
      summed over between two activations, if a number of the jaxpr is a power of their
      size, as a scale is.
    """
    numbers = Counter(_scalars(closed))

    def unchanged(some: list[IndexSet]) -> bool:
        return Counter(_scalars(retrace(some))) == numbers

    try:
        # All at once first: mostly no number depends on any.
        if not atoms or unchanged(atoms):
            return []
        return [atom for atom in atoms if not unchanged([atom])]
    except Exception:  # whatever a function raises on arrays of other sizes
        between = _between_activations(axes)
        return [a for a in atoms if a in between and _is_a_scale(numbers, a.size)]


def _scalars(closed: Any) -> Iterator[float]:
    """Yield the floating-point scalars of a jaxpr."""
    for x in closed.consts:
        yield from _scalar(x)
    yield from _scalars_of_eqns(closed.jaxpr)


def _scalars_of_eqns(jaxpr: Any) -> Iterator[float]:
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            if isinstance(atom, core.Literal):
                yield from _scalar(atom.val)
        for param in eqn.params.values():
            for x in param if isinstance(param, tuple | list) else (param,):
                if hasattr(x, "jaxpr") and hasattr(x, "consts"):
                    yield from _scalars(x)
                elif hasattr(x, "eqns"):
                    yield from _scalars_of_eqns(x)


def _scalar(x: Any) -> Iterator[float]:
    if np.shape(x) == () and jnp.issubdtype(getattr(x, "dtype", type(x)), np.floating):
        if not math.isnan(x):  # NaN would differ from itself
            yield float(x)


def _between_activations(axes: AxisInterpreter) -> set[IndexSet]:
    """Return the atoms that a contraction of two activations sums over."""
    found = set()
    for eqn, operands, _ in axes.eqns.values():
        if eqn.primitive.name == "dot_general" and not any(x.leaf for x in operands):
            for i in eqn.params["dimension_numbers"][0][0]:
                found |= {atom for atom, _ in atoms_of(operands[0].axes[i])}
    return found


def _is_a_scale(numbers: Counter[float], size: int) -> bool:
    """Return whether one of the numbers is a scale by a width, as 1/sqrt(d) is."""
    scales = [size**power for power in (-1.0, -0.5, 0.5, 1.0)]
    return any(
        math.isclose(x, scale, rel_tol=TOLERANCE) for x in numbers for scale in scales
    )
