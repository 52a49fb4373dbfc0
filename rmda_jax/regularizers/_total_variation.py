"""Total variation along an axis, exactly, by dynamic programming."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax._types import Shape
from rmda_jax.regularizers._axes import normalized_axes
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._spelling import call


@dataclasses.dataclass(frozen=True, repr=False)
class TotalVariation(Regularizer):
    r""":math:`\rho\|x\|_1 + (1-\rho)\sum_j |x_{j+1} - x_j|` along ``axis``.

    The prox of the sum is the soft threshold of the prox of the variation (Friedman et
    al., 2007). It runs along the axis in sequence: keep the axis unsharded, and do not
    expect a GPU to like it. It has no reverse-mode derivative.
    """

    axis: int = -1
    l1_ratio: float = 0.0

    def __post_init__(self):
        check_parameter("l1_ratio", self.l1_ratio, at_least=0, at_most=1)

    def __str__(self) -> str:
        axis = {} if self.axis == -1 else {"axis": self.axis}
        if self.l1_ratio == 0:
            return call("total_variation", **axis)
        ratio = {} if self.l1_ratio == 0.5 else {"l1_ratio": self.l1_ratio}
        return call("fused_lasso", **axis, **ratio)

    @property
    def is_convex(self) -> bool:
        return True

    @property
    def is_homogeneous(self) -> bool:
        return True

    def _check(self, shape: Shape) -> None:
        _ = normalized_axes((self.axis,), shape, name="axis")

    def _value(self, x: jax.Array) -> jax.Array:
        variation = jnp.sum(jnp.abs(jnp.diff(x, axis=self.axis)))
        return self.l1_ratio * jnp.sum(jnp.abs(x)) + (1 - self.l1_ratio) * variation

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        y = jnp.where(t == 0, x, _denoise_along(self.axis, x, t * (1 - self.l1_ratio)))
        r = jnp.maximum(jnp.abs(y) - t * self.l1_ratio, 0)
        return jnp.where(r == 0, 0, jnp.where(y < 0, -r, r))

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        """Flag the jumps: one flag fewer than entries along the axis."""
        del eps
        return jnp.diff(x, axis=self.axis) != 0


class _Knots(NamedTuple):
    """A double-ended queue of knots: right of ``x`` the line gains ``(a, b)``."""

    x: jax.Array
    a: jax.Array
    b: jax.Array
    left: jax.Array
    right: jax.Array

    def meet(
        self, slope: jax.Array, offset: jax.Array, level: jax.Array, step: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Follow the line inwards (``step`` 1: from the left) until it meets a level.

        Returns the first knot not passed, and slope and offset of the line there.
        """

        def passed(state):
            i, slope, offset = state
            value = slope * self.x[i] + offset
            return (self.left <= i) & (i <= self.right) & (step * (level - value) >= 0)

        def cross(state):
            i, slope, offset = state
            return i + step, slope + step * self.a[i], offset + step * self.b[i]

        start = self.left if step == 1 else self.right
        return lax.while_loop(passed, cross, (start, slope, offset))

    def push(
        self, left: jax.Array, right: jax.Array, low: tuple, high: tuple
    ) -> "_Knots":
        x, a, b = (
            column.at[left].set(new_low).at[right].set(new_high)
            for column, new_low, new_high in zip(self[:3], low, high, strict=True)
        )
        return _Knots(x, a, b, left, right)


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnames="axis", inline=True)
def _denoise_along(axis: int, x: jax.Array, t: jax.Array) -> jax.Array:
    """Minimise as `_denoise` does over every row along the axis."""
    solve = _denoise
    for _ in range(x.ndim - 1):
        solve = jax.vmap(solve, in_axes=(0, None))
    return jnp.moveaxis(solve(jnp.moveaxis(x, axis, -1), t), -1, axis)


def _denoise(y: jax.Array, t: jax.Array) -> jax.Array:
    r"""Minimise :math:`\tfrac12\|x-y\|^2 + t\sum|x_{j+1}-x_j|` over one row.

    The derivative of the best cost of a prefix, as a function of its last entry, is
    piecewise linear and increasing. Forwards it is clipped to [-t, t], where the next
    difference takes over, and gains the line ``x - y_j``; every entry lies in the
    interval of the clip, so backwards it is its successor, clipped. Each knot enters
    and leaves once: linear time (Johnson, 2013, A dynamic programming algorithm for the
    fused lasso and L0-segmentation).
    """
    n = y.shape[0]
    if n < 2:
        return y
    one = jnp.ones((), y.dtype)
    # From this step on the solution is constant; larger ones would only round away y.
    t = jnp.minimum(t, 2 * jnp.max(jnp.abs(jnp.cumsum(y - jnp.mean(y)))))

    def forward(knots: _Knots, current: jax.Array):
        left, slope, offset = knots.meet(one, -current - t, -t, 1)
        low = (-t - offset) / slope
        low_knot = (low, slope, offset + t)
        right, slope, offset = knots._replace(left=left).meet(one, -current + t, t, -1)
        high = (t - offset) / slope
        high_knot = (high, -slope, t - offset)
        return knots.push(left - 1, right + 1, low_knot, high_knot), (low, high)

    def backward(successor: jax.Array, interval: tuple[jax.Array, jax.Array]):
        value = jnp.clip(successor, *interval)
        return value, value

    first = (y[0] - t, y[0] + t)
    empty = jnp.zeros(2 * n, y.dtype)
    knots = _Knots(empty, empty, empty, jnp.int32(n), jnp.int32(n - 1)).push(
        jnp.int32(n - 1),
        jnp.int32(n),
        (first[0], one, t - y[0]),
        (first[1], -one, t + y[0]),
    )
    knots, (lows, highs) = lax.scan(forward, knots, y[1:-1])
    _, slope, offset = knots.meet(one, -y[-1] - t, jnp.zeros_like(t), 1)
    last = -offset / slope
    start, rest = lax.scan(backward, last, (lows, highs), reverse=True)
    x = jnp.concatenate([jnp.clip(start, *first)[None], rest, last[None]])
    return jnp.where(jnp.any(jnp.isnan(y)), jnp.nan, x)
