"""Type aliases shared by all subpackages."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

Params: TypeAlias = Any
"""A pytree of floating arrays: dict, NNX state, Equinox module, Haiku dict, ..."""

Scalar: TypeAlias = ArrayLike
"""A number, or an array of rank 0, traced or not."""

Schedule: TypeAlias = Callable[[ArrayLike], ArrayLike]
"""Number of updates so far -> value, as in Optax."""

ScalarOrSchedule: TypeAlias = optax.ScalarOrSchedule
"""Optax's own, by which tools find out that a parameter may be a schedule."""

Shape: TypeAlias = tuple[int, ...]

Arrays: TypeAlias = Any
"""One array; or a tuple of arrays, where groups span several leaves."""

Shapes: TypeAlias = Any
"""The shape of one array, or a tuple of shapes; as `Arrays`."""


def wide_dtype(dtype: Any) -> Any:
    """The dtype to compute and accumulate in: `dtype`, but at least float32."""
    return jnp.promote_types(jax.dtypes.canonicalize_dtype(dtype), jnp.float32)


def spec_of(x: Any) -> tuple[Shape, Any]:
    """Shape and dtype of an array, a tracer, a ShapeDtypeStruct or a number."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return tuple(x.shape), x.dtype
    aval = jax.eval_shape(jnp.asarray, x)
    return aval.shape, aval.dtype
