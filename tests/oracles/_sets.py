"""Projections onto sets (by bisection or enumeration) and the differences of TV."""

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
from scipy.optimize import lsq_linear

from ._groups import each_group, groups

_MOST_SUPPORTS = 200_000


def _root(decreasing, low, high):
    """Bisection: the point of [low, high] where a decreasing function changes sign."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if decreasing(middle) > 0 else (low, middle)
    return (low + high) / 2


def simplex(v, radius=1.0, group_axes=()):
    """Bisection on the shift s of max(v - s, 0); no sorting."""

    def solve(v, _, __):
        bounds = v.min() - radius, v.max()
        s = _root(lambda s: np.maximum(v - s, 0).sum() - radius, *bounds)
        return np.maximum(v - s, 0)

    return each_group(v, group_axes, solve)


def l1_ball(v, radius=1.0, group_axes=()):
    """Bisection on the multiplier of the constraint; no sorting."""

    def solve(v, _, __):
        if np.abs(v).sum() <= radius:
            return v
        size = np.abs(v)
        s = _root(lambda s: np.maximum(size - s, 0).sum() - radius, 0.0, size.max())
        return np.sign(v) * np.maximum(size - s, 0)

    return each_group(v, group_axes, solve)


def l2_ball(v, radius=1.0, group_axes=()):
    """Bisection on the scale of v; no division by the norm."""

    def solve(v, _, __):
        if v @ v <= radius**2:
            return v
        return v * _root(lambda s: radius**2 - (s * v) @ (s * v), 0.0, 1.0)

    return each_group(v, group_axes, solve)


def l_half_ball(v, radius=1.0):
    """Boundary scan: lattice on {sum u = radius}, u = sqrt|x|, then exact pair moves.

    A move minimises the quartic objective in one pair (u_i, u_j) of fixed sum globally
    (roots of a cubic and both ends); it starts from the best lattice points.
    """
    v = np.asarray(v, np.float64)
    n, target = v.size, np.abs(v.ravel())
    if n > 5:
        raise ValueError("the boundary scan is for at most 5 entries")
    if np.sqrt(target).sum() <= radius:
        return v
    if n == 1:
        return np.sign(v) * radius**2
    cells = {2: 2000, 3: 100, 4: 40, 5: 20}[n]
    cuts = np.array(list(combinations_with_replacement(range(cells + 1), n - 1)))
    lattice = np.diff(cuts, axis=1, prepend=0, append=cells) * (radius / cells)
    order = np.argsort(np.sum((lattice**2 - target) ** 2, axis=1))
    starts = np.concatenate([lattice[order[:8]], radius * np.eye(n)])
    ends = [_pair_moves(u, target) for u in starts]
    u = min(ends, key=lambda u: np.sum((u**2 - target) ** 2))
    return np.sign(v) * (u**2).reshape(v.shape)


def _pair_moves(u, target):
    u = u.copy()
    for _ in range(400):
        before = u.copy()
        for i, j in combinations(range(len(u)), 2):
            s, a, b = u[i] + u[j], target[i], target[j]
            # 1/2 (p^2-a)^2 + 1/2 ((s-p)^2-b)^2, stationary in p
            cubic = [4, -6 * s, 6 * s * s - 2 * (a + b), 2 * s * (b - s * s)]
            roots = np.roots(cubic)
            p = np.array([u[i], 0.0, s, *np.clip(np.real(roots), 0, s)])
            best = np.argmin((p**2 - a) ** 2 + ((s - p) ** 2 - b) ** 2)
            u[i], u[j] = p[best], s - p[best]
        if np.abs(u - before).max() < 1e-15:
            break
    return u


def top_k(v, k, group_axes=(), metric=1.0):
    """Enumeration of all supports of size k; the least metric-weighted loss wins."""

    def solve(v, d, _):
        return _best_support(v[None], d[None], k)[0]

    return each_group(v, group_axes, solve, metric=metric)


def top_groups(v, k, group_axes=-2, block=None, metric=1.0):
    """Enumeration of all sets of k groups; the least metric-weighted loss wins."""
    v = np.asarray(v, np.float64)
    members = groups(v.shape, group_axes, block)
    if isinstance(k, float):
        k = max(1, round(k * len(members)))
    loss = (np.broadcast_to(metric, v.shape) * v**2).ravel()
    best, lowest = np.zeros(v.size), np.inf
    for kept in combinations(members, min(k, len(members))):
        support = np.concatenate([*kept, np.zeros(0, int)]).astype(int)
        lost = np.delete(loss, support).sum()
        if lost < lowest:
            best, lowest = np.zeros(v.size), lost
            best[support] = v.ravel()[support]
    return best.reshape(v.shape)


def max_rank(v, k, matrix_axes=(-2, -1), metric=None):
    """Enumeration of the stationary points, which keep some k singular triplets."""
    assert metric is None  # NP-hard
    matrices = np.moveaxis(np.asarray(v, np.float64), matrix_axes, (-2, -1))
    left, sigma, right = np.linalg.svd(matrices, full_matrices=False)
    best, lowest = np.zeros(matrices.shape), np.sum(matrices**2, axis=(-2, -1))
    for kept in combinations(range(sigma.shape[-1]), min(k, sigma.shape[-1])):
        kept = list(kept)
        x = (left[..., kept] * sigma[..., None, kept]) @ right[..., kept, :]
        loss = np.sum((matrices - x) ** 2, axis=(-2, -1))
        better = loss < lowest
        best[better], lowest = x[better], np.where(better, loss, lowest)
    return np.moveaxis(best, (-2, -1), matrix_axes)


def n_m(v, n, m, axis=-1, metric=1.0):
    """Enumeration of the supports of each run of m entries (the last may be short)."""
    v = np.asarray(v, np.float64)
    rows = np.moveaxis(v, axis, -1)
    d = np.moveaxis(np.broadcast_to(metric, v.shape), axis, -1)
    out = np.zeros(rows.shape)
    for start in range(0, rows.shape[-1], m):
        run = (..., slice(start, start + m))
        length = rows[run].shape[-1]
        blocks = (a[run].reshape(-1, length) for a in (rows, d))
        out[run] = _best_support(*blocks, n).reshape(rows[run].shape)
    return np.moveaxis(out, -1, axis)


def _best_support(v, d, k):
    size = v.shape[1]
    k = min(k, size)
    if math.comb(size, k) > _MOST_SUPPORTS:
        raise ValueError("too many supports to enumerate")
    best, lowest = np.zeros_like(v), np.full(len(v), np.inf)
    for support in combinations(range(size), k):
        x = np.zeros_like(v)
        x[:, support] = v[:, support]
        loss = np.sum(d * (v - x) ** 2, axis=1)
        better = loss < lowest
        best[better], lowest[better] = x[better], loss[better]
    return best


def levels(v, values, metric=1.0):
    """Enumeration of the levels, entry by entry."""
    values = np.asarray(values, np.float64)
    loss = np.asarray(metric)[..., None] * (np.asarray(v)[..., None] - values) ** 2
    return values[np.argmin(loss, axis=-1)]


def fused(v, l1_step, tv_step, axis=-1):
    """l1_step ||x||_1 + tv_step TV(x): active-set solution of the box-constrained dual.

    x = v - A'u with |u| bounded, A stacking differences and identity, on each slice;
    independent: neither a TV algorithm nor "soft threshold after TV" is used.
    """

    def solve(v):
        n = v.size
        bound = np.repeat([float(tv_step), float(l1_step)], [n - 1, n])
        rows = np.concatenate([np.diff(np.eye(n), axis=0), np.eye(n)])[bound > 0]
        bound = bound[bound > 0]
        if bound.size == 0:
            return v
        dual = lsq_linear(
            rows.T, v, (-bound, bound), method="bvls", tol=1e-15, max_iter=100 * n
        )
        if not dual.success:
            raise RuntimeError(dual.message)
        return v - rows.T @ dual.x

    return np.apply_along_axis(solve, axis, np.asarray(v, np.float64))
