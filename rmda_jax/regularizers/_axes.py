"""Axes as users write them, and as arrays count them."""

import numbers
from collections.abc import Iterable

from rmda_jax._types import Shape


def normalized_axes(
    axes: tuple[int, ...], shape: Shape, name: str = "group_axes"
) -> tuple[int, ...]:
    """Return ``axes`` counted from the front, or raise a ValueError."""
    ndim = len(shape)
    for axis in axes:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"`{name}` must lie in [{-ndim}, {ndim}) for an array of shape "
                f"{shape}, got {axis}. Use another axis, or leave the array out of "
                "the rules."
            )
    front = tuple(axis % ndim for axis in axes)
    if len(set(front)) < len(front):
        raise ValueError(
            f"`{name}` must name different axes, got {axes} for an array of shape "
            f"{shape}."
        )
    return front


def as_axes(axes: int | tuple[int, ...], name: str = "group_axes") -> tuple[int, ...]:
    """Return one axis or several as a tuple of ints.

    Raises:
      TypeError: one of them is not an integer.
    """
    several = tuple(axes) if isinstance(axes, Iterable) else (axes,)
    if not all(isinstance(axis, numbers.Integral) for axis in several):
        raise TypeError(f"`{name}` must hold integers, got {axes!r}.")
    return tuple(int(axis) for axis in several)
