"""The rules of primitives that compute each entry from those at the same position."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmda_jax.shrink.interpret._axes import AxisInterpreter, AxisValue, freeze_all
from rmda_jax.shrink.interpret._index_sets import length, uniform
from rmda_jax.shrink.interpret._interpreter import register
from rmda_jax.shrink.interpret._small import run_aligned
from rmda_jax.shrink.interpret._unification import unify
from rmda_jax.shrink.interpret._values import (
    PartialValue,
    ValueInterpreter,
    all_or_nothing,
    computed,
    known_if_finite,
)


def same_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> Sequence[AxisValue]:
    """Pass the axes on; a leaf that is scaled or rounded is taken for the leaf."""
    del interpreter, eqn
    return operands


def unary_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue, *others: PartialValue
) -> list[PartialValue]:
    """An entry is known where the operand is."""
    if others:
        return all_or_nothing(interpreter, eqn, x, *others)
    return [computed(eqn, (x,), x.unknown_mask)]


register(
    "abs neg sign floor ceil round exp exp2 log log1p expm1 tanh sin cos tan asin "
    "acos atan sinh cosh asinh acosh atanh logistic sqrt rsqrt cbrt erf erfc erf_inv "
    "lgamma digamma integer_pow square is_finite not reduce_precision real imag conj "
    "population_count clz name device_put reciprocal bessel_i0e bessel_i1e",
    axes=same_axes,
    values=unary_values,
)


def same_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> Sequence[PartialValue]:
    """Pass on what is known of the operands."""
    del interpreter, eqn
    return operands


register(
    "copy copy_p stop_gradient optimization_barrier sharding_constraint pvary reshard "
    "layout_constraint",
    axes=same_axes,
    values=same_values,
    views=True,
)


def cast_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue
) -> list[PartialValue]:
    """An entry is known where the operand is; a cast leaf is still a leaf."""
    del interpreter
    cast = known_if_finite(x.value.astype(eqn.params["new_dtype"]), x.unknown_mask)
    return [cast._replace(provenance=x.provenance)]


def bitcast_axes(
    interpreter: AxisInterpreter, eqn: Any, x: AxisValue
) -> Sequence[AxisValue]:
    """Pass the axes on, if the new dtype is as wide as the old one."""
    if eqn.outvars[0].aval.shape == eqn.invars[0].aval.shape:
        return [x]
    return freeze_all(interpreter, eqn, x)


def bitcast_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue
) -> list[PartialValue]:
    """An entry is known where the operand is, if the new dtype is as wide."""
    same_shape = eqn.outvars[0].aval.shape == x.value.shape
    rule = unary_values if same_shape else all_or_nothing
    return rule(interpreter, eqn, x)


register("bitcast_convert_type", axes=bitcast_axes, values=bitcast_values)
register("convert_element_type", axes=same_axes, values=cast_values, views=True)


def elementwise_axes(
    interpreter: AxisInterpreter, eqn: Any, *operands: AxisValue
) -> list[AxisValue]:
    """Unify the axes of all operands."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    # The predicate of a select and the bounds of a clamp may be scalars.
    arrays = [x for x in operands if len(x.axes) == len(shape)]
    axes = [uniform(n) for n in shape]
    for x in arrays:
        # An axis of length 1 is stretched.
        rows = zip(axes, x.axes, shape, strict=True)
        axes = [unify(a, b) if length(b) == n else a for a, b, n in rows]
    # Scalars and arrays that are the same everywhere leave a leaf what it is: 2 * w is
    # a view of w for its roles. Two varying operands make a new array.
    varying = [x for x in arrays if any(s is not None for a in x.axes for s, _ in a)]
    if len(varying) == 1:
        return [AxisValue(tuple(axes), varying[0].leaf)]
    role = {"add": "shifts", "sub": "shifts", "mul": "scales", "div": "scales"}
    for x in varying:
        interpreter.record_role(x, range(len(shape)), role.get(name) or str(name))
    return [AxisValue(tuple(axes))]


def elementwise_values(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """An entry is known where all operands are."""
    del interpreter
    unknown_mask = np.broadcast_to(False, eqn.outvars[0].aval.shape)
    for x in operands:
        unknown_mask = unknown_mask | x.unknown_mask
    return [computed(eqn, operands, unknown_mask)]


register(
    "add sub max min pow rem atan2 nextafter and or xor eq ne lt le gt ge clamp "
    "add_any shift_left shift_right_logical shift_right_arithmetic complex mulhi "
    "igamma igammac igamma_grad_a random_gamma_grad polygamma zeta "
    "regularized_incomplete_beta",
    axes=elementwise_axes,
    values=elementwise_values,
    small=run_aligned,
)


def product_values(
    interpreter: ValueInterpreter, eqn: Any, x: PartialValue, y: PartialValue
) -> list[PartialValue]:
    """Also known are the zeros that a known zero makes: 0 * y, x * 0, 0 / y."""
    del interpreter
    zero = np.broadcast_to(x.zero, eqn.outvars[0].aval.shape)
    if eqn.primitive.name == "mul":
        zero = zero | y.zero
    unknown_mask = x.unknown_mask | y.unknown_mask
    if not zero.any():
        return [computed(eqn, (x, y), unknown_mask)]
    out = computed(eqn, (x, y), unknown_mask & ~zero)
    # An unknown divisor was 0 when the equation was run: put 0 in place of 0 / 0.
    value = np.where(zero, np.zeros((), out.value.dtype), out.value)
    return [PartialValue(value, np.where(zero, False, out.unknown_mask))]


register("mul div", axes=elementwise_axes, values=product_values, small=run_aligned)


def select_values(
    interpreter: ValueInterpreter, eqn: Any, which: PartialValue, *cases: PartialValue
) -> list[PartialValue]:
    """An entry is known where the chosen one is, or if it is equal in all cases.

    ``jnp.where(x > 0, 0, 0)`` is 0 whatever x is.
    """
    del interpreter
    shape = eqn.outvars[0].aval.shape
    in_all = cases[0]
    for case in cases[1:]:
        in_all = meet(in_all, case)
    index = np.broadcast_to(which.value, shape).astype(int)
    choose = lambda arrays: np.choose(index, arrays)
    unknown_mask = np.where(
        which.unknown_mask,
        in_all.unknown_mask,
        choose([x.unknown_mask for x in cases]),
    )
    value = np.where(which.unknown_mask, in_all.value, choose([x.value for x in cases]))
    value = np.where(unknown_mask, np.zeros((), in_all.value.dtype), value)
    return [PartialValue(value, unknown_mask)]


register("select_n", axes=elementwise_axes, values=select_values, small=run_aligned)


def meet(x: PartialValue, y: PartialValue) -> PartialValue:
    """Return the entries that are known of both and equal: they hold of either."""
    same = ~x.unknown_mask & ~y.unknown_mask & (x.value == y.value)
    return PartialValue(np.where(same, x.value, np.zeros((), x.value.dtype)), ~same)
