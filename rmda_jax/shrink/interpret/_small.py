"""A jaxpr evaluated on the arrays that are left when units are removed.

`AxisInterpreter` says which units lie along which axis, and so which positions stay.
Every array is the old one without the positions that go. Most primitives are run as
they were, on the smaller operands; some keep shapes in their parameters, which change.
Numbers of the jaxpr, as the n of a mean, stay what they were.

Where an equation reads all of an axis, and units along it are removed, its operand is
expanded to the old length before. That takes the values at the removed positions, which
must be known (see `PartialValue`).
"""

import copy
import functools
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from rmda_jax._types import Shape
from rmda_jax.shrink.interpret._axes import (
    SCAN,
    AxisInterpreter,
    AxisValue,
    EqnAxes,
    Recomputation,
)
from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    IndexSet,
    UnitMasks,
    atoms_of,
    is_uniform,
    length,
    removed_along,
    uniform,
)
from rmda_jax.shrink.interpret._interpreter import (
    RULES,
    Interpreter,
    Path,
)
from rmda_jax.shrink.interpret._readings import Reading
from rmda_jax.shrink.interpret._values import PartialValue

Known: TypeAlias = Mapping[tuple[Path, int], PartialValue]
"""What is known of an operand, by the path of its equation and its number."""


class CannotShrinkError(ValueError):
    """An equation has no small form."""


class SmallInterpreter(Interpreter[Any]):
    """Evaluates a jaxpr on small arrays.

    Args:
      axes: The interpreter that found the axes of the jaxpr.
      removed: The units that are removed.
      known: What is known of the operands that are read whole.
    """

    def __init__(
        self, axes: AxisInterpreter, removed: UnitMasks, known: Known | None = None
    ) -> None:
        super().__init__()
        self.axes, self.removed, self.known = axes, removed, known or {}
        self._kept: dict[Axis, np.ndarray] = {}

    @property
    def found(self) -> EqnAxes:
        """The axes of the operands and results of the equation that is evaluated."""
        return self.axes.eqns[self.path]

    def at(self, path: Path) -> "SmallInterpreter":
        """Return an interpreter of the same arrays, for what an equation calls."""
        other = copy.copy(self)
        other.path = path
        return other

    def without(self, atoms: Container[IndexSet]) -> "SmallInterpreter":
        """Return an interpreter of arrays that have all units of some atoms."""
        removed = {a: units for a, units in self.removed.items() if a not in atoms}
        return SmallInterpreter(self.axes, removed, self.known)

    def constant(self, x: Any) -> Any:
        """Return a literal, which is a scalar, as it is."""
        return x

    def eval_closed_jaxpr(self, closed: Any, args: Sequence[Any]) -> list[Any]:
        """Return the outputs of a jaxpr, whose constants are cut as their axes are."""
        axes = self.axes.constants[self.path, id(closed)]
        rows = zip(closed.consts, axes, strict=True)
        consts = [self.taken(x, value.axes) for x, value in rows]
        return self.eval_jaxpr(closed.jaxpr, consts, args)

    def eval_eqn(self, eqn: Any, *operands: Any) -> Sequence[Any]:
        """Apply the primitive's small rule; what has none is run as it was."""
        if self.path not in self.touched:
            return bind(eqn, operands)
        rules = RULES.get(eqn.primitive.name)
        rule = run_same if rules is None or rules.small is None else rules.small
        results = rule(self, eqn, *self.whole(operands))
        rows = zip(results, self.found.results, strict=True)
        return [self.taken(x, value.axes) for x, value in rows]

    def eval_unsupported(self, eqn: Any, *operands: Any) -> Sequence[Any]:
        """Run the equation as it was."""
        return run_same(self, eqn, *operands)

    @functools.cached_property
    def touched(self) -> set[Path]:
        """The equations with a small array, and those that call one."""
        found: set[Path] = set()
        for path, (_, operands, results) in self.axes.eqns.items():
            axes = (axis for x in (*operands, *results) for axis in x.axes)
            if any(map(self.is_cut, axes)):
                found |= {path[: i + 1] for i in range(len(path))}
        return found

    def kept(self, axis: Axis) -> np.ndarray:
        """Return which positions along an axis stay."""
        if axis not in self._kept:
            self._kept[axis] = np.flatnonzero(~removed_along(axis, self.removed))
        return self._kept[axis]

    def is_cut(self, axis: Axis) -> bool:
        """Return whether positions along an axis are removed."""
        return len(self.kept(axis)) < length(axis)

    def shape(self, value: AxisValue) -> Shape:
        """Return the small shape of an array."""
        return tuple(len(self.kept(axis)) for axis in value.axes)

    def old_shape(self, value: AxisValue) -> Shape:
        """Return the shape of an array before."""
        return tuple(map(length, value.axes))

    def taken(self, x: Any, axes: Sequence[Axis]) -> Any:
        """Return what stays of an array; some of its axes may be small already."""
        for i, axis in enumerate(axes):
            kept = self.kept(axis)
            if len(kept) == np.shape(x)[i]:
                continue
            if np.shape(x)[i] != length(axis):
                raise CannotShrinkError(
                    f"{self.label} gives {np.shape(x)}, and {self._foreseen()} was "
                    f"foreseen. {KEEP}"
                )
            x = take(x, kept, i)
        return x

    def aligned(self, x: Any, axes: Sequence[Axis], wanted: Sequence[Axis]) -> Any:
        """Return an array with the positions that stay along other axes.

        All values along a uniform axis are the same, so that its length may become any.
        """
        for i, (axis, target) in enumerate(zip(axes, wanted, strict=True)):
            if length(axis) == length(target):  # the primitive may stretch a length 1
                x = self.fitted(x, i, axis, self.kept(target))
        return x

    def fitted(self, x: Any, i: int, axis: Axis, wanted: np.ndarray) -> Any:
        """Return an array with the wanted positions along one of its axes."""
        kept = self.kept(axis)
        if np.array_equal(kept, wanted):
            return x
        if is_uniform(axis):
            return lax.slice_in_dim(x, 0, len(wanted), axis=i)
        if np.isin(wanted, kept).all():
            return take(x, np.searchsorted(kept, wanted), i)
        raise CannotShrinkError(
            f"{self.label} combines units that stay with units that go. {KEEP}"
        )

    def check(self, path: Path) -> None:
        """Raise if an equation reads removed units whose values are not known."""
        if not all(reading.is_known for reading in self.readings(path).values()):
            raise CannotShrinkError(
                f"{self.axes.label(path)} reads units that are removed, and their "
                f"values are not known. {KEEP}"
            )

    def check_layers(self, path: Path, unchanged: np.ndarray | None) -> None:
        """Raise if a scan loses a layer that is not known to be the identity."""
        removed = removed_along(self.axes.layers[path], self.removed)
        if unchanged is not None:
            removed &= ~unchanged
        if removed.any():
            raise CannotShrinkError(
                f"{self.axes.label(path)} has layers that are removed, and not the "
                f"identity. {KEEP}"
            )

    def whole(self, operands: Sequence[Any]) -> list[Any]:
        """Return the operands of an equation, expanded where it reads whole axes."""
        self.check(self.path)
        found = list(operands)
        for number, reading in self.readings(self.path).items():
            if reading.anew is not None:
                found[number] = self._computed_anew(
                    number, reading.anew, reading.places[0]
                )
            elif not reading.is_neutral:
                found[number] = self._expanded(found[number], reading)
        return found

    def readings(self, path: Path) -> dict[int, Reading]:
        """Return which operands of an equation are read where units are removed."""
        found = {}
        for number, places in self.axes.read_whole.get(path, {}).items():
            axes = self.axes.eqns[path].operands[number].axes
            if cut := [i for i in places if self.is_cut(axes[i])]:
                reading = self._reading(path, number, cut)
                if not reading.is_known and len(cut) == 1:
                    anew = self.axes.recomputed.get((path, number, cut[0]))
                    reading = reading._replace(anew=self._of_known(anew, cut[0]))
                found[number] = reading
        return found

    def _reading(self, path: Path, number: int, cut: list[int]) -> Reading:
        """Return how an operand is read whole along some axes."""
        eqn, operands, _ = self.axes.eqns[path]
        axes = operands[number].axes
        kept, sizes = [self.kept(axis) for axis in axes], list(map(length, axes))
        rows = [np.arange(sizes[i]) if i in cut else k for i, k in enumerate(kept)]
        stays = [k if i in cut else np.arange(len(k)) for i, k in enumerate(kept)]
        known = self.known.get((path, number))
        if known is not None:
            at = np.ix_(*rows)
            known = PartialValue(known.value[at], known.unknown_mask[at])
        return Reading(eqn.primitive.name, cut, known, np.ix_(*stays))

    def _of_known(self, anew: Recomputation | None, place: int) -> Recomputation | None:
        """Return how an operand is computed anew, if what that reads is known."""
        if anew is None:
            return None
        readings = (self._reading(path, i, [place]) for path, i in anew.reads)
        return anew if all(reading.is_known for reading in readings) else None

    def _computed_anew(self, number: int, anew: Recomputation, place: int) -> Any:
        """Return an operand at full size along an axis, by the equations for it."""
        whole: dict[int, Any] = {}
        for path in anew.eqns:
            eqn, found, (result,) = self.axes.eqns[path]
            operands = []
            for i, (var, value) in enumerate(zip(eqn.invars, found, strict=True)):
                x = whole[id(var)] if id(var) in whole else self.read(var)
                if (path, i) in anew.reads:
                    x = self._expanded(x, self._reading(path, i, [place]))
                if value.axes:  # the scalars have none
                    x = self.aligned(x, *_whole_along(place, value.axes, result.axes))
                operands.append(x)
            (whole[id(eqn.outvars[0])],) = bind(eqn, operands)
        return whole[id(self.axes.eqns[self.path].eqn.invars[number])]

    def _expanded(self, x: Any, reading: Reading) -> Any:
        """Put known values at the removed positions along some axes."""
        known = reading.known
        assert known is not None
        value, at = known.value, known.value[reading.removed]
        if (at == at[0]).all():
            value = np.broadcast_to(at[0], value.shape)  # no array in the program
        return jnp.asarray(value).astype(x.dtype).at[reading.stays].set(x)

    @property
    def label(self) -> str:
        """The primitive that is evaluated, and the line that called it."""
        return self.axes.label(self.path)

    def _foreseen(self) -> str:
        return " and ".join(str(self.shape(value)) for value in self.found.results)


def _whole_along(place: int, *arrays: Sequence[Axis]) -> list[list[Axis]]:
    """Return the axes of arrays that have all positions along one of them."""
    found = [list(axes) for axes in arrays]
    for axes in found:
        axes[place] = uniform(length(axes[place]))
    return found


KEEP = (
    "Keep these units: plan with `couplings=couplings.keep(*couplings.find(leaf, axis))"
    "`, where `couplings` is what `trace` returns."
)


def removed_units(
    values: Sequence[AxisValue],
    masks: Sequence[Sequence[np.ndarray]],
    planned: UnitMasks | None = None,
) -> UnitMasks:
    """Return which units are removed, from the removed positions along axes.

    Args:
      values: The axes of some arrays.
      masks: For each array and axis, which positions are removed.
      planned: Which units a plan removes, of those that it has.

    Raises:
      CannotShrinkError: of the positions of a unit only some are removed, or it is one
        that must stay.
    """
    axes = [axis for value in values for axis in value.axes]
    along = [mask for of_value in masks for mask in of_value]
    found: UnitMasks = {}
    for axis, mask in zip(axes, along, strict=True):
        for atom, positions in atoms_of(axis):
            # Along an axis of a product of atoms the units of one are removed with all
            # of another's, as heads of which no dimension is left; elsewhere they stay.
            removed = np.asarray(mask[positions].all(axis=1))
            found[atom] = found.get(atom, np.ones_like(removed)) & removed
    # So what must stay, or the plan keeps, is not removed where others remove it all.
    frozen = [a for a, removed in found.items() if a.reasons - {SCAN} and removed.any()]
    found |= {atom: np.zeros_like(found[atom]) for atom in frozen}
    for atom, units in (planned or {}).items():
        if atom in found:
            found[atom] &= units
    for axis, mask in zip(axes, along, strict=True):
        if (removed_along(axis, found) != mask).any():
            if frozen:
                reason = min(frozen[0].reasons - {SCAN})
                raise CannotShrinkError(f"units must stay because of {reason}.")
            raise CannotShrinkError("it couples units that stay with units that go.")
    return found


def take(x: Any, positions: np.ndarray, axis: int) -> Any:
    """Return the entries at some positions along an axis, which are static."""
    start, n = (int(positions[0]), len(positions)) if len(positions) else (0, 0)
    if np.array_equal(positions, np.arange(start, start + n)):
        return lax.slice_in_dim(x, start, start + n, axis=axis)
    return jnp.take(x, positions, axis, mode="clip")


def bind(eqn: Any, operands: Sequence[Any], **changed: Any) -> list[Any]:
    """Run an equation, with some of its parameters changed."""
    params = eqn.primitive.get_bind_params({**eqn.params, **changed})
    # JAX before 0.10 returns the functions that the equation calls apart.
    subfuns, params = params if isinstance(params, tuple) else ((), params)
    out = eqn.primitive.bind(*subfuns, *operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def run_same(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Run an equation as it was."""
    del interpreter
    return bind(eqn, operands)


def run_aligned(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Run an equation whose operands have the axes of its result, or are scalars."""
    axes = interpreter.found.results[0].axes
    return bind(
        eqn,
        [
            interpreter.aligned(x, value.axes, axes)
            if len(value.axes) == len(axes)
            else x
            for x, value in zip(operands, interpreter.found.operands, strict=True)
        ],
    )


def run_resized(
    resize: Callable[[SmallInterpreter, Any, EqnAxes], dict[str, Any]],
) -> Callable[..., list[Any]]:
    """Return the rule of a primitive with shapes in its parameters.

    Args:
      resize: From the interpreter, the equation and its axes to what changes in the
        parameters.
    """

    def rule(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
        return bind(eqn, operands, **resize(interpreter, eqn, interpreter.found))

    return rule
