"""Type aliases shared by all subpackages."""

import functools
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


def wide_dtype(*dtypes: Any) -> Any:
    """The dtype to compute and accumulate in: the widest, and at least float32."""
    # Widening is meant here, also where users forbid that it happens by itself.
    with jax.numpy_dtype_promotion("standard"):
        canonical = map(jax.dtypes.canonicalize_dtype, dtypes)
        return functools.reduce(jnp.promote_types, canonical, jnp.dtype("float32"))


def shape_dtype_of(x: Any) -> tuple[Shape, Any]:
    """Shape and dtype of an array, a tracer, a ShapeDtypeStruct or a number."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return tuple(x.shape), x.dtype
    aval = jax.eval_shape(jnp.asarray, x)
    return aval.shape, aval.dtype


def shape_dtype_of_leaf(name: str, leaf: Any) -> tuple[Shape, Any]:
    """As `shape_dtype_of`, or raise a TypeError that names a leaf which is no array."""
    try:
        return shape_dtype_of(leaf)
    except TypeError as error:
        raise TypeError(
            f"parameters must be arrays, got {leaf!r} for parameter '{name}'. Leave "
            "other leaves out: with Equinox, pass eqx.filter(model, "
            "eqx.is_inexact_array)."
        ) from error


def dtype_name(dtype: Any) -> str:
    """Name a dtype, one of JAX's own, such as that of random keys, too."""
    extended = jnp.issubdtype(dtype, jax.dtypes.extended)
    return str(dtype) if extended else jnp.dtype(dtype).name
