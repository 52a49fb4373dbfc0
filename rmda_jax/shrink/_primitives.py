"""The rules of the primitives that compute, move and combine arrays."""

from typing import Any

from rmda_jax.shrink._flow import Flow, Value, rule, unknown
from rmda_jax.shrink._spaces import (
    Axis,
    Space,
    concatenated,
    cut,
    freeze,
    fresh,
    join,
    length,
    pinned,
    reshaped,
    uniform,
)


@rule(
    *"abs neg sign floor ceil round exp exp2 log log1p expm1 tanh sin cos tan asin "
    "acos atan sinh cosh asinh acosh atanh logistic sqrt rsqrt cbrt erf erfc erf_inv "
    "lgamma digamma integer_pow square is_finite not convert_element_type "
    "reduce_precision copy copy_p stop_gradient real imag conj population_count clz "
    "optimization_barrier sharding_constraint pvary name device_put".split()
)
def unary(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Pass the axes on; a leaf stays one."""
    del flow, eqn
    return list(operands)


@rule(
    *"add sub mul div max min pow rem atan2 nextafter and or xor eq ne lt le gt ge "
    "select_n clamp add_any shift_left shift_right_logical "
    "shift_right_arithmetic".split()
)
def elementwise(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Unify the axes of all operands."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    arrays = [x for x in operands if len(x.axes) == len(shape)]
    axes = [uniform(n) for n in shape]
    for x in arrays:
        # An axis of length 1 is stretched.
        rows = zip(axes, x.axes, shape, strict=True)
        axes = [join(a, b) if length(b) == n else a for a, b, n in rows]
    # Scalars and arrays that are the same everywhere leave a leaf what it is.
    varying = [x for x in arrays if any(s is not None for a in x.axes for s, _ in a)]
    if len(varying) == 1:
        return [Value(tuple(axes), varying[0].leaf)]
    role = {"add": "shifts", "sub": "shifts", "mul": "scales", "div": "scales"}
    for x in varying:
        flow.record(x, range(len(shape)), role.get(name) or str(name))
    return [Value(tuple(axes))]


@rule("dot_general")
def dot_general(flow: Flow, eqn: Any, a: Value, b: Value) -> list[Value]:
    """Unify what is contracted, and what is a batch; the rest goes on."""
    contracted, batch = eqn.params["dimension_numbers"]
    out = []
    for i, j in zip(*batch, strict=True):
        out.append(join(a.axes[i], b.axes[j]))
    for i, j in zip(*contracted, strict=True):
        # No leaf weighs the terms of a sum with a constant, as a mean is.
        _ = join(*(pinned(x, "dot_general") for x in (a.axes[i], b.axes[j])))
    for x, inner, outer in zip((a, b), contracted, batch, strict=True):
        free = [i for i in range(len(x.axes)) if i not in (*inner, *outer)]
        flow.record(x, inner, "consumes")
        flow.record(x, [*free, *outer], "produces")
        out += [x.axes[i] for i in free]
    return [Value(tuple(out))]


@rule("conv_general_dilated")
def convolution(flow: Flow, eqn: Any, x: Value, kernel: Value) -> list[Value]:
    """Contract input channels and put out filters; windows cannot be cut."""
    name, numbers = eqn.primitive.name, eqn.params["dimension_numbers"]
    groups = eqn.params["feature_group_count"]
    if eqn.params["batch_group_count"] != 1:
        return unknown(flow, eqn, x, kernel)
    batch, channel, *space = numbers.lhs_spec
    filters, inputs, *window = numbers.rhs_spec
    for i in window:
        freeze(kernel.axes[i], "the window of a convolution")
    for i in space:
        freeze(x.axes[i], "the space of a convolution")
    n_in, n_out = length(kernel.axes[inputs]), length(kernel.axes[filters])
    summed = pinned(kernel.axes[inputs], name)
    if groups == 1:
        _ = join(pinned(x.axes[channel], name), summed)
        flow.record(kernel, [inputs], "consumes")
        produced = kernel.axes[filters]
    else:
        # Channels and filters are both groups of several, cut only alike in each.
        group = ((Space(groups), groups),)
        within = fresh(n_out // groups)
        produced = join(kernel.axes[filters], group + within)
        _ = join(x.axes[channel], group + summed)
        if n_in > 1:
            flow.record(kernel, [inputs], "consumes")
    flow.record(kernel, [filters], "produces")
    shape = eqn.outvars[0].aval.shape
    axes = [fresh(n, "the space of a convolution") for n in shape]
    out_batch, out_channel, *_ = numbers.out_spec
    axes[out_batch], axes[out_channel] = x.axes[batch], produced
    return [Value(tuple(axes))]


@rule("transpose")
def transpose(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Permute the axes."""
    del flow
    axes = tuple(x.axes[i] for i in eqn.params["permutation"])
    return [Value(axes, x.leaf)]


@rule("reshape")
def reshape(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Cut and merge the axes in C order."""
    del flow
    if eqn.params.get("dimensions") is not None:
        raise NotImplementedError("a reshape that permutes")
    return [Value(tuple(reshaped(x.axes, eqn.outvars[0].aval.shape)), x.leaf)]


@rule("squeeze", "expand_dims")
def squeeze(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Drop axes of length 1, or add them."""
    del flow
    return [Value(tuple(reshaped(x.axes, eqn.outvars[0].aval.shape)), x.leaf)]


@rule("broadcast_in_dim")
def broadcast(flow: Flow, eqn: Any, x: Value, *_: Value) -> list[Value]:
    """Add axes along which all is the same."""
    del flow
    shape = eqn.params["shape"]
    axes = [uniform(n) for n in shape]
    places = eqn.params["broadcast_dimensions"]
    for axis, place in zip(x.axes, places, strict=True):
        if length(axis) == shape[place]:
            axes[place] = axis
    return [Value(tuple(axes), x.leaf)]


@rule(
    *"reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax "
    "argmin".split()
)
def reduce(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Drop the reduced axes, which mixes what they stand for."""
    reduced = eqn.params["axes"]
    for i in reduced:
        freeze(x.axes[i], eqn.primitive.name)
    kept = [axis for i, axis in enumerate(x.axes) if i not in reduced]
    flow.record(x, range(len(x.axes)), eqn.primitive.name)
    return [Value(tuple(kept))]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "rev")
def along(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Mix what is along one axis, and pass the others on."""
    del flow
    axes = eqn.params.get("dimensions", (eqn.params.get("axis"),))
    for i in axes:
        freeze(x.axes[i], eqn.primitive.name)
    return [Value(x.axes)]


@rule(
    *"reduce_window reduce_window_sum reduce_window_max reduce_window_min "
    "select_and_gather_add".split()
)
def pooling(flow: Flow, eqn: Any, x: Value, *rest: Value) -> list[Value]:
    """Pass on the axes whose window is 1."""
    windows, shape = eqn.params["window_dimensions"], eqn.outvars[0].aval.shape
    name = eqn.primitive.name
    if rest and any(operand.axes for operand in rest):
        return unknown(flow, eqn, x, *rest)
    axes = list(x.axes)
    for i, window in enumerate(windows):
        if window != 1 or shape[i] != length(x.axes[i]):
            freeze(x.axes[i], name)
            axes[i] = fresh(shape[i], name)
    return [Value(tuple(axes)) for _ in eqn.outvars]


@rule("concatenate")
def concatenate(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Put the spaces of one axis one after another; unify the others."""
    del flow
    dimension = eqn.params["dimension"]
    axes = list(operands[0].axes)
    for operand in operands[1:]:
        axes = [
            a if i == dimension else join(a, b)
            for i, (a, b) in enumerate(zip(axes, operand.axes, strict=True))
        ]
    axes[dimension] = concatenated([x.axes[dimension] for x in operands])
    return [Value(tuple(axes))]


@rule("stack")
def stack(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Unify all axes, and number the operands along a new one."""
    del flow
    axes = list(operands[0].axes)
    for operand in operands[1:]:
        axes = [join(a, b) for a, b in zip(axes, operand.axes, strict=True)]
    axes.insert(eqn.params["axis"], fresh(len(operands), "stack"))
    return [Value(tuple(axes))]


@rule("unstack")
def unstack(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Take one axis apart, index by index."""
    del flow
    axes = list(x.axes)
    freeze(axes.pop(eqn.params["axis"]), "unstack")
    return [Value(tuple(axes), x.leaf) for _ in eqn.outvars]


@rule("slice")
def slice_(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Cut the spaces at the ends of the slice."""
    del flow
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or [1] * len(starts)
    axes = []
    for axis, start, stop, stride in zip(x.axes, starts, stops, strides, strict=True):
        if stride == 1:
            axes.append(cut(axis, start, stop))
        else:
            freeze(axis, "a slice with strides")
            axes.append(fresh(-(-(stop - start) // stride), "a slice with strides"))
    return [Value(tuple(axes), x.leaf)]


@rule("split")
def split(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Cut the space of one axis at the ends of the pieces."""
    del flow
    place, values, start = eqn.params["axis"], [], 0
    for size in map(int, eqn.params["sizes"]):
        axes = list(x.axes)
        axes[place] = cut(axes[place], start, start + size)
        values.append(Value(tuple(axes), x.leaf))
        start += size
    return values


@rule("dynamic_slice")
def dynamic_slice(flow: Flow, eqn: Any, x: Value, *starts: Value) -> list[Value]:
    """Pass on the axes that are taken whole."""
    del flow, starts
    axes = []
    for axis, size in zip(x.axes, eqn.params["slice_sizes"], strict=True):
        if size != length(axis):
            freeze(axis, "dynamic_slice")
            axis = fresh(size, "dynamic_slice")
        axes.append(axis)
    return [Value(tuple(axes), x.leaf)]


@rule("gather")
def gather(flow: Flow, eqn: Any, x: Value, indices: Value) -> list[Value]:
    """Pass on the axes that are taken whole, as those of an embedding's features."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    batching = numbers.operand_batching_dims
    batch = list(indices.axes[:-1])
    for i, j in zip(batching, numbers.start_indices_batching_dims, strict=True):
        batch[j] = join(batch[j], x.axes[i])
    kept = []
    for i, (axis, size) in enumerate(zip(x.axes, sizes, strict=True)):
        if i in batching:
            continue
        whole = size == length(axis)
        if not whole:
            freeze(axis, "gather")
        if i not in numbers.collapsed_slice_dims:
            kept.append((i, axis if whole else fresh(size, "gather")))
    flow.record(x, [i for i, _ in kept], "produces")
    shape = eqn.outvars[0].aval.shape
    axes: list[Axis] = []
    for i in range(len(shape)):
        if i in numbers.offset_dims:
            axes.append(kept.pop(0)[1])
        else:
            axes.append(batch.pop(0))
    return [Value(tuple(axes))]


@rule("tile")
def tile(flow: Flow, eqn: Any, x: Value) -> list[Value]:
    """Repeat axes, each as a whole."""
    del flow
    rows = zip(x.axes, eqn.params["reps"], strict=True)
    return [Value(tuple(uniform(n) + axis if n > 1 else axis for axis, n in rows))]


@rule("iota")
def iota(flow: Flow, eqn: Any) -> list[Value]:
    """Number the positions of one axis."""
    del flow
    place = eqn.params["dimension"]
    shape = eqn.outvars[0].aval.shape
    axes = [fresh(n, "iota") if i == place else uniform(n) for i, n in enumerate(shape)]
    return [Value(tuple(axes))]


@rule("pad")
def pad(flow: Flow, eqn: Any, x: Value, value: Value) -> list[Value]:
    """Pass on the axes that get nothing."""
    del flow, value
    axes = []
    shape = eqn.outvars[0].aval.shape
    for axis, config, n in zip(
        x.axes, eqn.params["padding_config"], shape, strict=True
    ):
        if any(config):
            freeze(axis, "pad")
            axis = fresh(n, "pad")
        axes.append(axis)
    return [Value(tuple(axes))]
