"""Functions with derivatives of their own, on the arrays that are left.

An equation of `jax.custom_jvp` or `jax.custom_vjp` stands for a function, and for rules
that were traced, or will be, at the old shapes. So its derivative is traced at the old
shapes, its axes are found, and it is evaluated on small arrays, as the function is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax.shrink.interpret._axes import AxisInterpreter, AxisValue
from rmda_jax.shrink.interpret._index_sets import (
    Axis,
    IndexSet,
    UnitMasks,
    removed_along,
)
from rmda_jax.shrink.interpret._small import (
    KEEP,
    CannotShrinkError,
    SmallInterpreter,
    bind,
    removed_units,
)


class Array(NamedTuple):
    """An array of the old shape, and which positions along its axes are removed."""

    aval: Any
    axes: tuple[Axis, ...]
    removed: tuple[np.ndarray, ...]


class Small(NamedTuple):
    """A jaxpr with the axes of its arrays, to be evaluated on small ones."""

    closed: Any
    interpreter: SmallInterpreter
    outputs: list[AxisValue]

    def __call__(self, args: Sequence[Any], wanted: Sequence[Array]) -> list[Any]:
        """Return the outputs that belong to some arrays, small as they are."""
        out = self.interpreter.at(()).eval_closed_jaxpr(self.closed, args)
        found = []
        for x, value, array in zip(out, self.outputs, wanted, strict=False):
            for i, (axis, removed) in enumerate(
                zip(value.axes, array.removed, strict=True)
            ):
                x = self.interpreter.fitted(x, i, axis, np.flatnonzero(~removed))
            found.append(x)
        return found + out[len(found) :]


def with_jvp(
    interpreter: SmallInterpreter, eqn: Any, fn: Callable[..., Any], operands: Any
) -> list[Any]:
    """Call a small function of `jax.custom_jvp`, with its derivative."""
    inputs, outputs = _arrays(interpreter)
    consts, operands, places = _apart(eqn, operands)
    fn = functools.partial(fn, *consts)
    moving = [i for i in places if _is_inexact(inputs[i].aval)]
    varying = [i for i, x in enumerate(outputs) if _is_inexact(x.aval)]

    @functools.cache
    def derivative() -> Small:
        def jvp(primals: list[Any], tangents: list[Any]) -> Any:
            out, moved = jax.jvp(
                _of_some(eqn, primals, moving), [primals[i] for i in moving], tangents
            )
            return out, [moved[i] for i in varying]

        avals = [x.aval for x in inputs]
        closed = jax.make_jaxpr(jvp)(avals, [avals[i] for i in moving])
        arrays = [*inputs, *(inputs[i] for i in moving)]
        return small(closed, arrays, interpreter.label)

    @jax.custom_jvp
    def run(*xs: Any) -> list[Any]:
        return list(fn(*xs))

    @run.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        args = [*consts, *primals, *(tangents[places.index(i)] for i in moving)]
        found = derivative()(args, [*outputs, *(outputs[i] for i in varying)])
        out, moved = found[: len(outputs)], iter(found[len(outputs) :])
        return out, [
            next(moved) if i in varying else np.zeros(x.shape, jax.dtypes.float0)
            for i, x in enumerate(out)
        ]

    return run(*operands)


def with_vjp(
    interpreter: SmallInterpreter, eqn: Any, fn: Callable[..., Any], operands: Any
) -> list[Any]:
    """Call a small function of `jax.custom_vjp`, with its derivative."""
    inputs, outputs = _arrays(interpreter)
    consts, operands, places = _apart(eqn, operands)
    fn = functools.partial(fn, *consts)
    moving = [i for i in places if _is_inexact(inputs[i].aval)]
    varying = [i for i, x in enumerate(outputs) if _is_inexact(x.aval)]

    @functools.cache
    def derivative() -> tuple[Small, Small]:
        trees: list[Any] = []

        def forward(*primals: Any) -> Any:
            out, vjp = jax.vjp(
                _of_some(eqn, primals, moving), *(primals[i] for i in moving)
            )
            residuals, tree = jax.tree.flatten(vjp)
            trees.append(tree)
            return out, residuals

        def backward(residuals: list[Any], cotangents: list[Any]) -> Any:
            given = iter(cotangents)
            full = [
                next(given)
                if i in varying
                else np.zeros(x.aval.shape, jax.dtypes.float0)
                for i, x in enumerate(outputs)
            ]
            return jax.tree.unflatten(trees[0], residuals)(full)

        closed = jax.make_jaxpr(forward)(*(x.aval for x in inputs))
        ahead = small(closed, inputs, interpreter.label)
        rows = zip(closed.out_avals, ahead.outputs, strict=True)
        found = [_array(x, value, ahead.interpreter.removed) for x, value in rows]
        residuals = found[len(outputs) :]
        moved = [outputs[i] for i in varying]
        back = jax.make_jaxpr(backward)(
            [x.aval for x in residuals], [x.aval for x in moved]
        )
        return ahead, small(back, [*residuals, *moved], interpreter.label)

    @jax.custom_vjp
    def run(*xs: Any) -> list[Any]:
        return list(fn(*xs))

    def forward(*xs: Any) -> Any:
        found = derivative()[0]([*consts, *xs], outputs)
        return found[: len(outputs)], found[len(outputs) :]

    def backward(residuals: Any, cotangents: Any) -> Any:
        args = [*residuals, *(cotangents[i] for i in varying)]
        found = iter(derivative()[1](args, [inputs[i] for i in moving]))
        return tuple(next(found) if i in moving else None for i in places)

    _ = run.defvjp(forward, backward)
    return run(*operands)


def small(closed: Any, arrays: Sequence[Array], label: str) -> Small:
    """Find the axes of a jaxpr, and which units are removed along them.

    Args:
      closed: The jaxpr.
      arrays: What it is called with.
      label: The equation whose derivative it is, for the message.

    Raises:
      CannotShrinkError: it combines units that stay with units that go.
    """
    values = [AxisValue(tuple(map(_renewed, x.axes))) for x in arrays]
    axes = AxisInterpreter(for_program=True)
    outputs = axes.eval_closed_jaxpr(closed, values)
    try:
        removed = removed_units(values, [x.removed for x in arrays])
    except CannotShrinkError as error:
        raise CannotShrinkError(
            f"the derivative of {label} has no small form: {error} {KEEP}"
        ) from None
    return Small(closed, SmallInterpreter(axes, removed), outputs)


def _renewed(axis: Axis) -> Axis:
    """Return an axis of new index sets, which nothing has been unified with."""
    return tuple((None if s is None else IndexSet(n), n) for s, n in axis)


def _array(aval: Any, value: AxisValue, removed: UnitMasks) -> Array:
    masks = tuple(removed_along(axis, removed) for axis in value.axes)
    return Array(jax.ShapeDtypeStruct(aval.shape, aval.dtype), value.axes, masks)


def _arrays(interpreter: SmallInterpreter) -> tuple[list[Array], list[Array]]:
    """Return the operands and the results of the equation that is evaluated."""
    found = interpreter.found
    inputs, outputs = (
        [
            _array(var.aval, value, interpreter.removed)
            for var, value in zip(variables, values, strict=True)
        ]
        for variables, values in (
            (found.eqn.invars, found.operands),
            (found.eqn.outvars, found.results),
        )
    )
    return inputs, outputs


def _apart(eqn: Any, operands: Sequence[Any]) -> tuple[list[Any], list[Any], range]:
    """Return the arrays that a function closes over, its arguments, and their places.

    Its derivative is by the arguments alone: JAX raises where it is asked for another.
    """
    n_consts = eqn.params.get("num_consts", 0)
    consts, arguments = list(operands[:n_consts]), list(operands[n_consts:])
    return consts, arguments, range(n_consts, len(operands))


def _of_some(eqn: Any, operands: Sequence[Any], moving: Sequence[int]) -> Any:
    """Return the function of an equation of some of its operands."""

    def fn(*some: Any) -> list[Any]:
        new = dict(zip(moving, some, strict=True))
        return bind(eqn, [new.get(i, x) for i, x in enumerate(operands)])

    return fn


def _is_inexact(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, np.inexact))
