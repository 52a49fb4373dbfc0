"""The rules of primitives that arrange entries: transpose, slice, concatenate, ..."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rmda_jax.shrink.interpret._axes import (
    AxisInterpreter,
    AxisValue,
    EqnAxes,
    unified_axes,
)
from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    freeze,
    fresh,
    length,
    uniform,
)
from rmda_jax.shrink.interpret._interpreter import register
from rmda_jax.shrink.interpret._small import SmallInterpreter, bind, run_resized
from rmda_jax.shrink.interpret._unification import (
    concatenated,
    reshaped,
    sliced,
    unify,
)
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    all_or_nothing,
    computed,
    moved,
)


def transpose_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue
) -> list[AxisValue]:
    """Permute the axes."""
    del interpreter
    axes = tuple(x.axes[i] for i in eqn.params["permutation"])
    return [AxisValue(axes, x.leaf)]


register(
    "transpose",
    axes=transpose_axes,
    values=moved(lambda x, params: x.transpose(params["permutation"])),
    views=True,
)


def broadcast_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue, *_: AxisValue
) -> list[AxisValue]:
    """Add axes along which all values are the same."""
    del interpreter
    shape = eqn.params["shape"]
    axes = [uniform(n) for n in shape]
    places = eqn.params["broadcast_dimensions"]
    for axis, place in zip(x.axes, places, strict=True):
        # An axis of length 1 is stretched: then it is uniform, too.
        if length(axis) == shape[place]:
            axes[place] = axis
    return [AxisValue(tuple(axes), x.leaf)]


def resized_broadcast(
    interpreter: SmallInterpreter, eqn: Any, found: EqnAxes
) -> dict[str, Any]:
    """Return the small shape."""
    return {"shape": interpreter.shape(found.results[0])}


# As `jax.lax.broadcast_in_dim`, but of NumPy arrays, which are not copied.
def _broadcast(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    wide = np.ones(len(params["shape"]), int)
    wide[list(params["broadcast_dimensions"])] = x.shape
    return np.broadcast_to(x.reshape(wide), params["shape"])


register(
    "broadcast_in_dim",
    axes=broadcast_axes,
    values=moved(_broadcast),
    views=True,
    small=run_resized(resized_broadcast),
)


def tile_axes(interpreter: AxisInterpreter, eqn: Any, x: AxisValue) -> list[AxisValue]:
    """Repeat axes, each as a whole: the copies are a uniform dim, the slower one."""
    del interpreter
    rows = zip(x.axes, eqn.params["reps"], strict=True)
    return [AxisValue(tuple(uniform(n) + axis if n > 1 else axis for axis, n in rows))]


register(
    "tile",
    axes=tile_axes,
    values=moved(lambda x, params: np.tile(x, params["reps"])),
    views=True,
)


def rev_axes(interpreter: AxisInterpreter, eqn: Any, x: AxisValue) -> list[AxisValue]:
    """Freeze the axes that are reversed: the last index stands where the first was."""
    places, axes = eqn.params["dimensions"], list(x.axes)
    interpreter.need_whole(0, x, places, eqn.primitive.name)
    if interpreter.for_program:
        for i in places:
            axes[i] = fresh(length(axes[i]))
    return [AxisValue(tuple(axes))]


register(
    "rev",
    axes=rev_axes,
    values=moved(lambda x, params: np.flip(x, params["dimensions"])),
    views=True,
)


def slice_axes(interpreter: AxisInterpreter, eqn: Any, x: AxisValue) -> list[AxisValue]:
    """Split the index sets at the ends of the slice."""
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or [1] * len(starts)
    axes = []
    rows = zip(x.axes, starts, stops, strides, strict=True)
    for i, (axis, start, stop, stride) in enumerate(rows):
        # Strides pick every second unit or so: which, changes when one goes.
        if stride == 1:
            axes.append(sliced(axis, start, stop, counted=not interpreter.for_program))
        elif _takes_one_of_each_row(axis, start, stop, stride):
            axes.append(_rows(axis, stride))
        else:
            reason = "a slice with strides"
            interpreter.need_whole(0, x, [i], reason)
            axes.append(interpreter.fresh(-(-(stop - start) // stride), reason))
    return [AxisValue(tuple(axes), x.leaf)]


def _takes_one_of_each_row(axis: Axis, start: int, stop: int, stride: int) -> bool:
    """Return whether a slice is a column of the axis reshaped to rows of the stride.

    ``x[..., 1::2]`` is ``x.reshape(..., -1, 2)[..., 1]``: rows may go as a whole.
    """
    if not axis or axis[-1][1] % stride or length(axis) == 0:
        return False
    index_set = axis[-1][0]
    if index_set is not None and index_set.root.kind not in ("atom", "product"):
        return False
    return start < stride and -(-(stop - start) // stride) == length(axis) // stride


def _rows(axis: Axis, size: int) -> Axis:
    """Return the axis of the rows of some size that an axis is reshaped to."""
    rows, columns = reshaped([axis], (length(axis) // size, size))
    freeze(columns, "a slice with strides")
    return rows


def _slice(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    strides = params["strides"] or [1] * x.ndim
    return x[
        tuple(map(slice, params["start_indices"], params["limit_indices"], strides))
    ]


def resized_slice(
    interpreter: SmallInterpreter, eqn: Any, found: EqnAxes
) -> dict[str, Any]:
    """Return how many positions that stay lie before the ends of the slice.

    Of rows of the length of a stride all positions stay, or none.
    """
    starts, stops = list(eqn.params["start_indices"]), list(eqn.params["limit_indices"])
    whole = interpreter.axes.read_whole.get(interpreter.path, {}).get(0, [])
    for i, axis in enumerate(found.operands[0].axes):
        if i not in whole:
            kept = interpreter.kept(axis)
            if (eqn.params["strides"] or {i: 1})[i] > 1:
                stops[i] = len(kept)
                continue
            starts[i], stops[i] = map(int, np.searchsorted(kept, (starts[i], stops[i])))
    return {"start_indices": tuple(starts), "limit_indices": tuple(stops)}


register(
    "slice",
    axes=slice_axes,
    values=moved(_slice),
    views=True,
    small=run_resized(resized_slice),
)


def split_axes(interpreter: AxisInterpreter, eqn: Any, x: AxisValue) -> list[AxisValue]:
    """Split the index set of one axis at the ends of the pieces."""
    place, results, start = eqn.params["axis"], [], 0
    for size in map(int, eqn.params["sizes"]):
        axes = list(x.axes)
        axes[place] = sliced(
            axes[place], start, start + size, counted=not interpreter.for_program
        )
        results.append(AxisValue(tuple(axes), x.leaf))
        start += size
    return results


def split_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue
) -> list[PartialValue]:
    """Split what is known."""
    del interpreter
    axis, ends = eqn.params["axis"], np.cumsum(eqn.params["sizes"])
    pieces = lambda i: lambda y: np.split(y, ends[:-1], axis)[i]
    return [x.move(pieces(i)) for i in range(len(ends))]


def resized_split(
    interpreter: SmallInterpreter, eqn: Any, found: EqnAxes
) -> dict[str, Any]:
    """Return the sizes of the pieces."""
    place = eqn.params["axis"]
    sizes = [len(interpreter.kept(result.axes[place])) for result in found.results]
    return {"sizes": tuple(sizes)}


register(
    "split", axes=split_axes, values=split_values, small=run_resized(resized_split)
)


def concatenate_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Make the concatenated axis a sum of index sets; unify the others."""
    del interpreter
    dimension = eqn.params["dimension"]
    axes = list(operands[0].axes)
    for operand in operands[1:]:
        axes = [
            a if i == dimension else unify(a, b)
            for i, (a, b) in enumerate(zip(axes, operand.axes, strict=True))
        ]
    axes[dimension] = concatenated([x.axes[dimension] for x in operands])
    return [AxisValue(tuple(axes))]


def concatenate_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """Concatenate what is known."""
    del interpreter
    concatenate = lambda arrays: np.concatenate(arrays, eqn.params["dimension"])
    return [_combined(concatenate, operands)]


def concatenate_small(
    interpreter: SmallInterpreter, eqn: Any, *operands: Any
) -> list[Any]:
    """Run it as it was; the other axes of all operands are the same."""
    place, axes = eqn.params["dimension"], interpreter.found.results[0].axes
    arrays = []
    for x, value in zip(operands, interpreter.found.operands, strict=True):
        wanted = [*axes[:place], value.axes[place], *axes[place + 1 :]]
        arrays.append(interpreter.aligned(x, value.axes, wanted))
    return bind(eqn, arrays)


register(
    "concatenate",
    axes=concatenate_axes,
    values=concatenate_values,
    small=concatenate_small,
)


def stack_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Unify all axes, and add a frozen one along which the operands are stacked."""
    del interpreter
    axes = unified_axes(operands)
    axes.insert(eqn.params["axis"], fresh(len(operands), "stack"))
    return [AxisValue(tuple(axes))]


def stack_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """Stack what is known."""
    del interpreter
    stack = lambda arrays: np.stack(arrays, eqn.params["axis"])
    return [_combined(stack, operands)]


def stack_small(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Run it as it was; all operands have the same axes, but for uniform ones."""
    place, axes = eqn.params["axis"], interpreter.found.results[0].axes
    wanted = [*axes[:place], *axes[place + 1 :]]
    rows = zip(operands, interpreter.found.operands, strict=True)
    return bind(eqn, [interpreter.aligned(x, v.axes, wanted) for x, v in rows])


register("stack", axes=stack_axes, values=stack_values, small=stack_small)


def unstack_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue
) -> list[AxisValue]:
    """Drop one axis, frozen, for its length is the number of results."""
    del interpreter
    axes = list(x.axes)
    freeze(axes.pop(eqn.params["axis"]), "unstack")
    return [AxisValue(tuple(axes), x.leaf) for _ in eqn.outvars]


def unstack_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue
) -> list[PartialValue]:
    """Take what is known apart."""
    del interpreter
    first = x.move(lambda y: np.moveaxis(y, eqn.params["axis"], 0))
    return [first.move(lambda y, i=i: y[i]) for i in range(len(eqn.outvars))]


register("unstack", axes=unstack_axes, values=unstack_values)


def pad_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue, fill: AxisValue
) -> list[AxisValue]:
    """Pass on the axes that are not padded."""
    del fill
    axes = []
    config, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    for i, (axis, padding, n) in enumerate(zip(x.axes, config, shape, strict=True)):
        if any(padding):
            # How much is padded may be the function's own number.
            interpreter.need_whole(0, x, [i], "pad")
            axis = interpreter.fresh(n, "pad")
        axes.append(axis)
    return [AxisValue(tuple(axes))]


def pad_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue, fill: PartialValue
) -> list[PartialValue]:
    """Pad what is known."""
    del interpreter
    # The mask is padded like the array: with True if the padding value is unknown.
    unknown_mask = eqn.primitive.bind(
        x.unknown_mask, np.asarray(fill.unknown_mask), **eqn.params
    )
    return [computed(eqn, (x, fill), np.asarray(unknown_mask))]


register("pad", axes=pad_axes, values=pad_values)


def iota_axes(interpreter: AxisInterpreter, eqn: Any) -> list[AxisValue]:
    """Freeze the axis whose positions are numbered: a number counts those before it."""
    axes = [uniform(n) for n in eqn.outvars[0].aval.shape]
    place = eqn.params["dimension"]
    axes[place] = interpreter.fresh(eqn.outvars[0].aval.shape[place], "iota")
    return [AxisValue(tuple(axes))]


register("iota", axes=iota_axes, values=all_or_nothing)  # of no operands: all


def _combined(
    combine: Callable[[Sequence[np.ndarray]], np.ndarray],
    operands: Sequence[PartialValue],
) -> PartialValue:
    """Combine the values and the masks of several arrays alike."""
    return PartialValue(
        combine([x.value for x in operands]),
        combine([x.unknown_mask for x in operands]),
    )
