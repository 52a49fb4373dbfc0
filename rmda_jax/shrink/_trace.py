"""Which axes of which leaves index the same hidden units, read off a jaxpr."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rmda_jax._types import Params
from rmda_jax.shrink import _control, _primitives
from rmda_jax.shrink._checks import check_call
from rmda_jax.shrink._flow import Flow, Value
from rmda_jax.shrink._spaces import Space, freeze, fresh
from rmda_jax.specs._names import leaf_names

_RULES = _primitives, _control  # importing them registers their rules


@dataclasses.dataclass(frozen=True)
class Member:
    """An axis of a leaf that a set of units indexes."""

    leaf: str
    axis: int
    positions: np.ndarray  # (units, k): where along the axis each unit lies
    roles: frozenset[str]  # produces, scales, shifts, consumes, ...


@dataclasses.dataclass(frozen=True)
class Units:
    """A set of units that can be cut one by one, from all of their members at once."""

    size: int
    members: tuple[Member, ...]
    frozen: frozenset[str]  # why none of them can be cut; empty if they can

    def __str__(self) -> str:
        why = f", frozen: {'; '.join(sorted(self.frozen))}" if self.frozen else ""
        lines = [f"{self.size} units{why}"]
        for m in self.members:
            roles = ", ".join(sorted(m.roles)) or "unused"
            lines.append(f"    {m.leaf}, axis {m.axis}: {roles}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Couplings:
    """All sets of units of a model, the largest first."""

    units: tuple[Units, ...]

    @property
    def free(self) -> tuple[Units, ...]:
        """Those that can be cut."""
        return tuple(units for units in self.units if not units.frozen)

    def find(self, leaf: str, axis: int) -> tuple[Units, ...]:
        """Return the sets that index an axis of a leaf, counted from the front."""
        return tuple(
            units
            for units in self.units
            if any((m.leaf, m.axis) == (leaf, axis) for m in units.members)
        )

    def keep(self, *units: Units, reason: str = "kept") -> "Couplings":
        """Return the couplings with some sets frozen, so that `plan` leaves them.

        ``couplings.keep(*couplings.find("query/kernel", 2))`` keeps a head dimension.
        """
        return Couplings(
            tuple(
                dataclasses.replace(u, frozen=u.frozen | {reason})
                if any(u is kept for kept in units)
                else u
                for u in self.units
            )
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self.units))


def trace(
    fn: Callable[..., Any], params: Params, *inputs: Any, **options: Any
) -> Couplings:
    """Find the hidden units of a function of params, from its jaxpr.

    Two axes index the same units if the function combines them index by index: the
    outputs of a layer, the bias and scale that act on them, the inputs of every layer
    that reads them, through reshapes, transposes, concatenations, residual sums, heads,
    gates, convolutions and scans over layers. Cutting one unit is to delete its
    positions from all members.

    What is not understood is not guessed: a primitive without a rule, a reduction over
    units (as in layer normalization), an input or an output of the function freeze the
    units that they touch, and are named.

    Args:
      fn: Pure function, called as ``fn(params, *inputs)``. It is traced, never run.
      params: Pytree of arrays or `jax.ShapeDtypeStruct`.
      *inputs: Pytrees of the same kinds.
      **options: Given to ``fn`` as they are.

    Returns:
      The couplings. Axes of length 1 are in none.

    Raises:
      TypeError: ``fn`` is a module instead of a function of its params, or a leaf of
        ``params`` is no array; the message says what to do in which framework.
      ValueError: ``params`` hold no arrays.
      Exception: whatever ``fn`` raises.

    Examples:
      >>> from rmda_jax import shrink
      >>> def mlp(params, x):
      ...     h = jax.nn.relu(x @ params["in"] + params["bias"])
      ...     return h @ params["out"]
      >>> shapes = {"in": (4, 8), "bias": (8,), "out": (8, 3)}
      >>> params = {name: jnp.ones(shape) for name, shape in shapes.items()}
      >>> print(shrink.trace(mlp, params, jnp.ones((2, 4))).free[0])
      8 units
          bias, axis 0: shifts
          in, axis 1: produces
          out, axis 0: consumes
    """
    return Couplings(tuple(traced(fn, params, *inputs, **options).units.values()))


class Traced(NamedTuple):
    """A trace: the jaxpr, its leaves, and the units that stand for spaces."""

    closed: Any
    names: list[str]
    flow: Flow
    units: dict[Space, Units]  # the largest first


def traced(
    fn: Callable[..., Any], params: Params, *inputs: Any, **options: Any
) -> Traced:
    """Follow the axes of a function of params; the arguments are those of `trace`."""
    check_call(fn, params, inputs)
    closed = jax.make_jaxpr(lambda p, *x: fn(p, *x, **options))(params, *inputs)
    names = leaf_names(params)
    specs = [x.aval for x in closed.jaxpr.invars]
    values = []
    for i, spec in enumerate(specs):
        leaf = names[i] if i < len(names) else None
        reason = None if leaf else "an input"
        values.append(Value(tuple(fresh(n, reason) for n in spec.shape), leaf))
    flow = Flow()
    for value in flow.closed(closed, values):
        for axis in value.axes:
            freeze(axis, "an output")
    return Traced(closed, names, flow, _collect(values[: len(names)], flow))


def _collect(leaves: list[Value], flow: Flow) -> dict[Space, Units]:
    roles = defaultdict(set)
    for leaf, space, role in flow.roles:
        for atom, _ in space.atoms():
            roles[leaf, atom].add(role)
    found: dict[Space, dict[tuple[str, int], list[np.ndarray]]] = {}
    for value in leaves:
        for i, axis in enumerate(value.axes):
            for space, _ in axis:
                if space is None:
                    continue
                for atom, positions in space.atoms():
                    places = found.setdefault(atom, {})
                    places.setdefault((value.leaf or "", i), []).append(positions)
    units = {
        atom: Units(
            atom.size,
            tuple(
                Member(
                    leaf,
                    axis,
                    np.sort(np.concatenate(positions, axis=1), axis=1),
                    frozenset(roles[leaf, atom]),
                )
                for (leaf, axis), positions in sorted(places.items())
            ),
            frozenset(atom.reasons),
        )
        for atom, places in found.items()
    }
    return dict(sorted(units.items(), key=lambda item: -item[1].size))
