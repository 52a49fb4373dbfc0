"""Entrywise penalties: global minimiser by grid, brackets and bisection.

A penalty is given by its value alone (complex arguments allowed) and the points where
it is not smooth.  Slopes come from complex steps, so no derivative, threshold rule or
closed form of any penalty appears here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_GRID = np.linspace(0.0, 1.0, 301)
_NEAR_ZERO = np.concatenate([s * 0.5 ** np.arange(2, 48, 1.5) for s in (-1.0, 1.0)])
_MARGIN = 0.2718  # the searched interval exceeds the hull of v and the penalty's minima
_CHUNK = 1024


@dataclass(frozen=True)
class Penalty:
    """psi(x) = sum value(x_i), smooth between `kinks`, +inf outside [lower, upper]."""

    value: Callable
    kinks: tuple = (0.0,)
    minima: tuple = (0.0,)
    lower: float = -np.inf
    upper: float = np.inf


def arcs(levels):
    """1/2 (x - a) (b - x) between neighbouring levels a and b, infinite beyond them."""
    levels = np.asarray(levels, np.float64)
    ends = levels[0], levels[-1]
    slack = 1e-14 * np.abs(ends).max()

    def value(z):
        cell = np.searchsorted(levels, np.real(z), side="right") - 1
        cell = np.clip(cell, 0, levels.size - 2)
        arc = (z - levels[cell]) * (levels[cell + 1] - z) / 2
        # Nearer than the indicators forgive: what is beyond lowers the objective.
        is_inside = np.abs(np.real(z) - np.clip(np.real(z), *ends)) <= slack
        return np.where(is_inside, arc, np.inf)

    return Penalty(value, tuple(levels), tuple(levels), *ends)


def slope(value, x):
    """Derivative of `value` at x by a complex step (exact to rounding)."""
    return np.imag(value(x + 1e-30j)) * 1e30


def minimise(v, step_size, penalty, metric=1.0):
    """Entries of argmin 1/2 metric (x-v)^2 + step_size*value(x), global in each."""
    v = np.asarray(v, np.float64)
    flat = [np.broadcast_to(a, v.shape).ravel() for a in (v, step_size, metric)]
    out = np.empty(v.size)
    for i in range(0, v.size, _CHUNK):
        part = slice(i, i + _CHUNK)
        out[part] = _minimise(*(a[part] for a in flat), penalty)
    return out.reshape(v.shape)


def _minimise(v, step, metric, penalty):
    # Every local minimum is a kink, an end of the domain, or the root of the slope in
    # a cell of the grid where the slope passes from negative to positive.
    def clip(x):
        return np.clip(x, penalty.lower, penalty.upper)

    low = np.minimum(v, min(penalty.minima))
    high = np.maximum(v, max(penalty.minima))
    margin = _MARGIN * (high - low)
    low, high = (clip(x)[:, None] for x in (low - margin, high + margin))

    kinks = np.clip(np.array([*penalty.kinks, -np.inf, np.inf]), low, high)
    smooth = np.concatenate(
        [low + _GRID * (high - low), np.clip(_NEAR_ZERO * (high - low), low, high)], 1
    )
    points = np.concatenate([kinks, smooth], 1)
    is_kink = np.arange(points.shape[1]) < kinks.shape[1]
    order = np.argsort(points, axis=1)
    points = np.take_along_axis(points, order, 1)
    nudge = 1e-9 * is_kink[order]  # one-sided slopes at the kinks

    def objective(x, i):
        return metric[i] / 2 * (x - v[i]) ** 2 + step[i] * penalty.value(x)

    def objective_slope(x, i):
        return metric[i] * (x - v[i]) + step[i] * slope(penalty.value, x)

    rows = np.arange(v.size)[:, None]
    width = np.diff(points, axis=1)
    a, b = points[:, :-1], points[:, 1:]
    bracket = objective_slope(a + nudge[:, :-1] * width, rows) <= 0
    bracket &= objective_slope(b - nudge[:, 1:] * width, rows) >= 0
    entry, cell = np.nonzero(bracket & (width > 0))
    a, b = a[entry, cell], b[entry, cell]
    for _ in range(100):
        middle = (a + b) / 2
        left = objective_slope(middle, entry) <= 0
        a, b = np.where(left, middle, a), np.where(left, b, middle)
    roots = (a + b) / 2

    at_kinks = objective(kinks, rows)
    best = np.argmin(at_kinks, axis=1)
    x, lowest = kinks[rows[:, 0], best], at_kinks[rows[:, 0], best]
    at_roots = objective(roots, entry)
    np.minimum.at(lowest, entry, at_roots)
    # Within rounding of the lowest value the stationary point is the accurate one.
    good = at_roots <= lowest[entry] * (1 + 1e-14)
    x[entry[good]] = roots[good]
    return x


def magnitude(z):
    """|z| continued analytically from the real axis (for complex steps)."""
    return np.where(np.real(z) < 0, -z, z)


def levels(values):
    """Distance to the nearest of `values` (the soft form of the level sets)."""
    values = np.sort(np.asarray(values, np.float64))
    middles = (values[1:] + values[:-1]) / 2

    def value(z):
        return magnitude(z - values[np.searchsorted(middles, np.real(z))])

    return Penalty(value, (*values, *middles), (values[0], values[-1]))
