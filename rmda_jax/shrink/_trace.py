"""Which axes of which leaves index the same hidden units, read off a jaxpr."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rmda_jax._types import Params
from rmda_jax.shrink._checks import check_call
from rmda_jax.shrink.interpret._axes import SCAN, AxisInterpreter, AxisValue
from rmda_jax.shrink.interpret._index_sets import IndexSet, atoms_of, freeze, fresh
from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._recomputed import find_recomputations
from rmda_jax.specs._names import leaf_names


@dataclasses.dataclass(frozen=True)
class UnitMember:
    """An axis of a leaf that a group of units indexes."""

    leaf: str
    axis: int
    positions: np.ndarray  # (units, k): where along the axis each unit lies
    roles: frozenset[str]  # produces, scales, shifts, consumes, ...


@dataclasses.dataclass(frozen=True)
class UnitGroup:
    """Units that are removed one by one, each from all members of the group at once.

    DepGraph calls the members of a group coupled, or dependent.
    """

    size: int
    members: tuple[UnitMember, ...]
    # Why none can be removed; empty if they can. With "scan" alone they are layers, of
    # which `plan` removes those that are the identity.
    frozen: frozenset[str]

    @property
    def name(self) -> str:
        """The axes that the units lie along, three at the most."""
        names = [f"{m.leaf}[{m.axis}]" for m in self.members]
        return " ".join(names[:3]) + (" ..." if len(names) > 3 else "")

    @property
    def places(self) -> tuple[tuple[str, int, bytes], ...]:
        """Where the units lie: the same for groups that hold the same units."""
        return tuple((m.leaf, m.axis, m.positions.tobytes()) for m in self.members)

    def __str__(self) -> str:
        why = f", frozen: {'; '.join(sorted(self.frozen))}" if self.frozen else ""
        lines = [f"{self.size} units{why}"]
        for m in self.members:
            roles = ", ".join(sorted(m.roles)) or "unused"
            lines.append(f"    {m.leaf}, axis {m.axis}: {roles}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Couplings:
    """All groups of units of a model, the largest first."""

    units: tuple[UnitGroup, ...]

    @property
    def free(self) -> tuple[UnitGroup, ...]:
        """Those whose units can be removed."""
        return tuple(units for units in self.units if not units.frozen)

    def find(self, leaf: str, axis: int) -> tuple[UnitGroup, ...]:
        """Return the groups that index an axis of a leaf, counted from the front."""
        return tuple(
            units
            for units in self.units
            if any((m.leaf, m.axis) == (leaf, axis) for m in units.members)
        )

    def keep(self, *units: UnitGroup, reason: str = "kept") -> "Couplings":
        """Return the couplings with some groups frozen, so that `plan` leaves them.

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
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    for_program: bool = False,
    **options: Any,
) -> Couplings:
    """Find the hidden units of a function of params, from its jaxpr.

    Two axes index the same units if the function combines them index by index: the
    outputs of a layer, the bias and scale that act on them, the inputs of every layer
    that reads them, through reshapes, transposes, concatenations, residual sums, heads,
    gates, convolutions and scans over layers. To remove a unit is to delete its
    positions from all members.

    Unsupported primitives freeze the units that they touch (conservative). So do
    reductions over units (as in layer normalization), the inputs and the outputs of the
    function. The reason is in ``UnitGroup.frozen``.

    Args:
      fn: Pure function, called as ``fn(params, *inputs)``. It is traced, never run.
      params: Pytree of arrays or `jax.ShapeDtypeStruct`.
      *inputs: Pytrees of the same kinds.
      for_program: Whether the couplings are for a plan that `program` carries out.
        There the units of unsupported primitives and of reductions are free: `plan`
        finds which of them are known to be zero, or constant.
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
    found = traced(fn, params, *inputs, for_program=for_program, **options)
    return Couplings(tuple(found.units.values()))


class Traced(NamedTuple):
    """A trace: the jaxpr, the leaves, and the groups of units by atom."""

    closed: Any
    names: list[str]
    inputs: list[AxisValue]  # of the jaxpr: first the leaves
    axes: AxisInterpreter
    units: dict[IndexSet, UnitGroup]  # the largest first

    @property
    def leaves(self) -> list[AxisValue]:
        """The axes of the leaves."""
        return self.inputs[: len(self.names)]

    @property
    def layers(self) -> dict[Path, list[tuple[IndexSet, np.ndarray]]]:
        """The atoms that scans go along, each with the positions of its layers.

        Only those that nothing but a scan freezes: layers that are the identity may go.
        """
        found = {path: list(atoms_of(x)) for path, x in self.axes.layers.items()}
        return {
            path: atoms
            for path, atoms in found.items()
            if atoms and all(self.may_lose_layers(atom) for atom, _ in atoms)
        }

    def may_lose_layers(self, atom: IndexSet) -> bool:
        """Return whether units are layers of a scan that nothing else holds back."""
        units = self.units.get(atom)
        return units is not None and units.frozen == {SCAN}


def traced(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    for_program: bool = False,
    **options: Any,
) -> Traced:
    """Follow the axes of a function of params; the arguments are those of `trace`."""
    check_call(fn, params, inputs)
    closed = jax.make_jaxpr(lambda p, *x: fn(p, *x, **options))(params, *inputs)
    return followed(closed, leaf_names(params), for_program=for_program)


def followed(closed: Any, names: list[str], *, for_program: bool = False) -> Traced:
    """Follow the axes of a jaxpr whose first inputs are the leaves of these names."""
    specs = [x.aval for x in closed.jaxpr.invars]
    values = []
    # The leaves come first among the inputs of the jaxpr.
    for i, spec in enumerate(specs):
        leaf = names[i] if i < len(names) else None
        reason = None if leaf or for_program else _INPUT
        dims = tuple(fresh(n, reason) for n in spec.shape)
        weights = None if leaf is None else frozenset({leaf})
        values.append(AxisValue(dims, leaf, weights))
    axes = AxisInterpreter(for_program)
    for value in axes.eval_closed_jaxpr(closed, values):
        # Whoever calls the function counts on the shapes of its outputs.
        for axis in value.axes:
            freeze(axis, "an output")
    if for_program:
        _freeze_inputs(values[len(names) :], axes)
    find_recomputations(axes)
    units = _collected(values[: len(names)], axes)
    return Traced(closed, names, values, axes, units)


_INPUT = "an input"


def _freeze_inputs(inputs: list[AxisValue], axes: AxisInterpreter) -> None:
    """Freeze the axes of inputs, but for what only multiplies hidden units.

    That are units which weights make and none read, as the dimensions of queries and
    keys are: tables of a rotary embedding have them, of which a program takes a part.
    """
    made: set[IndexSet] = set()
    read: set[IndexSet] = set()
    for role in axes.roles:
        if role.name in ("produces", "consumes"):
            atoms = made if role.name == "produces" else read
            atoms |= {atom for atom, _ in role.index_set.atoms()}
    for value in inputs:
        for index_set, _ in (dim for axis in value.axes for dim in axis):
            if index_set is None:
                continue
            atoms = {atom for atom, _ in index_set.atoms()}
            if not atoms or not atoms <= made - read:
                index_set.freeze(_INPUT)


def hold_back(found: Traced, couplings: Couplings | None) -> None:
    """Freeze the groups of units that are frozen in some couplings, or not in them."""
    if couplings is None:
        return
    chosen = {units.places: units.frozen for units in couplings.units}
    missing = frozenset({"not among the couplings"})
    for atom, units in found.units.items():
        frozen = units.frozen | chosen.get(units.places, missing)
        found.units[atom] = dataclasses.replace(units, frozen=frozen)


def _collected(
    leaves: list[AxisValue], axes: AxisInterpreter
) -> dict[IndexSet, UnitGroup]:
    """Return a group of units for every atom that the leaves are indexed by."""
    roles = _roles(axes)
    found: dict[IndexSet, dict[tuple[str, int], list[np.ndarray]]] = {}
    for value in leaves:
        for i, axis in enumerate(value.axes):
            for index_set, _ in axis:
                if index_set is None:
                    continue
                for atom, positions in index_set.atoms():
                    places = found.setdefault(atom, {})
                    places.setdefault((value.leaf or "", i), []).append(positions)
    units = {
        atom: UnitGroup(
            atom.size,
            tuple(
                UnitMember(
                    leaf,
                    axis,
                    np.sort(np.concatenate(positions, axis=1), axis=1),
                    roles(leaf, atom),
                )
                for (leaf, axis), positions in sorted(places.items())
            ),
            frozenset(atom.reasons),
        )
        for atom, places in found.items()
    }
    return dict(sorted(units.items(), key=lambda item: -item[1].size))


def _roles(axes: AxisInterpreter) -> Callable[[str, IndexSet], frozenset[str]]:
    """Return what says the roles of a leaf for an atom."""
    # Only now: while axes are unified, an atom may still become a product or a sum.
    found: dict[tuple[str, str, IndexSet], set[str]] = defaultdict(set)
    for role in axes.roles:
        for atom, _ in role.index_set.atoms():
            found[role.stage, role.leaf, atom].add(role.name)

    def of(leaf: str, atom: IndexSet) -> frozenset[str]:
        alone, in_kernel, building = (
            found[stage, leaf, atom] for stage in ("alone", "in a kernel", "building")
        )
        # Inside of a kernel the units are read, or made, by the kernel as a whole.
        return frozenset(alone | (in_kernel or building))

    return of
