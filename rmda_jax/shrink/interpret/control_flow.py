"""The rules of primitives that call, branch and loop."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from rmda_jax.shrink.interpret._axes import (
    SCAN,
    AxisInterpreter,
    AxisValue,
    unified_axes,
)
from rmda_jax.shrink.interpret._custom_derivatives import with_jvp, with_vjp
from rmda_jax.shrink.interpret._identity import unchanged_by
from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    IndexSet,
    freeze,
    fresh,
)
from rmda_jax.shrink.interpret._interpreter import Interpreter, register
from rmda_jax.shrink.interpret._small import SmallInterpreter
from rmda_jax.shrink.interpret._unification import digits_as_factors, unify
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    unknown,
)
from rmda_jax.shrink.interpret.elementwise import meet
from rmda_jax.shrink.interpret.indexing import reduce_if_equal

_MAX_PASSES = 8  # through a loop's body; after them nothing is known of its carry


def call(interpreter: Interpreter, eqn: Any, *operands: Any) -> Sequence[Any]:
    """Interpret what is called, whatever the values are."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        inner = eqn.params.get(name)
        if hasattr(inner, "jaxpr"):
            return interpreter.eval_closed_jaxpr(inner, operands)
        if inner is not None:
            return interpreter.eval_jaxpr(inner, [], operands)
    return interpreter.eval_unsupported(eqn, *operands)


# A leaf stays a leaf inside of what is called: a view.
register(
    "pjit jit closed_call core_call custom_lin custom_vmap_call composite",
    axes=call,
    values=call,
    views=True,
    small=call,
)


def remat_small(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Interpret what is called, and compute it anew for its derivative, too."""
    inner, p = interpreter.at(interpreter.path), eqn.params
    fn = jax.checkpoint(
        lambda *xs: call(inner, eqn, *xs),
        prevent_cse=p["prevent_cse"],
        policy=p["policy"],
    )
    return list(fn(*operands))


register(
    "remat checkpoint remat2", axes=call, values=call, views=True, small=remat_small
)


def custom_jvp_small(
    interpreter: SmallInterpreter, eqn: Any, *operands: Any
) -> list[Any]:
    """Interpret what is called, and its custom derivative where it is asked for."""
    inner = interpreter.at(interpreter.path)
    return with_jvp(inner, eqn, lambda *xs: call(inner, eqn, *xs), operands)


register("custom_jvp_call", axes=call, values=call, views=True, small=custom_jvp_small)


def custom_vjp_small(
    interpreter: SmallInterpreter, eqn: Any, *operands: Any
) -> list[Any]:
    """Interpret what is called, and its custom derivative where it is asked for."""
    inner = interpreter.at(interpreter.path)
    return with_vjp(inner, eqn, lambda *xs: call(inner, eqn, *xs), operands)


register(
    "custom_vjp_call custom_vjp_call_jaxpr",
    axes=call,
    values=call,
    views=True,
    small=custom_vjp_small,
)


def cond_axes(
    interpreter: AxisInterpreter, eqn: Any, index: AxisValue, *operands: AxisValue
) -> list[AxisValue]:
    """Unify the outputs of the branches."""
    del index
    first, *others = (
        interpreter.eval_closed_jaxpr(branch, operands)
        for branch in eqn.params["branches"]
    )
    for other in others:
        first = [
            AxisValue(tuple(unified_axes((x, y))))
            for x, y in zip(first, other, strict=True)
        ]
    return first


def cond_values(
    interpreter: ValueInterpreter,
    eqn: Any,
    index: PartialValue,
    *operands: PartialValue,
) -> list[PartialValue]:
    """An entry is known if it is the same in all branches."""
    del index
    interpreter.loop_depth += 1
    first, *others = (
        interpreter.eval_closed_jaxpr(branch, operands)
        for branch in eqn.params["branches"]
    )
    interpreter.loop_depth -= 1
    for other in others:
        first = [meet(x, y) for x, y in zip(first, other, strict=True)]
    return first


def cond_small(
    interpreter: SmallInterpreter, eqn: Any, index: Any, *operands: Any
) -> list[Any]:
    """Branch between the small branches; their outputs may be uniform."""
    wanted, path = interpreter.found.results, interpreter.path

    def branch(closed: Any) -> Callable[..., list[Any]]:
        return lambda *xs: called(interpreter.at(path), closed, xs, wanted)

    branches = [branch(closed) for closed in eqn.params["branches"]]
    return lax.switch(index, branches, *operands)


register("cond", axes=cond_axes, values=cond_values, small=cond_small)


def scan_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Unify the carry before and after, and the axes that are scanned over."""
    n_consts, n_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    rows = operands[n_consts + n_carry :]
    layers = fresh(eqn.params["length"], SCAN)
    if rows:
        layers = _layers(layers, [x.axes[0] for x in rows])
        interpreter.layers[interpreter.path] = layers
    slices = [AxisValue(x.axes[1:], x.leaf, x.weights) for x in rows]
    # The carry may be uniform before the first iteration, as zeros are, and not after.
    carry = [AxisValue(tuple(map(_varying, x.axes))) for x in carry]
    out = interpreter.eval_closed_jaxpr(eqn.params["jaxpr"], [*consts, *carry, *slices])
    carried = [
        AxisValue(tuple(unified_axes((x, y)))) for x, y in zip(carry, out, strict=False)
    ]
    return carried + [AxisValue((layers, *y.axes)) for y in out[n_carry:]]


def _layers(layers: Axis, axes: Sequence[Axis]) -> Axis:
    """Return the axis that a scan goes along: its positions are layers, or times.

    It is frozen by the scan alone, which `plan` knows how to make shorter.
    """
    for axis in axes:
        layers = unify(layers, axis)
    digits_as_factors(layers)
    freeze(layers, SCAN)
    return layers


def scan_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """An entry is known if it is the same in all iterations."""
    p = eqn.params
    n_consts, n_carry = p["num_consts"], p["num_carry"]
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    if p["length"] == 0:
        empty = [x.aval for x in eqn.outvars[n_carry:]]
        return [*carry, *(unknown(x.shape, x.dtype) for x in empty)]
    # The body is evaluated with the rows of the scanned arrays that are all equal.
    slices = [
        reduce_if_equal(x, [0]).move(lambda y: y[0])
        for x in operands[n_consts + n_carry :]
    ]
    body = lambda carry: interpreter.eval_closed_jaxpr(
        p["jaxpr"], [*consts, *carry, *slices]
    )
    carry, out = _fixpoint(interpreter, body, carry)
    if interpreter.path in interpreter.layers:
        rows = operands[n_consts + n_carry :]
        found = unchanged_by(p["jaxpr"], consts, carry, rows)
        interpreter.unchanged[interpreter.path] = found
    stack = lambda y: np.broadcast_to(y, (p["length"], *y.shape))
    return [*carry, *(x.move(stack) for x in out[n_carry:])]


def scan_small(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Scan over the small body, along the layers that stay."""
    p, path, found = eqn.params, interpreter.path, interpreter.found
    n_consts, n_carry = p["num_consts"], p["num_carry"]
    consts, first_row = operands[:n_consts], n_consts + n_carry
    xs, length = list(operands[first_row:]), p["length"]
    if xs:
        layers = interpreter.axes.layers[path]
        length = len(interpreter.kept(layers))
        for i, value in enumerate(found.operands[first_row:]):
            wanted = [layers, *value.axes[1:]]
            xs[i] = interpreter.aligned(xs[i], value.axes, wanted)
    carried = found.results[:n_carry]
    init = [
        interpreter.aligned(x, before.axes, after.axes)
        for x, before, after in zip(
            operands[n_consts:], found.operands[n_consts:], carried, strict=False
        )
    ]
    slices = [AxisValue(y.axes[1:]) for y in found.results[n_carry:]]

    def body(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
        inner = interpreter.at(path)
        out = called(inner, p["jaxpr"], [*consts, *carry, *row], [*carried, *slices])
        return out[:n_carry], out[n_carry:]

    options = {name: p[name] for name in ("reverse", "unroll")}
    carry, out = lax.scan(body, init, xs, length=length, **options)
    return [*carry, *out]


register("scan", axes=scan_axes, values=scan_values, small=scan_small)


def while_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Unify the carry before and after."""
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_cond, of_body = operands[:n_cond], operands[n_cond : n_cond + n_body]
    carry = [
        AxisValue(tuple(map(_varying, x.axes))) for x in operands[n_cond + n_body :]
    ]
    _ = interpreter.eval_closed_jaxpr(eqn.params["cond_jaxpr"], [*of_cond, *carry])
    out = interpreter.eval_closed_jaxpr(eqn.params["body_jaxpr"], [*of_body, *carry])
    return [
        AxisValue(tuple(unified_axes((x, y)))) for x, y in zip(carry, out, strict=True)
    ]


def while_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """An entry is known if no iteration changes it."""
    p = eqn.params
    n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
    of_cond, of_body = operands[:n_cond], operands[n_cond : n_cond + n_body]

    def body(carry: Sequence[PartialValue]) -> list[PartialValue]:
        # The condition may contract arrays, too, whose operands are kept.
        _ = interpreter.eval_closed_jaxpr(p["cond_jaxpr"], [*of_cond, *carry])
        return interpreter.eval_closed_jaxpr(p["body_jaxpr"], [*of_body, *carry])

    return list(_fixpoint(interpreter, body, operands[n_cond + n_body :])[0])


def while_small(interpreter: SmallInterpreter, eqn: Any, *operands: Any) -> list[Any]:
    """Loop over the small body."""
    p, path, found = eqn.params, interpreter.path, interpreter.found
    n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
    n_consts = n_cond + n_body
    rows = zip(
        operands[n_consts:], found.operands[n_consts:], found.results, strict=True
    )
    init = [interpreter.aligned(x, a.axes, b.axes) for x, a, b in rows]
    predicate = [AxisValue(())]

    def test(carry: list[Any]) -> Any:
        args = [*operands[:n_cond], *carry]
        return called(interpreter.at(path), p["cond_jaxpr"], args, predicate)[0]

    def body(carry: list[Any]) -> list[Any]:
        args = [*operands[n_cond:n_consts], *carry]
        return called(interpreter.at(path), p["body_jaxpr"], args, found.results)

    return lax.while_loop(test, body, init)


register("while", axes=while_axes, values=while_values, small=while_small)


def called(
    interpreter: SmallInterpreter,
    closed: Any,
    args: Sequence[Any],
    wanted: Sequence[AxisValue],
) -> list[Any]:
    """Return the outputs of a jaxpr with the positions that stay along other axes."""
    axes = interpreter.axes.outputs[interpreter.path, id(closed)]
    out = interpreter.eval_closed_jaxpr(closed, args)
    rows = zip(out, axes, wanted, strict=True)
    return [interpreter.aligned(x, a.axes, b.axes) for x, a, b in rows]


def _varying(axis: Axis) -> Axis:
    """Return an axis that has index sets in place of uniform dims."""
    return tuple((index_set or IndexSet(n), n) for index_set, n in axis)


def _fixpoint(
    interpreter: ValueInterpreter,
    body: Callable[[Sequence[PartialValue]], list[PartialValue]],
    carry: Sequence[PartialValue],
) -> tuple[Sequence[PartialValue], list[PartialValue]]:
    """Return what is known of a loop's carry in all iterations, and of its outputs.

    What is known of the carry is that of its start. An iteration can only take away
    from it: the body is evaluated until it takes nothing away. Then it holds at the
    start of every iteration, by induction. That may take as many passes as there are
    entries; after some, all of the carry is taken to be unknown, which always holds.
    """
    interpreter.loop_depth += 1
    out: list[PartialValue] = []
    for n_passes in itertools.count():
        out = body(carry)
        after = [meet(x, y) for x, y in zip(carry, out, strict=False)]
        pairs = zip(carry, after, strict=True)
        if all(np.array_equal(x.unknown_mask, y.unknown_mask) for x, y in pairs):
            break
        if n_passes == _MAX_PASSES:
            after = [unknown(x.value.shape, x.value.dtype) for x in after]
        carry = after
    interpreter.loop_depth -= 1
    return carry, out
