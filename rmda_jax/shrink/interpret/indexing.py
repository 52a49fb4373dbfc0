"""The rules of primitives that read entries at places given by another array."""

from typing import Any

import numpy as np

from rmda_jax.shrink.interpret._axes import AxisInterpreter, AxisValue, EqnAxes
from rmda_jax.shrink.interpret._index_sets import Axis, length
from rmda_jax.shrink.interpret._interpreter import register
from rmda_jax.shrink.interpret._small import SmallInterpreter, run_resized
from rmda_jax.shrink.interpret._unification import unify
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    all_or_nothing,
    computed,
)


def dynamic_slice_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue, *starts: AxisValue
) -> list[AxisValue]:
    """Pass on the axes that are taken whole."""
    del starts
    axes = []
    for i, (axis, size) in enumerate(
        zip(x.axes, eqn.params["slice_sizes"], strict=True)
    ):
        if size != length(axis):
            interpreter.need_whole(0, x, [i], "dynamic_slice")
            axis = interpreter.fresh(size, "dynamic_slice")
        axes.append(axis)
    return [AxisValue(tuple(axes), x.leaf)]


def dynamic_slice_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue, *starts: PartialValue
) -> list[PartialValue]:
    """The slice at a known place is; of another, what is the same at all places."""
    del interpreter
    if not any(i.unknown_mask.any() for i in starts):
        return [_taken(eqn, x, *starts)]
    sizes, shape = eqn.params["slice_sizes"], eqn.outvars[0].aval.shape
    moving = [i for i, n in enumerate(x.value.shape) if n != sizes[i]]
    equal = reduce_if_equal(x, moving)
    return [equal.move(lambda y: np.broadcast_to(y, shape))]


def resized_slices(
    interpreter: SmallInterpreter, eqn: Any, found: EqnAxes
) -> dict[str, Any]:
    """Return the sizes of the slices: axes that are taken whole are small."""
    sizes = [
        len(interpreter.kept(axis)) if size == length(axis) else size
        for axis, size in zip(
            found.operands[0].axes, eqn.params["slice_sizes"], strict=True
        )
    ]
    return {"slice_sizes": tuple(sizes)}


register(
    "dynamic_slice",
    axes=dynamic_slice_axes,
    values=dynamic_slice_values,
    small=run_resized(resized_slices),
)


def gather_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue, indices: AxisValue
) -> list[AxisValue]:
    """Pass on the axes that are taken whole, such as the features of an embedding."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    batching = numbers.operand_batching_dims
    # The last axis of the indices is the vector that points into the operand.
    interpreter.need_whole(1, indices, [len(indices.axes) - 1], "gather")
    batch = list(indices.axes[:-1])
    for i, j in zip(batching, numbers.start_indices_batching_dims, strict=True):
        batch[j] = unify(batch[j], x.axes[i])
    kept = []
    for i, (axis, size) in enumerate(zip(x.axes, sizes, strict=True)):
        if i in batching:
            continue
        whole = size == length(axis)
        if not whole:
            interpreter.need_whole(0, x, [i], "gather")
        if i not in numbers.collapsed_slice_dims:
            kept.append((i, axis if whole else interpreter.fresh(size, "gather")))
    interpreter.record_role(x, [i for i, _ in kept], "produces")
    # The result has axes of the slices at `offset_dims`; the others are of the batch.
    shape = eqn.outvars[0].aval.shape
    axes: list[Axis] = []
    for i in range(len(shape)):
        if i in numbers.offset_dims:
            axes.append(kept.pop(0)[1])
        else:
            axes.append(batch.pop(0))
    return [AxisValue(tuple(axes))]


def gather_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue, indices: PartialValue
) -> list[PartialValue]:
    """Entries at known places are; at others, what is the same at all places."""
    if not indices.unknown_mask.any():
        return [_taken(eqn, x, indices)]
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    moving = [i for i, n in enumerate(x.value.shape) if n != sizes[i]]
    # Only whole rows, as of an embedding: the other forms are rare.
    if (
        set(moving) != set(numbers.collapsed_slice_dims)
        or numbers.operand_batching_dims
    ):
        return all_or_nothing(interpreter, eqn, x, indices)
    shape = eqn.outvars[0].aval.shape
    at = tuple(0 if i in moving else slice(None) for i in range(x.value.ndim))
    wide = [n if i in numbers.offset_dims else 1 for i, n in enumerate(shape)]
    equal = reduce_if_equal(x, moving)
    return [equal.move(lambda y: np.broadcast_to(y[at].reshape(wide), shape))]


register(
    "gather",
    axes=gather_axes,
    values=gather_values,
    small=run_resized(resized_slices),
)


def _taken(eqn: Any, x: PartialValue, *where: PartialValue) -> PartialValue:
    """Return what is known of entries at known places."""
    # What lies out of bounds reads `fill_value`: 1 in the mask, so that it is unknown.
    # The mask is of bytes, for a boolean out of bounds reads as True or as False.
    p = eqn.params
    params = p | ({"fill_value": 1} if "fill_value" in p else {})
    unknown_mask = eqn.primitive.bind(
        x.unknown_mask.astype(np.uint8), *(i.value for i in where), **params
    )
    return computed(eqn, (x, *where), np.asarray(unknown_mask) > 0)


def reduce_if_equal(x: PartialValue, axes: list[int]) -> PartialValue:
    """Reduce some axes to length 1; what is equal along them is known."""
    at = tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.value.ndim))
    first = x.value[at]
    unknown_mask = (x.unknown_mask | (x.value != first)).any(tuple(axes), keepdims=True)
    value = np.where(unknown_mask, np.zeros((), first.dtype), first)
    return PartialValue(value, unknown_mask)
