"""Checks of concrete numbers; traced ones pass."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Scalar, shape_dtype_of


def check_step_size(step_size: Scalar, dtype: Any) -> jax.Array:
    """Return the step size as an array of rank 0.

    Raises:
      ValueError: it is negative or NaN, or not one number.
    """
    if isinstance(step_size, numbers.Real) and not float(step_size) >= 0:
        raise ValueError(
            f"`step_size` must be nonnegative, got {step_size}. It is the product of "
            "learning rate and strength."
        )
    step = jnp.asarray(step_size, dtype)
    if step.ndim:
        raise ValueError(
            f"`step_size` must be one number, got shape {step.shape}. Use `jax.vmap` "
            "for several, and `metric_prox` for one step per entry."
        )
    return step


def check_parameter(
    name: str,
    value: float,
    *,
    above: float | None = None,
    at_least: float = -math.inf,
    below: float | None = None,
    at_most: float = math.inf,
    integer: bool = False,
    finite: bool = False,
) -> None:
    """Raise unless a structure parameter is a number in its domain.

    Raises:
      TypeError: it is no number, or no integer where one is needed.
      ValueError: it lies outside the domain.
    """
    kind = numbers.Integral if integer else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        what = "an integer" if integer else "a number"
        raise TypeError(f"`{name}` must be {what}, got {value!r}.")
    if above is not None and not value > above:
        raise ValueError(f"`{name}` must be greater than {above}, got {value}.")
    if not value >= at_least:
        raise ValueError(f"`{name}` must be at least {at_least}, got {value}.")
    if below is not None and not value < below:
        raise ValueError(f"`{name}` must be less than {below}, got {value}.")
    if not value <= at_most:
        raise ValueError(f"`{name}` must be at most {at_most}, got {value}.")
    if finite and not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value}.")


def check_metric(metric: ArrayLike, x: jax.Array) -> jax.Array:
    """Return the metric in the shape and dtype of ``x``, or raise a ValueError."""
    try:
        return jnp.broadcast_to(jnp.asarray(metric, x.dtype), x.shape)
    except ValueError as error:
        raise ValueError(
            f"`metric` must broadcast to the array's shape {x.shape}, got shape "
            f"{np.shape(metric)}. Give one positive number per entry."
        ) from error


def rounding_unit(x: ArrayLike) -> float:
    """Return the rounding unit of an array's own dtype, before it is widened."""
    return float(jnp.finfo(shape_dtype_of(x)[1]).eps)
