"""What is known of the results of each kind of primitive."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax

from rmda_jax.shrink import _control, _primitives
from rmda_jax.shrink._known import (
    Evaluation,
    Known,
    Site,
    computed,
    evaluates,
    numbered,
    opaque,
    unknown,
)

_MAX_LOOPS = 8  # passes through a loop until its carry is no longer followed


@evaluates(_primitives.unary)
def unary(ev: Evaluation, eqn: Any, x: Known, *others: Known) -> list[Known]:
    """Know what is known of the operand."""
    if others:
        return opaque(ev, eqn, x, *others)
    return [computed(eqn, (x,), x.varies)]


@evaluates(_primitives.elementwise)
def elementwise(ev: Evaluation, eqn: Any, *operands: Known) -> list[Known]:
    """Know what is known of all operands, and what a known zero makes zero."""
    del ev
    name = eqn.primitive.name
    if name == "select_n":
        return [_selected(eqn, *operands)]
    varies = np.broadcast_to(False, eqn.outvars[0].aval.shape)
    zero = varies
    for x in operands:
        varies = varies | x.varies
    for x in {"mul": operands, "div": operands[:1]}.get(name, ()):
        zero = zero | x.zero
    if not zero.any():
        return [computed(eqn, operands, varies)]
    out = computed(eqn, operands, varies & ~zero)
    # 0 / 0, where the divisor is unknown.
    varies = np.where(zero, False, out.varies)
    return [Known(np.where(zero, np.zeros((), out.value.dtype), out.value), varies)]


@evaluates(_primitives.dot_general, _primitives.convolution)
def product(ev: Evaluation, eqn: Any, a: Known, b: Known) -> list[Known]:
    """Know the sums whose terms are all known, or zero for one of their factors."""
    ev.sites[ev.path] = Site(eqn, (a, b))
    params = eqn.params | {"preferred_element_type": np.dtype(np.float32)}
    count = lambda x, y: np.asarray(
        eqn.primitive.bind(x.astype(np.float32), y.astype(np.float32), **params)
    )
    varies = np.broadcast_to(False, eqn.outvars[0].aval.shape)
    if a.varies.any():
        varies = varies | (count(a.varies, ~b.zero) > 0.5)
    if b.varies.any():
        varies = varies | (count(~a.zero, b.varies) > 0.5)
    out = computed(eqn, (a, b), varies)
    return [out if ev.loops else numbered(out, ev.path)]


@evaluates(_primitives.reduce)
def reduce(ev: Evaluation, eqn: Any, x: Known, *rest: Known) -> list[Known]:
    """Know what is reduced of what is all known."""
    if rest or len(eqn.outvars) > 1:
        return opaque(ev, eqn, x, *rest)
    return [computed(eqn, (x,), np.asarray(x.varies.any(tuple(eqn.params["axes"]))))]


@evaluates(_primitives.along)
def along(ev: Evaluation, eqn: Any, x: Known) -> list[Known]:
    """Know what is all known along an axis."""
    del ev
    some = x.varies.any(eqn.params["axis"], keepdims=True)
    return [computed(eqn, (x,), np.broadcast_to(some, x.varies.shape))]


@evaluates(_primitives.pooling)
def pooling(ev: Evaluation, eqn: Any, x: Known, *rest: Known) -> list[Known]:
    """Know the windows of which all is known."""
    p = eqn.params
    if rest or "window_strides" not in p or "base_dilation" not in p:
        return opaque(ev, eqn, x, *rest)
    names = "window_dimensions window_strides padding base_dilation window_dilation"
    some = lax.reduce_window(
        x.varies.astype(np.uint8),
        np.uint8(0),
        lax.max,
        *(p[name] for name in names.split()),
    )
    return [computed(eqn, (x,), np.asarray(some) > 0)]


@evaluates(_primitives.concatenate)
def concatenate(ev: Evaluation, eqn: Any, *operands: Known) -> list[Known]:
    """Know the parts as they are known."""
    del ev
    join = lambda arrays: np.concatenate(arrays, eqn.params["dimension"])
    value, varies = (
        join([x.value for x in operands]),
        join([x.varies for x in operands]),
    )
    return [Known(value, varies)]


@evaluates(_primitives.stack)
def stack(ev: Evaluation, eqn: Any, *operands: Known) -> list[Known]:
    """Know the layers as they are known."""
    del ev
    join = lambda arrays: np.stack(arrays, eqn.params["axis"])
    value, varies = (
        join([x.value for x in operands]),
        join([x.varies for x in operands]),
    )
    return [Known(value, varies)]


@evaluates(_primitives.unstack)
def unstack(ev: Evaluation, eqn: Any, x: Known) -> list[Known]:
    """Know the layers as they are known."""
    del ev
    layers = x.map(lambda y: np.moveaxis(y, eqn.params["axis"], 0))
    return [layers.map(lambda y, i=i: y[i]) for i in range(len(eqn.outvars))]


@evaluates(_primitives.split)
def split(ev: Evaluation, eqn: Any, x: Known) -> list[Known]:
    """Know the pieces as they are known."""
    del ev
    axis, ends = eqn.params["axis"], np.cumsum(eqn.params["sizes"])
    pieces = lambda i: lambda y: np.split(y, ends[:-1], axis)[i]
    return [x.map(pieces(i)) for i in range(len(ends))]


@evaluates(_primitives.pad)
def pad(ev: Evaluation, eqn: Any, x: Known, fill: Known) -> list[Known]:
    """Know the inside as it is known."""
    del ev
    some = eqn.primitive.bind(x.varies, np.asarray(fill.varies), **eqn.params)
    return [computed(eqn, (x, fill), np.asarray(some))]


@evaluates(_primitives.dynamic_slice, _primitives.gather)
def picked(ev: Evaluation, eqn: Any, x: Known, *where: Known) -> list[Known]:
    """Know what is picked from a known place, or is the same at all places."""
    p, shape = eqn.params, eqn.outvars[0].aval.shape
    if not any(i.varies.any() for i in where):
        # As bytes, for a boolean that is out of bounds reads as True or False.
        params = p | ({"fill_value": 1} if "fill_value" in p else {})
        some = eqn.primitive.bind(
            x.varies.astype(np.uint8), *(i.value for i in where), **params
        )
        return [computed(eqn, (x, *where), np.asarray(some) > 0)]
    sizes = p["slice_sizes"]
    axes = [i for i, n in enumerate(x.value.shape) if n != sizes[i]]
    same = _same(x, axes)
    if eqn.primitive.name == "dynamic_slice":
        return [same.map(lambda y: np.broadcast_to(y, shape))]
    numbers = p["dimension_numbers"]
    if set(axes) != set(numbers.collapsed_slice_dims) or numbers.operand_batching_dims:
        return opaque(ev, eqn, x, *where)
    at = tuple(0 if i in axes else slice(None) for i in range(x.value.ndim))
    wide = [n if i in numbers.offset_dims else 1 for i, n in enumerate(shape)]
    return [same.map(lambda y: np.broadcast_to(y[at].reshape(wide), shape))]


@evaluates(_control.cond)
def cond(ev: Evaluation, eqn: Any, index: Known, *operands: Known) -> list[Known]:
    """Know what is the same in all branches."""
    del index
    ev.loops += 1
    first, *others = (ev.closed(b, operands) for b in eqn.params["branches"])
    ev.loops -= 1
    for other in others:
        first = [_joined(x, y) for x, y in zip(first, other, strict=True)]
    return first


@evaluates(_control.scan)
def scan(ev: Evaluation, eqn: Any, *operands: Known) -> list[Known]:
    """Know what is the same in all iterations."""
    p = eqn.params
    n_consts, n_carry = p["num_consts"], p["num_carry"]
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    if p["length"] == 0:
        empty = [x.aval for x in eqn.outvars[n_carry:]]
        return [*carry, *(unknown(x.shape, x.dtype) for x in empty)]
    slices = [_same(x, [0]).map(lambda y: y[0]) for x in operands[n_consts + n_carry :]]
    body = lambda carry: ev.closed(p["jaxpr"], [*consts, *carry, *slices])
    carry, out = _settled(ev, body, carry)
    stack = lambda y: np.broadcast_to(y, (p["length"], *y.shape))
    return [*carry, *(x.map(stack) for x in out[n_carry:])]


@evaluates(_control.while_)
def while_(ev: Evaluation, eqn: Any, *operands: Known) -> list[Known]:
    """Know what no iteration changes."""
    p = eqn.params
    n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
    of_cond, of_body = operands[:n_cond], operands[n_cond : n_cond + n_body]

    def body(carry: Sequence[Known]) -> list[Known]:
        _ = ev.closed(p["cond_jaxpr"], [*of_cond, *carry])
        return ev.closed(p["body_jaxpr"], [*of_body, *carry])

    return list(_settled(ev, body, operands[n_cond + n_body :])[0])


def _settled(
    ev: Evaluation,
    body: Callable[[Sequence[Known]], list[Known]],
    carry: Sequence[Known],
) -> tuple[Sequence[Known], list[Known]]:
    """Return what is known of a loop's carry at all times, and of what is put out."""
    ev.loops += 1
    out: list[Known] = []
    for loop in itertools.count():
        out = body(carry)
        joined = [_joined(x, y) for x, y in zip(carry, out, strict=False)]
        pairs = zip(carry, joined, strict=True)
        if all(np.array_equal(x.varies, y.varies) for x, y in pairs):
            break
        if loop == _MAX_LOOPS:
            joined = [unknown(x.value.shape, x.value.dtype) for x in joined]
        carry = joined
    ev.loops -= 1
    return carry, out


def _joined(x: Known, y: Known) -> Known:
    same = ~x.varies & ~y.varies & (x.value == y.value)
    return Known(np.where(same, x.value, np.zeros((), x.value.dtype)), ~same)


def _same(x: Known, axes: Sequence[int]) -> Known:
    """Know what is the same along some axes, of which one entry is kept."""
    at = tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.value.ndim))
    first, axes = x.value[at], tuple(axes)
    varies = (x.varies | (x.value != first)).any(axes, keepdims=True)
    return Known(np.where(varies, np.zeros((), first.dtype), first), varies)


def _selected(eqn: Any, which: Known, *cases: Known) -> Known:
    shape = eqn.outvars[0].aval.shape
    same = cases[0]
    for case in cases[1:]:
        same = _joined(same, case)
    choose = lambda arrays: np.choose(
        np.broadcast_to(which.value, shape).astype(int), arrays
    )
    varies = np.where(which.varies, same.varies, choose([x.varies for x in cases]))
    return Known(
        np.where(
            varies,
            np.zeros((), same.value.dtype),
            np.where(which.varies, same.value, choose([x.value for x in cases])),
        ),
        varies,
    )
