"""The rules of reshape and squeeze."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from rmda_jax.shrink.interpret._axes import AxisInterpreter, AxisValue
from rmda_jax.shrink.interpret._interpreter import register
from rmda_jax.shrink.interpret._small import SmallInterpreter, bind, take
from rmda_jax.shrink.interpret._unification import reshaped
from rmda_jax.shrink.interpret._values import moved


def reshape_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue
) -> list[AxisValue]:
    """Split and merge the axes in C order, after a permutation if there is one."""
    # A function of its own has no full arrays to keep digits in; a program has.
    shape, digits = eqn.outvars[0].aval.shape, interpreter.for_program
    axes = reshaped(_permuted(eqn, x).axes, shape, digits=digits)
    return [AxisValue(tuple(axes), x.leaf)]


def _permuted(eqn: Any, x: AxisValue) -> AxisValue:
    """Return an operand with its axes in the order in which they are reshaped.

    A reshape has an order of its own where `jax.vmap` made it of another.
    """
    order = eqn.params.get("dimensions")
    return x if order is None else AxisValue(tuple(x.axes[i] for i in order), x.leaf)


def reshape_small(interpreter: SmallInterpreter, eqn: Any, x: Any) -> list[Any]:
    """Reshape to the small shape; sums that are digits before or after are whole.

    There nothing reads what is removed: it is a copy of what lies beside it.
    """
    (operand,), (result,) = interpreter.found.operands, interpreter.found.results
    operand = _permuted(eqn, operand)
    if eqn.params.get("dimensions") is not None:
        x = jnp.transpose(x, eqn.params["dimensions"])
    digits = [s.root for axis in operand.axes + result.axes for s, _ in axis if s]
    sums = [digit.parts[0] for digit in digits if digit.kind == "digit"]
    atoms = {atom for s in sums for atom, _ in s.atoms()}
    whole = interpreter.without(atoms) if atoms else interpreter
    for i, axis in enumerate(operand.axes):
        kept, wanted = interpreter.kept(axis), whole.kept(axis)
        if not len(kept) and len(wanted):  # nothing lies beside it
            x = jnp.zeros((*x.shape[:i], len(wanted), *x.shape[i + 1 :]), x.dtype)
        elif len(kept) < len(wanted):
            beside = np.searchsorted(kept, wanted).clip(max=len(kept) - 1)
            x = take(x, beside, i)
    (y,) = bind(eqn, [x], new_sizes=whole.shape(result), dimensions=None)
    for i, axis in enumerate(result.axes):
        kept, found = interpreter.kept(axis), whole.kept(axis)
        if len(kept) < len(found):
            y = take(y, np.searchsorted(found, kept), i)
    return [y]


def _reshape(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    order = params.get("dimensions")
    x = x if order is None else x.transpose(order)
    return x.reshape(params["new_sizes"])


register(
    "reshape",
    axes=reshape_axes,
    values=moved(_reshape),
    views=True,
    small=reshape_small,
)


def squeeze_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue
) -> list[AxisValue]:
    """Drop axes of length 1."""
    del interpreter
    axes = reshaped(x.axes, eqn.outvars[0].aval.shape)
    return [AxisValue(tuple(axes), x.leaf)]


register(
    "squeeze",
    axes=squeeze_axes,
    values=moved(lambda x, params: x.squeeze(params["dimensions"])),
    views=True,
)
