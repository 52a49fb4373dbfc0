"""The rules of primitives that mix entries along axes: sums, sorts, pools, FFT."""

from typing import Any

import numpy as np
from jax import lax

from rmda_jax.shrink.interpret._axes import (
    AxisInterpreter,
    AxisValue,
    freeze_all,
    unified_axes,
)
from rmda_jax.shrink.interpret._index_sets import fresh, length
from rmda_jax.shrink.interpret._interpreter import register
from rmda_jax.shrink.interpret._small import SmallInterpreter, bind
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    all_or_nothing,
    computed,
    computed_results,
)


def reduce_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue
) -> list[AxisValue]:
    """Drop the reduced axes, frozen: without a unit the result would be another."""
    reduced = eqn.params["axes"]
    interpreter.need_whole(0, x, reduced, eqn.primitive.name)
    kept = [axis for i, axis in enumerate(x.axes) if i not in reduced]
    interpreter.record_role(x, range(len(x.axes)), eqn.primitive.name)
    return [AxisValue(tuple(kept))]


def reduce_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue, *rest: PartialValue
) -> list[PartialValue]:
    """A result is known if all entries that it reduces are."""
    if rest or len(eqn.outvars) > 1:
        return all_or_nothing(interpreter, eqn, x, *rest)
    unknown_mask = x.unknown_mask.any(tuple(eqn.params["axes"]))
    return [computed(eqn, (x,), np.asarray(unknown_mask))]


register(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin",
    axes=reduce_axes,
    values=reduce_values,
)


def cumulative_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue
) -> list[AxisValue]:
    """Freeze the axis along which entries are combined."""
    place, axes = eqn.params["axis"], list(x.axes)
    interpreter.need_whole(0, x, [place], eqn.primitive.name)
    if interpreter.for_program:
        axes[place] = fresh(length(axes[place]))
    return [AxisValue(tuple(axes))]


def cumulative_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue
) -> list[PartialValue]:
    """A line along the axis is known as a whole, or not at all."""
    del interpreter
    line = x.unknown_mask.any(eqn.params["axis"], keepdims=True)
    return [computed(eqn, (x,), np.broadcast_to(line, x.unknown_mask.shape))]


register(
    "cumsum cumprod cummax cummin cumlogsumexp",
    axes=cumulative_axes,
    values=cumulative_values,
)


def sort_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Freeze the sorted axis; unify all axes, for the operands are permuted alike."""
    axes = unified_axes(operands)
    # The order depends on the inputs: a position along the axis is no unit.
    place = eqn.params["dimension"]
    for i, x in enumerate(operands):
        interpreter.need_whole(i, x, [place], "sort")
        interpreter.record_role(x, range(len(axes)), "sort")
    if interpreter.for_program:
        axes[place] = fresh(length(axes[place]))
    return [AxisValue(tuple(axes)) for _ in operands]


def sort_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """A line along the axis is known if it and its keys are known as a whole."""
    del interpreter
    axis, n_keys = eqn.params["dimension"], eqn.params["num_keys"]
    lines = [x.unknown_mask.any(axis, keepdims=True) for x in operands]
    order = np.any(lines[:n_keys], axis=0)
    shape = operands[0].value.shape
    masks = [np.broadcast_to(order | line, shape) for line in lines]
    return computed_results(eqn, operands, masks)


def sort_small(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Run it as it was; all operands have the same axes, but for uniform ones."""
    place, axes = eqn.params["dimension"], interpreter.found.results[0].axes
    arrays = []
    for x, value in zip(operands, interpreter.found.operands, strict=True):
        wanted = [*axes[:place], value.axes[place], *axes[place + 1 :]]
        arrays.append(interpreter.aligned(x, value.axes, wanted))
    return bind(eqn, arrays)


register("sort", axes=sort_axes, values=sort_values, small=sort_small)


def top_k_axes(interpreter: AxisInterpreter, eqn: Any, x: AxisValue) -> list[AxisValue]:
    """Freeze the axis of which the largest entries are taken; pass on the others."""
    place, k, axes = eqn.params.get("axis", -1), eqn.params["k"], list(x.axes)
    interpreter.need_whole(0, x, [place], "top_k")
    interpreter.record_role(x, range(len(axes)), "top_k")
    axes[place] = interpreter.fresh(k, "top_k")
    return [AxisValue(tuple(axes)) for _ in eqn.outvars]


def top_k_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue
) -> list[PartialValue]:
    """The largest entries of a line are known if it is known as a whole."""
    del interpreter
    line = x.unknown_mask.any(eqn.params.get("axis", -1), keepdims=True)
    mask = np.broadcast_to(line, eqn.outvars[0].aval.shape)
    return computed_results(eqn, (x,), [mask] * 2)


register("top_k", axes=top_k_axes, values=top_k_values)


def pooling_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue, *rest: AxisValue
) -> list[AxisValue]:
    """Pass on the axes whose window is 1."""
    windows, shape = eqn.params["window_dimensions"], eqn.outvars[0].aval.shape
    name = eqn.primitive.name
    if rest and any(operand.axes for operand in rest):
        return freeze_all(interpreter, eqn, x, *rest)
    axes = list(x.axes)
    for i, window in enumerate(windows):
        if window != 1 or shape[i] != length(x.axes[i]):
            interpreter.need_whole(0, x, [i], name)
            axes[i] = interpreter.fresh(shape[i], name)
    return [AxisValue(tuple(axes)) for _ in eqn.outvars]


def pooling_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue, *rest: PartialValue
) -> list[PartialValue]:
    """A window is known if all of its entries are."""
    p = eqn.params
    if rest or "window_strides" not in p or "base_dilation" not in p:
        return all_or_nothing(interpreter, eqn, x, *rest)
    names = "window_dimensions window_strides padding base_dilation window_dilation"
    any_unknown = lax.reduce_window(
        x.unknown_mask.astype(np.uint8),
        np.uint8(0),
        lax.max,
        *(p[name] for name in names.split()),
    )
    return [computed(eqn, (x,), np.asarray(any_unknown) > 0)]


register(
    "reduce_window reduce_window_sum reduce_window_max reduce_window_min "
    "select_and_gather_add",
    axes=pooling_axes,
    values=pooling_values,
)


def fft_axes(interpreter: AxisInterpreter, eqn: Any, x: AxisValue) -> list[AxisValue]:
    """Pass on the axes along which nothing is transformed, as the channels of FNO."""
    shape, axes = eqn.outvars[0].aval.shape, list(x.axes)
    for i in _transformed(eqn):
        interpreter.need_whole(0, x, [i], "fft")
        axes[i] = interpreter.fresh(shape[i], "fft")
    return [AxisValue(tuple(axes))]


def fft_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue
) -> list[PartialValue]:
    """A transform is known if all entries that it transforms are."""
    del interpreter
    unknown_mask = x.unknown_mask.any(_transformed(eqn), keepdims=True)
    shape = eqn.outvars[0].aval.shape
    return [computed(eqn, (x,), np.broadcast_to(unknown_mask, shape))]


def _transformed(eqn: Any) -> tuple[int, ...]:
    """Return the axes of a Fourier transform, which are the last ones."""
    n = len(eqn.outvars[0].aval.shape)
    return tuple(range(n - len(eqn.params["fft_lengths"]), n))


register("fft", axes=fft_axes, values=fft_values)
