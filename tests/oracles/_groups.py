"""Penalties of groups and of singular values, reduced to one dimension.

Groups are lists of flat indices collected from a label per entry: slow, but free of
any reshaping or transposing shared with a fast implementation.
"""

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ._scalar import minimise, slope

_RADII = np.unique(
    np.concatenate([np.linspace(0, 1.01, 400)[1:], 0.5 ** np.arange(2, 48, 1.5)])
)


def groups(shape, group_axes, block=None):
    """Flat indices of every group: equal (tile) coordinates along `group_axes`."""
    axes = normalize_axis_tuple(group_axes, len(shape))
    tiles = np.ones(len(axes), int) if block is None else np.atleast_1d(block)
    coordinates = np.indices(shape)
    label = np.zeros(shape, int)
    for axis, tile in zip(axes, tiles, strict=True):
        label = label * shape[axis] + coordinates[axis] // tile
    return [np.flatnonzero(label == k) for k in np.unique(label)]


def weight(index, weighted):
    return np.sqrt(len(index)) if weighted else 1.0


def each_group(v, group_axes, solve, block=None, metric=1.0):
    """Apply solve(v_g, metric_g, index) to every group of v."""
    v = np.asarray(v, np.float64)
    metric = np.broadcast_to(metric, v.shape)
    out = np.zeros(v.size)
    for index in groups(v.shape, group_axes, block):
        out[index] = solve(v.ravel()[index], metric.ravel()[index], index)
    return out.reshape(v.shape)


def radial_prox(v, step_size, penalty, group_axes, weighted, block=None):
    """sum_g w_g phi(||x_g||): by rotation x_g is along v_g; scalar search for ||x_g||.

    Independent: the length comes from the grid search, not from a shrinkage formula.
    """
    v = np.asarray(v, np.float64)
    members = groups(v.shape, group_axes, block)
    norms = np.array([np.linalg.norm(v.ravel()[index]) for index in members])
    steps = step_size * np.array([weight(index, weighted) for index in members])
    out = v.flatten()
    for index, norm, length in zip(
        members, norms, minimise(norms, steps, penalty), strict=True
    ):
        out[index] *= length / norm if norm > 0 else 0.0
    return out.reshape(v.shape)


def radial_metric_prox(
    v, step_size, metric, penalty, group_axes, weighted, block=None, l1_ratio=0.0
):
    """sum_g (1-a) w_g phi(||x_g||) + a ||x||_1 in a diagonal metric; global.

    Independent: all stationary points are listed.  With c = (1-a) t w phi'(r)/r they
    solve the entrywise problems of c/2 x^2 + a t |x|, and ||x(c)|| = r: one equation in
    r, whose sign changes on a grid are bisected; the best objective wins.
    """

    def solve(v, d, index):
        step = (1 - l1_ratio) * step_size * weight(index, weighted)
        l1 = l1_ratio * step_size

        def objective(x):
            norms = step * np.real(penalty.value(np.linalg.norm(x)))
            return np.sum(d / 2 * (x - v) ** 2 + l1 * np.abs(x)) + norms

        def at_radius(r):
            c = (step * slope(penalty.value, r) / r)[:, None]
            return _ridge_l1(v, d, c, l1)

        def excess(r):
            return np.linalg.norm(at_radius(r), axis=1) - r

        largest = np.linalg.norm(_ridge_l1(v, d, np.zeros((1, 1)), l1))
        if largest == 0:
            return np.zeros_like(v)
        radii = _RADII * largest
        sign = np.sign(excess(radii))
        (cell,) = np.nonzero(sign[:-1] != sign[1:])
        a, b, start = radii[cell], radii[cell + 1], sign[cell]
        for _ in range(100):
            middle = (a + b) / 2
            left = np.sign(excess(middle)) == start
            a, b = np.where(left, middle, a), np.where(left, b, middle)
        best, lowest = np.zeros_like(v), objective(np.zeros_like(v))
        for x in at_radius((a + b) / 2):
            if objective(x) <= lowest * (1 + 1e-14):
                best, lowest = x, min(lowest, objective(x))
        return best

    return each_group(v, group_axes, solve, block, metric)


def _ridge_l1(v, d, c, l1):
    """argmin d/2 (x-v)^2 + c/2 x^2 + l1 |x| per entry, the better of its 2 signs."""
    cases = np.stack(
        [np.maximum(d * v - l1, 0) / (d + c), np.minimum(d * v + l1, 0) / (d + c)]
    )
    objective = (d + c) / 2 * cases**2 - d * v * cases + l1 * np.abs(cases)
    return np.where(objective[0] < objective[1], cases[0], cases[1])


def linf_prox(v, step_size, group_axes, weighted):
    """sum_g w_g max|x_g|: bisection on the clipping level (no sorting).

    The part cut off, v - clip(v, -m, m), is the subgradient: its l1 norm is t w_g.
    """

    def solve(v, _, index):
        step = step_size * weight(index, weighted)
        if np.abs(v).sum() <= step:
            return np.zeros_like(v)
        low, high = 0.0, np.abs(v).max()
        for _ in range(200):
            middle = (low + high) / 2
            cut = np.maximum(np.abs(v) - middle, 0).sum()
            low, high = (middle, high) if cut > step else (low, middle)
        return np.clip(v, -high, high)

    return each_group(v, group_axes, solve)


def spectral_prox(v, step_size, penalty, matrix_axes):
    """sum phi(sigma_i): numpy's SVD, grid search on the singular values.

    Independent: only unitary invariance is used, no formula for the singular values.
    """
    matrices = np.moveaxis(np.asarray(v, np.float64), matrix_axes, (-2, -1))
    left, sigma, right = np.linalg.svd(matrices, full_matrices=False)
    shrunk = minimise(sigma, step_size, penalty)
    return np.moveaxis((left * shrunk[..., None, :]) @ right, (-2, -1), matrix_axes)
