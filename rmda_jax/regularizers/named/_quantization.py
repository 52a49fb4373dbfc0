"""The named regularizer of levels that are given or estimated, and their estimate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._piecewise_affine import PiecewiseAffine


def piecewise_affine(levels: Any, *, channel_axis: int | None = None) -> Regularizer:
    r"""PARQ: arcs between given levels, for quantization-aware training.

    .. math:: \psi(x) = \sum_i \tfrac12 (x_i - a_i)(b_i - x_i), \qquad
        a_i \le x_i \le b_i \text{ neighbouring levels}

    and infinity beyond the outermost levels. With a step t < 1 the prox is the
    piecewise-affine map of PARQ's code: inside of :math:`[a, b]` with midpoint c it is
    :math:`c + (x - c) / (1 - t)`, cut to [a, b]. From t = 1 on it is the nearest level,
    halfway the upper one. So the strength (times gamma) is 1 minus PARQ's inverse
    slope: give `rmda_jax.parq_annealing` for it, and a fixed gamma of 1.

    The function in the paper's title is convex and affine between the levels, and its
    prox has slope 1 between flat parts. The maps of PARQ's code, which are also here,
    are steeper than that, and so the prox of these arcs, which are not convex.

    Args:
      levels: n numbers that do not decrease, n > 1, or with ``channel_axis`` an array
        (channels, n) of such rows; see `least_squares_levels`. Traced levels
        are for regularizers that are made inside of a compiled function: a new
        estimate then compiles nothing. They cannot be checked or hashed.
      channel_axis: The axis along which every index has levels of its own.

    Returns:
      A nonconvex regularizer, separable unless its levels differ by channel. For t < 1
      the prox objective is convex.

    Raises:
      ValueError: ``levels`` has another shape, decreases or is not finite; at use, an
        array with other channels.

    Examples:
      >>> levels = rj.regularizers.piecewise_affine([-1.0, 0.0, 1.0])
      >>> levels.prox(jnp.array([0.125, 0.375, 0.625, 3.0]), 0.5)
      Array([0.  , 0.25, 0.75, 1.  ], dtype=float32)

    References:
      Jin et al., `PARQ: Piecewise-Affine Regularized Quantization
      <https://arxiv.org/abs/2503.15748>`_, 2025.
    """
    n_axes = 1 if channel_axis is None else 2
    if np.ndim(levels) != n_axes or np.shape(levels)[-1] < 2:
        raise ValueError(
            f"`levels` must be an array of {n_axes} axes with two levels or more in a "
            f"row, got shape {np.shape(levels)} and `channel_axis` {channel_axis}."
        )
    if isinstance(levels, Tracer):
        return PiecewiseAffine(levels, channel_axis)
    table = np.asarray(levels, float)
    if not (np.isfinite(table).all() and (np.diff(table) >= 0).all()):
        raise ValueError(
            f"`levels` must be finite and must not decrease, got {levels}."
        )
    rows = table.tolist()
    frozen = tuple(map(tuple, rows)) if channel_axis is not None else tuple(rows)
    return PiecewiseAffine(frozen, channel_axis)


def least_squares_levels(
    x: jax.Array, bits: int, *, channel_axis: int | None = None
) -> jax.Array:
    r"""Estimate levels for `piecewise_affine`, as least-squares quantization does.

    - ``bits=0``: ternary, :math:`\{-v, 0, v\}`; the v of least squared error.
    - ``bits=1``: :math:`\{-v, v\}` with :math:`v = \operatorname{mean} |x|`, which is
      that of least squared error.
    - ``bits=2`` and more: all :math:`\pm v_1 \pm \dots \pm v_k`, one after the other:
      :math:`v_i = \operatorname{mean} |r|`, then :math:`r - v_i \operatorname{sign} r`
      takes the place of the residual r, which begins as x. This is greedy: other
      levels may have a smaller error.

    The levels of an array of zeros are all 0.

    Args:
      x: Real floating array.
      bits: From 0 to 8.
      channel_axis: The axis along which every index is estimated alone.

    Returns:
      Array (n,), with ``channel_axis`` (channels, n), of ``x``'s dtype, in increasing
      order; n is 3 for ternary, and else ``2**bits``. May be called under `jax.jit`.

    Raises:
      ValueError: ``bits`` is out of range.

    Examples:
      >>> x = jnp.array([[2.0, -1.0], [0.1, -3.0]])
      >>> rj.regularizers.least_squares_levels(x, 0)
      Array([-2.5,  0. ,  2.5], dtype=float32)
      >>> rj.regularizers.least_squares_levels(x, 1, channel_axis=0)
      Array([[-1.5 ,  1.5 ],
             [-1.55,  1.55]], dtype=float32)

    References:
      Pouransari, Tu & Tuzel, `Least squares binary quantization of neural networks
      <https://arxiv.org/abs/2001.02786>`_, 2020. For ternary levels PARQ's code has a
      heuristic, and levels that it calls optimal: of an array they are half of these,
      and per channel not optimal (tests/fixtures/peers/README.md).
    """
    if not (isinstance(bits, int) and 0 <= bits <= 8):
        raise ValueError(f"`bits` must be an integer from 0 to 8, got {bits}.")
    axis = channel_axis
    rows = x.reshape(1, -1) if axis is None else jnp.moveaxis(x, axis, 0)
    rows = rows.reshape(rows.shape[0], -1)
    levels = _ternary(rows) if bits == 0 else _greedy(rows, bits)
    return levels[0] if axis is None else levels


def _ternary(rows: jax.Array) -> jax.Array:
    """Return -v, 0 and v of every row.

    If the k largest magnitudes take v, their mean is best, and lowers the squared error
    by their sum squared over k.
    """
    falling = -jnp.sort(-jnp.abs(rows), axis=1)
    sums = jnp.cumsum(falling, axis=1)
    counts = jnp.arange(1, rows.shape[1] + 1, dtype=rows.dtype)
    best = jnp.argmax(sums * sums / counts, axis=1, keepdims=True)
    v = jnp.take_along_axis(sums / counts, best, axis=1)
    return jnp.concatenate([-v, jnp.zeros_like(v), v], axis=1)


def _greedy(rows: jax.Array, bits: int) -> jax.Array:
    """Return all sums of +-v_1, ..., +-v_k of every row."""
    residual, levels = rows, jnp.zeros((rows.shape[0], 1), rows.dtype)
    for _ in range(bits):
        v = jnp.mean(jnp.abs(residual), axis=1, keepdims=True)
        residual = jnp.where(residual < 0, residual + v, residual - v)
        levels = jnp.concatenate([levels - v, levels + v], axis=1)
    return jnp.sort(levels, axis=1)
