"""Compare a function before and after."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path

from rmda_jax._types import Params


@dataclasses.dataclass(frozen=True)
class Difference:
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
    **options: Any,
) -> Difference:
    """Compare the old and the new function on inputs.

    Args:
      fn: Function of the params and the inputs.
      params: The params before.
      small_params: Those after, of `apply`.
      *inputs: Where to compare.
      small_fn: Function of the small params, if it is another one: if ``fn`` has sizes
        of its own, it is to be built anew with ``plan.widths``, or by `slice_module`.
      **options: Given to both as they are.

    Returns:
      The largest absolute difference, and the scale of the outputs.

    Raises:
      ValueError: the outputs differ in structure or shape.

    Examples:
      >>> from rmda_jax import shrink
      >>> mlp = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((4, 3)), "out": jnp.array([[1.0], [0.0], [2.0]])}
      >>> small = shrink.apply(shrink.plan(mlp, params, jnp.ones((2, 4))), params)
      >>> shrink.verify(mlp, params, small, jnp.ones((2, 4))).max_abs
      0.0
    """
    old = jax.jit(lambda p, *x: fn(p, *x, **options))(params, *inputs)
    new = jax.jit(lambda p, *x: (small_fn or fn)(p, *x, **options))(
        small_params, *inputs
    )
    # By their paths: an ordered dictionary equals others that hold another order.
    outputs = [dict(tree_flatten_with_path(tree)[0]) for tree in (old, new)]
    shapes = [{path: x.shape for path, x in out.items()} for out in outputs]
    if shapes[0] != shapes[1]:
        shown = [jax.tree.map(jnp.shape, tree) for tree in (old, new)]
        raise ValueError(
            f"both functions must put out the same shapes, got {shown[0]} and "
            f"{shown[1]}."
        )
    max_abs, scale = 0.0, 0.0
    for path, x in outputs[0].items():
        x, y = np.asarray(x, np.float64), np.asarray(outputs[1][path], np.float64)
        # NaN counts: it is not left out of a maximum.
        max_abs = max(max_abs, float(np.max(np.abs(x - y), initial=0)), key=_nan_last)
        scale = max(scale, float(np.max(np.abs(x), initial=0)), key=_nan_last)
    return Difference(max_abs, scale)


def _nan_last(x: float) -> float:
    return np.inf if np.isnan(x) else x
