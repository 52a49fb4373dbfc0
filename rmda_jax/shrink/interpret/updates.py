"""The rules of primitives that write entries at places given by another array."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from rmda_jax.shrink.interpret._axes import AxisInterpreter, AxisValue
from rmda_jax.shrink.interpret._index_sets import length
from rmda_jax.shrink.interpret._interpreter import register
from rmda_jax.shrink.interpret._small import SmallInterpreter, bind
from rmda_jax.shrink.interpret._unification import unify
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    all_or_nothing,
    computed,
)
from rmda_jax.shrink.interpret.elementwise import meet
from rmda_jax.shrink.interpret.indexing import reduce_if_equal


class Written(NamedTuple):
    """Which axes of the operands are the same as an axis that is written as a whole."""

    operand: list[int | None]  # for each axis of the result; None: it is not
    indices: list[int | None]
    updates: list[int | None]


def dynamic_update_slice_axes(
    interpreter: AxisInterpreter,
    eqn: Any,
    x: AxisValue,
    update: AxisValue,
    *starts: AxisValue,
) -> list[AxisValue]:
    """Unify the axes that are written from end to end, as the units of a cache."""
    del starts
    name, axes = eqn.primitive.name, list(x.axes)
    written = _of_slice(eqn)
    for i, axis in enumerate(x.axes):
        if i in written:
            axes[i] = unify(axis, update.axes[i])
        else:
            interpreter.need_whole(0, x, [i], name)
            interpreter.need_whole(1, update, [i], name)
            axes[i] = interpreter.fresh(length(axis), name)
    for operand in (x, update):
        interpreter.record_role(operand, written, "produces")
    return [AxisValue(tuple(axes))]


def dynamic_update_slice_values(
    interpreter: ValueInterpreter,
    eqn: Any,
    x: PartialValue,
    update: PartialValue,
    *starts: PartialValue,
) -> list[PartialValue]:
    """At a known place it is the update; elsewhere, what is the same in both."""
    del interpreter
    written = _of_slice(eqn)
    moving = [i for i in range(x.value.ndim) if i not in written]
    if not any(starts[i].unknown_mask for i in moving):
        masks = x.unknown_mask, update.unknown_mask
        unknown_mask = eqn.primitive.bind(*masks, *(i.value for i in starts))
        return [computed(eqn, (x, update, *starts), np.asarray(unknown_mask))]
    if update.value.size == 0:
        return [x]
    return [meet(x, reduce_if_equal(update, moving))]


def dynamic_update_slice_small(
    interpreter: SmallInterpreter, eqn: Any, x: Any, update: Any, *starts: Any
) -> list[Any]:
    """Run it as it was; a uniform axis takes the length of the other operand's."""
    written = _of_slice(eqn)
    places = [i if i in written else None for i in range(np.ndim(x))]
    return bind(eqn, [*_aligned(interpreter, (x, update), (places, places)), *starts])


register(
    "dynamic_update_slice",
    axes=dynamic_update_slice_axes,
    values=dynamic_update_slice_values,
    small=dynamic_update_slice_small,
)


def scatter_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Unify the axes that are written from end to end, as the features of rows."""
    name, written, axes = eqn.primitive.name, _written(eqn), []
    for i, n in enumerate(eqn.outvars[0].aval.shape):
        rows = zip(operands, [places[i] for places in written], strict=True)
        same = [x.axes[place] for x, place in rows if place is not None]
        axes.append(
            functools.reduce(unify, same) if same else interpreter.fresh(n, name)
        )
    for number, (x, places) in enumerate(zip(operands, written, strict=True)):
        others = [i for i in range(len(x.axes)) if i not in places]
        interpreter.need_whole(number, x, others, name)
    for x, places in zip(
        operands[::2], (written.operand, written.updates), strict=True
    ):
        found = [i for i in places if i is not None]
        interpreter.record_role(x, found, "produces")
    return [AxisValue(tuple(axes))]


def scatter_values(
    interpreter: ValueInterpreter,
    eqn: Any,
    x: PartialValue,
    indices: PartialValue,
    updates: PartialValue,
) -> list[PartialValue]:
    """Entries at known places are known; so is what no update could change."""
    combine = _combination(eqn)
    if combine is None:
        return all_or_nothing(interpreter, eqn, x, indices, updates)
    if updates.value.size == 0:
        return [x]
    same = _unchanged(eqn, combine, x, updates)
    if indices.unknown_mask.any():
        return [same]
    found = _at_known_places(eqn, x, indices, updates)
    value = np.where(same.unknown_mask, found.value, same.value)
    return [PartialValue(value, same.unknown_mask & found.unknown_mask)]


def scatter_small(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Run it as it was; a uniform axis takes the length of the other operands'."""
    return bind(eqn, _aligned(interpreter, operands, _written(eqn)))


register(
    "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max",
    axes=scatter_axes,
    values=scatter_values,
    small=scatter_small,
)


def _of_slice(eqn: Any) -> list[int]:
    """Return the axes that an update of a slice writes from end to end."""
    shape, of_update = (x.aval.shape for x in eqn.invars[:2])
    return [i for i, n in enumerate(shape) if of_update[i] == n]


def _written(eqn: Any) -> Written:
    """Return the axes that a scatter writes from end to end."""
    numbers = eqn.params["dimension_numbers"]
    shape, _, of_updates = (x.aval.shape for x in eqn.invars)
    window = list(map(int, numbers.update_window_dims))
    # The other axes of the updates are those of the indices, but for the last, which
    # is the vector that points into the operand.
    rows = [j for j in range(len(of_updates)) if j not in window]
    pairs = (numbers.operand_batching_dims, numbers.scatter_indices_batching_dims)
    batching = dict(zip(*pairs, strict=True))
    found = Written([], [], [])
    for i, n in enumerate(shape):
        if i in batching:
            place = rows[batching[i]]
        elif i in numbers.inserted_window_dims:
            place = None
        else:
            place = window.pop(0)
        is_whole = place is not None and of_updates[place] == n
        found.operand.append(i if is_whole else None)
        found.indices.append(batching.get(i) if is_whole else None)
        found.updates.append(place if is_whole else None)
    return found


def _combination(eqn: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Return what becomes of an old entry and an update; None if it is not known."""
    if eqn.primitive.name != "scatter":
        names = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
        names |= {"min": np.minimum, "max": np.maximum}
        return names[eqn.primitive.name.removeprefix("scatter-")]
    # `x.at[i].apply(fn)` is a scatter, too, with the jaxpr of fn.
    inner = eqn.params["update_jaxpr"]
    inner = getattr(inner, "jaxpr", inner)
    if inner is None or (not inner.eqns and inner.outvars[0] is inner.invars[1]):
        return lambda old, update: update
    return None


def _unchanged(
    eqn: Any,
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x: PartialValue,
    updates: PartialValue,
) -> PartialValue:
    """Return the entries that stay what they are wherever the updates go.

    So do zeros to which zeros are added, or in whose place zeros are written.
    """
    places = _written(eqn).updates
    kept = [j for j in places if j is not None]
    others = [j for j in range(updates.value.ndim) if j not in kept]
    sizes = zip(x.value.shape, places, strict=True)
    shape = [1 if j is None else n for n, j in sizes]
    update = reduce_if_equal(updates, others)
    update = update.move(lambda y: np.transpose(y, [*kept, *others]).reshape(shape))
    with np.errstate(over="ignore"):
        same = combine(x.value, update.value) == x.value
    same &= ~update.unknown_mask
    if eqn.primitive.name == "scatter-mul":
        same |= x.zero
    return PartialValue(
        np.where(same, x.value, np.zeros((), x.value.dtype)), x.unknown_mask | ~same
    )


def _at_known_places(
    eqn: Any, x: PartialValue, indices: PartialValue, updates: PartialValue
) -> PartialValue:
    """Return what is known of a scatter whose indices are known."""
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    options = {name: eqn.params[name] for name in names}
    nothing = np.zeros(x.value.shape, np.int32)
    write = lambda how, what: np.asarray(
        how(nothing, indices.value, what.astype(np.int32), **options)
    )
    unknown_mask = write(lax.scatter_max, updates.unknown_mask) > 0
    if eqn.primitive.name == "scatter":
        # Which of several updates is the last to be written is not defined.
        n_writes = write(lax.scatter_add, np.ones(updates.value.shape))
        unknown_mask |= n_writes > 1
        unknown_mask |= (n_writes == 0) & x.unknown_mask
    else:
        unknown_mask |= x.unknown_mask
    return computed(eqn, (x, indices, updates), unknown_mask)


def _aligned(
    interpreter: SmallInterpreter,
    arrays: Sequence[Any],
    written: Sequence[Sequence[int | None]],
) -> list[Any]:
    """Return operands that have the positions of the result where its axes are theirs.

    Args:
      interpreter: The interpreter.
      arrays: The first operands.
      written: For each of them which of its axes are those of the result, as `Written`.
    """
    found, aligned = interpreter.found, []
    for x, value, places in zip(arrays, found.operands, written, strict=False):
        wanted = list(value.axes)
        for axis, i in zip(found.results[0].axes, places, strict=True):
            if i is not None:
                wanted[i] = axis
        aligned.append(interpreter.aligned(x, value.axes, wanted))
    return aligned
