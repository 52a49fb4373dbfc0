"""Decide which hidden units can be removed with the function unchanged."""

import dataclasses
import functools
from collections.abc import Callable, Container
from typing import Any

import jax
import numpy as np

from rmda_jax._types import Params, Shape, shape_dtype_of
from rmda_jax.shrink._checks import check_call, check_values
from rmda_jax.shrink._cuts import GroupCut, NotKnown, cuts_of, zero_groups
from rmda_jax.shrink._evaluated import evaluated
from rmda_jax.shrink._multiples import MultipleOf, fitted, multiples_of_leaves
from rmda_jax.shrink._removal import Contraction, Removal
from rmda_jax.shrink._retrace import Conflict, Retrace, conflicts, describe, retrace
from rmda_jax.shrink._trace import Couplings, Traced, hold_back, traced
from rmda_jax.shrink._width_dependence import width_dependent
from rmda_jax.shrink.interpret._axes import SCAN
from rmda_jax.shrink.interpret._index_sets import IndexSet, UnitMasks, atoms_of
from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    known,
)
from rmda_jax.shrink.interpret.contractions import is_contraction
from rmda_jax.specs._report import called_out, warn_of_zeros


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which units to remove: made by `plan`, carried out by `apply`, `slice_module`."""

    cuts: tuple[GroupCut, ...]  # the largest groups first
    folds: dict[str, np.ndarray]  # per leaf, of its old shape: added before slicing
    shapes: dict[str, Shape]  # of all leaves, before
    conflicts: tuple[Conflict, ...] = ()  # where fn goes wrong on the sliced params
    error: str = ""  # what fn raises on the sliced params; "" if it runs
    for_program: bool = False  # only `program` is right on the sliced params

    @functools.cached_property
    def kept(self) -> dict[str, tuple[np.ndarray, ...]]:
        """For every leaf, the positions along each axis that stay."""
        masks = {
            name: [np.ones(n, bool) for n in shape]
            for name, shape in self.shapes.items()
        }
        for cut in self.cuts:
            for member in cut.units.members:
                masks[member.leaf][member.axis][member.positions[cut.removed]] = False
        return {
            name: tuple(np.flatnonzero(mask) for mask in of_leaf)
            for name, of_leaf in masks.items()
        }

    @functools.cached_property
    def widths(self) -> dict[str, Shape]:
        """The shape of every leaf afterwards, which tells layers their sizes."""
        return {
            name: tuple(len(axis) for axis in kept) for name, kept in self.kept.items()
        }

    @property
    def gone(self) -> tuple[str, ...]:
        """Lines that name the layers and the leaves of which nothing is left."""
        lines = [
            f"layers {', '.join(map(str, np.flatnonzero(cut.removed)))} of "
            f"{cut.units.size} are the identity, and go from {cut.name}"
            for cut in self.cuts
            if SCAN in cut.units.frozen and cut.removed.any()
        ]
        empty: dict[str, list[str]] = {}
        for name, shape in self.widths.items():
            if 0 in shape and 0 not in self.shapes[name]:
                parent, _, leaf = name.rpartition("/")
                empty.setdefault(parent, []).append(leaf)
        for parent, leaves in empty.items():
            of_parent = f"{parent}: " if parent else ""
            lines.append(f"nothing is left of {of_parent}{', '.join(leaves)}")
        return tuple(lines)

    def __str__(self) -> str:
        rows = [("units", "before", "after", "the others stay because")]
        for cut in self.cuts:
            why = "; ".join(cut.reasons)
            rows.append((cut.name, str(cut.units.size), str(cut.left), why))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  "
            f"{row[3]}".rstrip()
            for row in rows
        ]
        lines += self.gone
        if self.folds:
            lines.append(f"constants go into {', '.join(sorted(self.folds))}")
        lines += [f"the function does not follow: {c}" for c in self.conflicts]
        if self.error:
            lines.append(f"the function refuses the sliced params: {self.error}")
        return "\n".join([*lines, *called_out(zero_groups(self.cuts))])


def plan(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    couplings: Couplings | None = None,
    for_program: bool = False,
    multiple_of: MultipleOf = 1,
    **options: Any,
) -> Plan:
    r"""Decide which hidden units can be removed with the function unchanged.

    A unit can go if no sum over units needs it: its terms are zero whatever the input
    (all weights that read it are zero, or its output is), or they are constant and a
    bias takes their sum (a batch normalization's mean counts as one). The jaxpr is
    evaluated with the params' values and unknown inputs, so that zeros are seen through
    biases, activations and normalizations with stored statistics. With a unit go its
    entries in all leaves, so that further units may go, until nothing changes.

    One unit of every group stays, for most frameworks reject layers of no units; with
    ``for_program`` none need stay, so that nothing is left of a branch that is zero. Of
    params that a `jax.lax.scan` goes along, layers go that return their carry as it was
    given to them, as a residual block does whose last weights are zero. The function is
    taken to be finite: 0 times infinity counts as 0. Units whose number
    the function computes with stay: :math:`1/\sqrt d` of attention.

    A function may keep sizes of its own, such as a number of heads, and infer others
    from its params: then it runs on the sliced params, and is wrong. So it is traced on
    them, and every equation is compared with the shape that it must have. Where they
    differ the plan says so (``plan.conflicts``, with file and line), and `apply` and
    `slice_module` raise. What the function itself raises on the sliced params is in
    ``plan.error``: such a function must be built anew.

    With ``for_program`` the sliced params are for `program` alone, which keeps all
    numbers of the function. Then its own sizes do not matter, and units may go also
    where an equation needs all of them, if the values of the removed ones are known.

    Args:
      fn: Pure function, called as ``fn(params, *inputs)``; also batch statistics must
        come in its params, not by closure.
      params: Pytree of arrays: their values decide.
      *inputs: Pytrees of arrays or `jax.ShapeDtypeStruct`; only shapes count.
      couplings: What `trace` returned, with the groups of units that may go: groups
        that are not among them, or that are frozen in them, stay as they are.
      for_program: Whether the params are sliced for `program`, and not for ``fn``.
      multiple_of: The widths that the removal leaves are multiples of this, or a group
        stays whole: for hardware that multiplies tiles, of 8, 16 or 128 numbers. For
        some leaves alone: a mapping from patterns of their names, the first that fits,
        such as ``{"*/mlp/*": 128}``. Units that could go stay for it.
      **options: Given to ``fn`` as they are.

    Returns:
      The plan; its ``str`` is a table.

    Warns:
      UserWarning: all units of a set are zero: nothing passes through them.

    Raises:
      TypeError: a leaf of ``params`` is no array, or ``fn`` is a module; see `trace`.
      ValueError: ``multiple_of`` is less than 1, or has a pattern that fits no leaf.

    Examples:
      >>> from rmda_jax import shrink
      >>> def mlp(params, x):
      ...     h = jax.nn.relu(x @ params["in"] + params["bias"])
      ...     return h @ params["out"]
      >>> shapes = {"in": (4, 8), "bias": (8,), "out": (8, 3)}
      >>> params = {name: jnp.ones(shape) for name, shape in shapes.items()}
      >>> params["out"] = params["out"].at[2:].set(0)
      >>> plan = shrink.plan(mlp, params, jnp.ones((2, 4)))
      >>> print(plan)
      units                    before  after  the others stay because
      bias[0] in[1] out[0]          8      2  2 read by out
      in[0]                         4      4  an input
      out[1]                        3      3  an output
      >>> plan.widths["in"]
      (4, 2)
    """
    check_call(fn, params, inputs)
    check_values(params)
    found = traced(fn, params, *inputs, for_program=for_program, **options)
    leaves = jax.tree.leaves(params)
    shapes = dict(zip(found.names, (shape_dtype_of(x)[0] for x in leaves), strict=True))
    values = evaluated(found, leaves)
    contractions = contractions_of(found, values)
    hold_back(found, couplings)
    candidates = _candidates(found, leaves)
    not_known = _not_known(found, values)
    for atom in candidates.keys() & not_known.keys():
        candidates[atom] &= ~not_known[atom][0]
    multiples = multiples_of_leaves(multiple_of, found.names)
    may_vanish = atoms_that_may_vanish(found) if for_program else ()

    def removal_of(candidates: UnitMasks) -> tuple[Removal, UnitMasks]:
        remove = lambda some: Removal(contractions, values, some, not_known, may_vanish)
        return fitted(remove, candidates, found.units, multiples)

    removal, held = removal_of(candidates)
    made = functools.partial(_made, found, shapes=shapes)
    if for_program:
        return made(removal, held=held, not_known=not_known, for_program=True)

    def small(atoms: list[IndexSet]) -> Retrace:
        cuts = [GroupCut(found.units[a], removal.removed[a], ()) for a in atoms]
        widths = Plan(tuple(cuts), {}, shapes).widths
        whole = lambda p, *x: fn(p, *x, **options)
        return retrace(whole, params, [widths[n] for n in found.names], *inputs)

    layers = list(filter(found.may_lose_layers, removal.atoms))
    if layers and not _follows(found, removal, small, layers):
        candidates = {a: units for a, units in candidates.items() if a not in layers}
        removal, held = removal_of(candidates)
    jaxpr = lambda atoms: small(atoms).closed
    kept = set(width_dependent(found.closed, jaxpr, found.axes, removal.atoms))
    if kept:
        # Anew: what was removed with these units may have depended on them.
        candidates = {a: units for a, units in candidates.items() if a not in kept}
        removal, held = removal_of(candidates)
    error, wrong = "", ()
    if removal.atoms:
        try:
            closed, error = small(removal.atoms)
            wrong = conflicts(found, closed, removal.removed)
        except Exception as refusal:  # whatever it raises on arrays of other sizes
            error = describe(refusal)
    known = {"held": held, "kept": kept, "not_known": not_known}
    return made(removal, **known, conflicts=wrong, error=error)


def _follows(
    found: Traced,
    removal: Removal,
    small: Callable[[list[IndexSet]], Retrace],
    layers: list[IndexSet],
) -> bool:
    """Return whether the function scans over fewer layers if its params have fewer."""
    try:
        closed, error = small(layers)
        removed = {atom: removal.removed[atom] for atom in layers}
        return not error and not conflicts(found, closed, removed)
    except Exception:  # whatever it raises, as of a number of layers of its own
        return False


def atoms_that_may_vanish(found: Traced) -> set[IndexSet]:
    """Return the atoms of which a program may lose all units.

    XLA computes nothing for a sum over none. But a convolution has at least one group.
    """
    grouped = {
        atom
        for eqn, operands, results in found.axes.eqns.values()
        if eqn.params.get("feature_group_count", 1) > 1
        for value in (*operands, *results)
        for axis in value.axes
        for atom, _ in atoms_of(axis)
    }
    return found.units.keys() - grouped


def _made(
    found: Traced,
    removal: Removal,
    *,
    shapes: dict[str, Shape],
    held: UnitMasks,
    kept: Container[IndexSet] = (),
    not_known: NotKnown,
    **fields: Any,
) -> Plan:
    """Return the plan, and warn of what is zero."""
    cuts = cuts_of(found, removal, held, kept, not_known)
    warn_of_zeros(zero_groups(cuts), stacklevel=3)
    folds = folds_of(removal, removal.removed, shapes)
    if isinstance(folds, Contraction):
        raise RuntimeError(f"units behind {folds.label} were removed, and are needed.")
    return Plan(cuts, folds, shapes, **fields)


def _not_known(found: Traced, values: ValueInterpreter) -> NotKnown:
    """Return the atoms that equations read whole, and the units unknown to them."""
    result: NotKnown = {}
    reads = [(p, i) for p, numbers in found.axes.read_whole.items() for i in numbers]
    for path, number in reads:
        if (path, number) not in values.operands:
            continue  # of a branch that is never taken
        operands = found.axes.eqns[path].operands
        why = f"not known to {found.axes.label(path)}, which reads them all"
        for place in found.axes.read_whole[path][number]:
            unknown = ~_constant_along(values.operands[path, number], place)
            anew = found.axes.recomputed.get((path, number, place))
            if anew is not None and all(read in values.operands for read in anew.reads):
                known = [_constant_along(values.operands[r], place) for r in anew.reads]
                unknown &= ~np.all(known, axis=0)
            for atom, positions in atoms_of(operands[number].axes[place]):
                units = np.asarray(unknown[positions].any(axis=1))
                before, first = result.get(atom, (units, why))
                result[atom] = before | units, first if before.any() else why
    for path, atoms in found.layers.items():
        changed = ~values.unchanged[path]  # layers that are not the identity
        for atom, positions in atoms:
            units = np.asarray(changed[positions].any(axis=1))
            before, first = result.get(atom, (units, _CHANGES))
            result[atom] = before | units, first if before.any() else _CHANGES
    return result


_CHANGES = "not the identity"


def _constant_along(x: PartialValue, place: int) -> np.ndarray:
    """Return which positions along an axis are zero, or one constant, by any input.

    What follows from the params alone is known as a whole. But that it is no zero means
    that the params are not: to remove them would be to keep them as constants.
    """
    rows = lambda y: np.moveaxis(y, place, 0).reshape(y.shape[place], -1)
    if x.value.size == 0:
        return np.zeros(x.value.shape[place], bool)
    zero = rows(x.zero).all(axis=1)
    if not x.unknown_mask.any():
        return zero
    value = rows(x.value)
    known = ~rows(x.unknown_mask).any(axis=1)
    return zero | (known & (value == value[:, :1]).all(axis=1))


def contractions_of(found: Traced, values: ValueInterpreter) -> dict[Path, Contraction]:
    """Return all sums over units, with what is known of their operands."""
    return {
        path: Contraction(eqn, values.contractions.get(path))
        for path, eqn in found.axes.eqns.items()
        if is_contraction(eqn.eqn)
    }


def folds_of(
    removal: Removal, removed: UnitMasks, shapes: dict[str, Shape]
) -> dict[str, np.ndarray] | Contraction:
    """Return what biases take, each of its leaf's shape; or a sum that none takes."""
    found = removal.folds(removed)
    if isinstance(found, Contraction):
        return found
    folds = {}
    for name, fold in found.items():
        folds[name] = np.zeros(shapes[name], fold.dtype)
        folds[name].ravel()[: fold.size] = fold
    return folds


def _candidates(found: Traced, leaves: list[Any]) -> UnitMasks:
    """Return the units that may go: those of free groups, if they are finite."""
    values = dict(zip(found.names, leaves, strict=True))
    candidates = {}
    for atom, units in found.units.items():
        if units.frozen and not found.may_lose_layers(atom):
            continue
        candidates[atom] = np.ones(units.size, bool)
        for m in units.members:
            x = known(values[m.leaf])
            if x.unknown_mask.any():  # not finite
                bad = np.moveaxis(x.unknown_mask, m.axis, 0)[m.positions]
                candidates[atom] &= ~bad.any(tuple(range(1, bad.ndim)))
    return candidates
