r"""Sets of units whose number a function computes with, as attention does.

A jaxpr holds the number :math:`1/\sqrt d`, not where it comes from. If the function can
be traced on smaller params it tells: the numbers change.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from rmda_jax.shrink._flow import Flow
from rmda_jax.shrink._removal import places
from rmda_jax.shrink._spaces import Space

TOLERANCE = 1e-5


def counting(
    closed: Any,
    retrace: Callable[[list[Space]], Any],
    flow: Flow,
    cut: list[Space],
) -> list[Space]:
    """Return the sets among those to be cut whose number the function depends on.

    Args:
      closed: The jaxpr.
      retrace: From sets that are cut to the jaxpr on what is left.
      flow: How axes flow through the jaxpr.
      cut: The sets of which units go.

    Returns:
      Those that the numbers of the jaxpr depend on. If it has sizes of its own, so that
      it cannot be traced anew: those summed over between two activations, if a number
      looks like a scale by theirs.
    """
    numbers = Counter(_numbers(closed))

    def unchanged(sets: list[Space]) -> bool:
        return Counter(_numbers(retrace(sets))) == numbers

    try:
        if not cut or unchanged(cut):
            return []
        return [atom for atom in cut if not unchanged([atom])]
    except Exception:  # whatever a function raises on arrays of other sizes
        return [
            atom
            for atom in cut
            if atom in _between_activations(flow) and _scales(numbers, atom.size)
        ]


def _numbers(closed: Any) -> Iterator[float]:
    """Yield the floating-point scalars of a jaxpr."""
    for x in closed.consts:
        yield from _number(x)
    yield from _inner(closed.jaxpr)


def _inner(jaxpr: Any) -> Iterator[float]:
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            if isinstance(atom, core.Literal):
                yield from _number(atom.val)
        for param in eqn.params.values():
            for x in param if isinstance(param, tuple | list) else (param,):
                if hasattr(x, "jaxpr") and hasattr(x, "consts"):
                    yield from _numbers(x)
                elif hasattr(x, "eqns"):
                    yield from _inner(x)


def _number(x: Any) -> Iterator[float]:
    if np.shape(x) == () and jnp.issubdtype(getattr(x, "dtype", type(x)), np.floating):
        if not math.isnan(x):  # which is never the same as before
            yield float(x)


def _between_activations(flow: Flow) -> set[Space]:
    found = set()
    for seen in flow.seen.values():
        if seen.eqn.primitive.name == "dot_general" and not any(
            x.leaf for x in seen.operands
        ):
            for i in seen.eqn.params["dimension_numbers"][0][0]:
                found |= {atom for atom, _ in places(seen.operands[0].axes[i])}
    return found


def _scales(numbers: Counter[float], size: int) -> bool:
    scales = [size**power for power in (-1.0, -0.5, 0.5, 1.0)]
    return any(
        math.isclose(x, scale, rel_tol=TOLERANCE) for x in numbers for scale in scales
    )
