"""The rules of the primitives that call, branch and loop."""

from typing import Any

from rmda_jax.shrink._flow import Flow, Value, rule, unknown
from rmda_jax.shrink._spaces import Axis, Space, freeze, fresh, join


@rule(
    *"pjit jit closed_call core_call remat checkpoint remat2 custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr custom_lin".split()
)
def call(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Follow the axes into what is called."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            if hasattr(inner, "jaxpr"):
                return flow.closed(inner, operands)
            return flow.run(inner, [], operands)
    return unknown(flow, eqn, *operands)


@rule("cond")
def cond(flow: Flow, eqn: Any, index: Value, *operands: Value) -> list[Value]:
    """Unify what the branches put out."""
    del index
    first, *others = (flow.closed(b, operands) for b in eqn.params["branches"])
    for other in others:
        first = [Value(_joined(x, y)) for x, y in zip(first, other, strict=True)]
    return first


@rule("scan")
def scan(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Unify what is carried; the axis that is scanned over cannot be cut."""
    n_consts, n_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    slices = []
    for x in operands[n_consts + n_carry :]:
        freeze(x.axes[0], "scan")
        slices.append(Value(x.axes[1:], x.leaf))
    # What is carried in may be the same everywhere, as zeros are; what comes out not.
    carry = [Value(tuple(map(_varying, x.axes))) for x in carry]
    out = flow.closed(eqn.params["jaxpr"], [*consts, *carry, *slices])
    carried = [Value(_joined(x, y)) for x, y in zip(carry, out, strict=False)]
    length = eqn.params["length"]
    stacked = [Value((fresh(length, "scan"), *y.axes)) for y in out[n_carry:]]
    return carried + stacked


@rule("while")
def while_(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Unify what is carried."""
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_cond, of_body = operands[:n_cond], operands[n_cond : n_cond + n_body]
    carry = [Value(tuple(map(_varying, x.axes))) for x in operands[n_cond + n_body :]]
    _ = flow.closed(eqn.params["cond_jaxpr"], [*of_cond, *carry])
    out = flow.closed(eqn.params["body_jaxpr"], [*of_body, *carry])
    return [Value(_joined(x, y)) for x, y in zip(carry, out, strict=True)]


def _joined(x: Value, y: Value) -> tuple[Axis, ...]:
    return tuple(join(a, b) for a, b in zip(x.axes, y.axes, strict=True))


def _varying(axis: Axis) -> Axis:
    return tuple((space or Space(size), size) for space, size in axis)
