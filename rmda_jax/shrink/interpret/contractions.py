"""The rules of primitives that sum over units: products and convolutions."""

import math
from typing import Any

import numpy as np

from rmda_jax.shrink.interpret._axes import (
    AxisInterpreter,
    AxisValue,
    EqnAxes,
    freeze_all,
)
from rmda_jax.shrink.interpret._index_sets import (
    IndexSet,
    freeze,
    fresh,
    frozen_if_uniform,
    length,
)
from rmda_jax.shrink.interpret._interpreter import register
from rmda_jax.shrink.interpret._small import SmallInterpreter, bind, run_resized
from rmda_jax.shrink.interpret._unification import digits_as_factors, unify
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    all_or_nothing,
    computed,
    with_provenance,
)


def dot_general_axes(
    interpreter: AxisInterpreter, eqn: Any, a: AxisValue, b: AxisValue
) -> list[AxisValue]:
    """Unify the contracted axes, and those of the batch; pass the others on."""
    contracted, batch = eqn.params["dimension_numbers"]
    out = []
    for i, j in zip(*batch, strict=True):
        out.append(unify(a.axes[i], b.axes[j]))
    for i, j in zip(*contracted, strict=True):
        # A contraction with a constant vector, as in a mean, must keep its length.
        digits_as_factors(a.axes[i] + b.axes[j])
        x, y = (frozen_if_uniform(s, "dot_general") for s in (a.axes[i], b.axes[j]))
        _ = unify(x, y)
    for x, inner, outer in zip((a, b), contracted, batch, strict=True):
        free = [i for i in range(len(x.axes)) if i not in (*inner, *outer)]
        interpreter.record_role(x, inner, "consumes")
        interpreter.record_role(x, [*free, *outer], "produces")
        out += [x.axes[i] for i in free]
    return [AxisValue(tuple(out))]


def convolution_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue, kernel: AxisValue
) -> list[AxisValue]:
    """Unify the input channels, pass on the filters, and freeze space and window."""
    name, numbers = eqn.primitive.name, eqn.params["dimension_numbers"]
    groups = eqn.params["feature_group_count"]
    if eqn.params["batch_group_count"] != 1:
        return freeze_all(interpreter, eqn, x, kernel)
    batch, channel, *space = numbers.lhs_spec
    filters, inputs, *window = numbers.rhs_spec
    for i in window:
        freeze(kernel.axes[i], "the window of a convolution")
    for i in space:
        freeze(x.axes[i], "the space of a convolution")
    digits_as_factors(x.axes[channel] + kernel.axes[inputs])
    n_in, n_out = length(kernel.axes[inputs]), length(kernel.axes[filters])
    summed = frozen_if_uniform(kernel.axes[inputs], name)
    if groups == 1:
        _ = unify(frozen_if_uniform(x.axes[channel], name), summed)
        interpreter.record_role(kernel, [inputs], "consumes")
        produced = kernel.axes[filters]
    else:
        # Input channels are groups x n_in, filters groups x (filters of a group). All
        # groups have equal sizes, so that the same units must go in each of them, or
        # whole groups. In a depthwise convolution n_in is 1.
        group = ((IndexSet(groups), groups),)
        within = fresh(n_out // groups)
        produced = unify(kernel.axes[filters], group + within)
        _ = unify(x.axes[channel], group + summed)
        if n_in > 1:
            interpreter.record_role(kernel, [inputs], "consumes")
    interpreter.record_role(kernel, [filters], "produces")
    shape = eqn.outvars[0].aval.shape
    axes = [fresh(n, "the space of a convolution") for n in shape]
    out_batch, out_channel, *_ = numbers.out_spec
    axes[out_batch], axes[out_channel] = x.axes[batch], produced
    return [AxisValue(tuple(axes))]


def contraction_values(
    interpreter: ValueInterpreter, eqn: Any, a: PartialValue, b: PartialValue
) -> list[PartialValue]:
    """A sum is known if each of its terms is, or has a factor that is known to be 0.

    Contractions of the masks count the unknown terms: unknown times not known to be 0.
    """
    interpreter.contractions[interpreter.path] = a, b
    count = lambda x, y: _contracted(eqn, x.astype(np.float32), y.astype(np.float32))
    unknown_mask = np.broadcast_to(False, eqn.outvars[0].aval.shape)
    # Counts are whole numbers; 0.5 leaves room for a backend that rounds.
    if a.unknown_mask.any():
        unknown_mask = unknown_mask | (count(a.unknown_mask, ~b.zero) > 0.5)
    if b.unknown_mask.any():
        unknown_mask = unknown_mask | (count(~a.zero, b.unknown_mask) > 0.5)
    out = computed(eqn, (a, b), unknown_mask)
    # In a loop the result is another array in each iteration: no bias takes them all.
    if interpreter.loop_depth:
        return [out]
    return [with_provenance(out, interpreter.path)]


_WORTH_COMPILING = 2**20  # products of two numbers


def _contracted(eqn: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Contract arrays of float32; by NumPy where that is done before JAX compiles."""
    if eqn.primitive.name == "dot_general":
        (summed, _), _ = eqn.params["dimension_numbers"]
        n_terms = math.prod(x.shape[i] for i in summed)
        if n_terms * math.prod(eqn.outvars[0].aval.shape) < _WORTH_COMPILING:
            return _dot_general(x, y, *eqn.params["dimension_numbers"])
    params = eqn.params | {"preferred_element_type": np.dtype(np.float32)}
    return np.asarray(eqn.primitive.bind(x, y, **params))


def _dot_general(x: np.ndarray, y: np.ndarray, summed: Any, batch: Any) -> np.ndarray:
    """Compute what `jax.lax.dot_general` does."""
    matrices, shape = [], [x.shape[i] for i in batch[0]]
    for z, inner, outer in zip((x, y), summed, batch, strict=True):
        free = [i for i in range(z.ndim) if i not in (*inner, *outer)]
        rows = z.transpose(*outer, *free, *inner)
        sizes = [math.prod(z.shape[i] for i in axes) for axes in (outer, free, inner)]
        matrices.append(np.ascontiguousarray(rows).reshape(sizes))
        shape += [z.shape[i] for i in free]
    left, right = matrices
    return np.matmul(left, right.swapaxes(1, 2)).reshape(shape)


def dot_general_small(
    interpreter: SmallInterpreter, eqn: Any, a: Any, b: Any
) -> list[Any]:
    """Run it as it was; a uniform axis of a batch takes the length of the other."""
    _, batch = eqn.params["dimension_numbers"]
    found, arrays = interpreter.found, []
    for x, value, places in zip((a, b), found.operands, batch, strict=True):
        wanted = list(value.axes)
        for i, place in enumerate(places):  # the result has the batch in front
            wanted[place] = found.results[0].axes[i]
        arrays.append(interpreter.aligned(x, value.axes, wanted))
    return bind(eqn, arrays)


register(
    "dot_general",
    axes=dot_general_axes,
    values=contraction_values,
    small=dot_general_small,
)


def resized_convolution(
    interpreter: SmallInterpreter, eqn: Any, found: EqnAxes
) -> dict[str, Any]:
    """Return the number of groups that stay."""
    numbers, (x, kernel) = eqn.params["dimension_numbers"], found.operands
    if eqn.params["feature_group_count"] == 1:
        return {}
    n_channels = len(interpreter.kept(x.axes[numbers.lhs_spec[1]]))
    n_in_group = len(interpreter.kept(kernel.axes[numbers.rhs_spec[1]]))
    return {"feature_group_count": n_channels // n_in_group}


register(
    "conv_general_dilated",
    axes=convolution_axes,
    values=contraction_values,
    small=run_resized(resized_convolution),
)


def ragged_dot_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Unify the contracted axes; rows and matrices are counted by the group sizes."""
    if not is_contraction(eqn):
        return freeze_all(interpreter, eqn, *operands)
    (a, b, *sizes), numbers = operands, eqn.params["ragged_dot_dimension_numbers"]
    ((i,), (j,)), _ = numbers.dot_dimension_numbers
    (row,), (matrix,) = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    digits_as_factors(a.axes[i] + b.axes[j])
    x, y = (frozen_if_uniform(s, "ragged_dot") for s in (a.axes[i], b.axes[j]))
    _ = unify(x, y)
    interpreter.need_whole(0, a, [row], "ragged_dot")
    interpreter.need_whole(1, b, [matrix], "ragged_dot")
    for number, x in enumerate(sizes, 2):
        interpreter.need_whole(number, x, range(len(x.axes)), "ragged_dot")
    (out,) = {0, 1, 2} - {j, matrix}
    interpreter.record_role(a, [i], "consumes")
    interpreter.record_role(a, [row], "produces")
    interpreter.record_role(b, [j], "consumes")
    interpreter.record_role(b, [out], "produces")
    return [AxisValue((a.axes[row], b.axes[out]))]


def ragged_dot_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """An entry is 0 if each of its terms has a factor that is, in all the groups."""
    if not is_contraction(eqn):
        return all_or_nothing(interpreter, eqn, *operands)
    a, b = operands[:2]
    interpreter.contractions[interpreter.path] = a, b
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    ((i,), (j,)), _ = numbers.dot_dimension_numbers
    (matrix,) = numbers.rhs_group_dimensions
    rows = np.moveaxis(~a.zero, i, 1).astype(np.float32)
    columns = np.moveaxis(~b.zero, (matrix, j), (0, 1)).any(0).astype(np.float32)
    unknown_mask = rows @ columns > 0.5
    value = np.zeros(unknown_mask.shape, eqn.outvars[0].aval.dtype)
    return [PartialValue(value, unknown_mask)]


def is_contraction(eqn: Any) -> bool:
    """Return whether an equation is a sum over units, of which each term is known.

    Of the forms of a ragged product it is the one for experts: rows times matrices.
    """
    if eqn.primitive.name != "ragged_dot_general":
        return eqn.primitive.name in ("dot_general", "conv_general_dilated")
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (summed, _), (batch, _) = numbers.dot_dimension_numbers
    ragged = numbers.lhs_ragged_dimensions
    return len(summed) == 1 and not batch and tuple(ragged) != tuple(summed)


register("ragged_dot_general", axes=ragged_dot_axes, values=ragged_dot_values)
