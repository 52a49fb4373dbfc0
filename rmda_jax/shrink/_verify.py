"""Compare a function before and after."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path

from rmda_jax._types import Params, shape_dtype_of
from rmda_jax.shrink._checks import check_call
from rmda_jax.shrink._plan import Plan
from rmda_jax.specs._names import is_variable, leaf_names


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """How far two functions are apart; made by `verify`."""

    max_abs: float  # of all outputs
    scale: float  # largest absolute value of the old outputs

    @property
    def relative(self) -> float:
        """``max_abs`` over ``scale``; float32 rounding leaves some 1e-6."""
        return self.max_abs / self.scale if self.scale else self.max_abs

    def __str__(self) -> str:
        return f"max |old - new| = {self.max_abs:.1e}, max |old| = {self.scale:.1e}"


def verify(
    fn: Callable[..., Any],
    params: Params,
    small_params: Params,
    *inputs: Any,
    small_fn: Callable[..., Any] | None = None,
    plan: Plan | None = None,
    **options: Any,
) -> OutputDifference:
    """Compare the old and the new function on inputs.

    The params before must still be what they were. `slice_module` changes an NNX module
    in place, and with it the state of an `nnx.split` before, which shares its
    Variables: compare with a copy, ``jax.tree.map(jnp.copy, params)``. With ``plan``,
    the shapes of both trees are checked.

    Args:
      fn: Function of the params and the inputs.
      params: The params before.
      small_params: Those after, of `apply`.
      *inputs: Where to compare.
      small_fn: Function of the small params, if it is another one: if ``fn`` has sizes
        of its own, what `program` returns, or one built anew with ``plan.widths``.
      plan: What `plan` returned: then both trees must have its shapes.
      **options: Given to both as they are.

    Returns:
      The largest absolute difference, and the scale of the outputs.

    Raises:
      ValueError: the outputs differ in structure or shape; the plan is for `program`,
        and ``small_fn`` is not given; both trees share Variables,
        or have not the shapes that the plan has before and after.
      TypeError: as in `trace`.

    Examples:
      >>> from rmda_jax import shrink
      >>> mlp = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((4, 3)), "out": jnp.array([[1.0], [0.0], [2.0]])}
      >>> small = shrink.apply(shrink.plan(mlp, params, jnp.ones((2, 4))), params)
      >>> shrink.verify(mlp, params, small, jnp.ones((2, 4))).max_abs
      0.0
    """
    check_call(fn, params, inputs)
    check_call(small_fn or fn, small_params, inputs, names="small_fn small_params")
    _check_apart(params, small_params, plan)
    if plan is not None and plan.for_program and small_fn is None:
        raise ValueError(
            "`small_fn` must be what `program` returns, for `plan` has "
            "`for_program=True`: `fn` may be wrong on the small params."
        )
    old = jax.jit(lambda p, *x: fn(p, *x, **options))(params, *inputs)
    try:
        new = jax.jit(lambda p, *x: (small_fn or fn)(p, *x, **options))(
            small_params, *inputs
        )
    except Exception as error:
        if small_fn is None:
            error.add_note(_PROGRAM)
        raise
    # By their paths: an ordered dictionary equals others that hold another order.
    outputs = [dict(tree_flatten_with_path(tree)[0]) for tree in (old, new)]
    shapes = [{path: x.shape for path, x in out.items()} for out in outputs]
    if shapes[0] != shapes[1]:
        shown = [jax.tree.map(jnp.shape, tree) for tree in (old, new)]
        raise ValueError(
            f"both functions must return the same shapes, got {shown[0]} and "
            f"{shown[1]}. {_PROGRAM}"
        )
    max_abs, scale = 0.0, 0.0
    for path, x in outputs[0].items():
        x, y = np.asarray(x, np.float64), np.asarray(outputs[1][path], np.float64)
        # NaN counts: it is not left out of a maximum.
        max_abs = max(max_abs, float(np.max(np.abs(x - y), initial=0)), key=_nan_last)
        scale = max(scale, float(np.max(np.abs(x), initial=0)), key=_nan_last)
    return OutputDifference(max_abs, scale)


def _check_apart(params: Params, small: Params, plan: Plan | None) -> None:
    """Raise if the params are not those of before, but the small ones."""
    boxes = [
        {id(x) for x in jax.tree.leaves(tree, is_leaf=is_variable) if is_variable(x)}
        for tree in (params, small)
    ]
    if boxes[0] and boxes[0] == boxes[1]:
        raise ValueError(
            "`params` and `small_params` must be apart, got the same Variables in "
            f"both. {_COPY}"
        )
    if plan is None:
        _warn_alike(params, small)
        return
    for argument, tree, shapes in (
        ("params", params, plan.shapes),
        ("small_params", small, plan.widths),
    ):
        names = leaf_names(tree)
        if not shapes.keys() & set(names):
            raise ValueError(
                f"`{argument}` must have leaves that `plan` names, got "
                f"{', '.join(names)}, and in the plan: {', '.join(shapes)}."
            )
        for name, x in zip(names, jax.tree.leaves(tree), strict=True):
            shape = shape_dtype_of(x)[0]
            if shape != shapes.get(name, shape):
                raise ValueError(
                    f"`{argument}` must have the plan's shape {shapes[name]} of "
                    f"'{name}', got {shape}. {_COPY}"
                )


def _warn_alike(params: Params, small: Params) -> None:
    shapes = [
        [shape_dtype_of(x)[0] for x in jax.tree.leaves(t)] for t in (params, small)
    ]
    if shapes[0] == shapes[1] and any(shapes[0]):
        warnings.warn(
            "`params` and `small_params` have the same shapes: either nothing was cut, "
            "or `params` are the small ones, too, and the difference says nothing. "
            f"Pass `plan=`, which tells. {_COPY}",
            stacklevel=4,
        )


_PROGRAM = (
    "A function that checks the shapes of its params, or keeps sizes of its own, does "
    "not run on small ones: `shrink.program` returns one that does, for `small_fn`."
)

_COPY = (
    "`slice_module` changes NNX modules in place, with every state that `nnx.split` "
    "returned of them: before it, take `params = jax.tree.map(jnp.copy, params)`."
)


def _nan_last(x: float) -> float:
    return np.inf if np.isnan(x) else x
