"""Values psi(x) straight from the definitions, in plain numpy float64."""

import numpy as np

from ._groups import groups, weight
from ._scalar import Penalty

TOLERANCE = 1e-6  # of the indicators, relative to the size of the set


def indicator(holds):
    return 0.0 if holds else np.inf


def entries(x, penalty: Penalty):
    x = np.asarray(x, np.float64)
    slack = TOLERANCE * max(1.0, np.abs(x).max(initial=0.0))
    inside = (x >= penalty.lower - slack) & (x <= penalty.upper + slack)
    return np.sum(np.real(penalty.value(x))) + indicator(inside.all())


def each_group(x, group_axes, block=None):
    x = np.asarray(x, np.float64)
    return [x.ravel()[index] for index in groups(x.shape, group_axes, block)]


def radial(x, penalty, group_axes, weighted, block=None):
    return sum(
        weight(g, weighted) * float(np.real(penalty.value(np.linalg.norm(g))))
        for g in each_group(x, group_axes, block)
    )


def group_linf(x, group_axes, weighted):
    pieces = each_group(x, group_axes)
    return sum(weight(g, weighted) * np.abs(g).max() for g in pieces)


def spectral(x, penalty, matrix_axes):
    matrices = np.moveaxis(np.asarray(x, np.float64), matrix_axes, (-2, -1))
    sigma = np.linalg.svd(matrices, compute_uv=False)
    return np.sum(np.real(penalty.value(sigma)))


def in_levels(x, values):
    x, values = np.asarray(x, np.float64), np.asarray(values)
    distance = np.abs(x[..., None] - values).min(axis=-1)
    return indicator(distance.max() <= TOLERANCE * max(1.0, np.abs(values).max()))


def in_l1_ball(x, radius=1.0, group_axes=()):
    size = max(np.abs(g).sum() for g in each_group(x, group_axes))
    return indicator(size <= radius * (1 + TOLERANCE))


def in_l2_ball(x, radius=1.0, group_axes=()):
    size = max(np.sqrt(np.sum(g * g)) for g in each_group(x, group_axes))
    return indicator(size <= radius * (1 + TOLERANCE))


def in_simplex(x, radius=1.0, group_axes=()):
    slack = TOLERANCE * radius
    pieces = each_group(x, group_axes)
    sums = all(abs(g.sum() - radius) <= slack for g in pieces)
    return indicator(sums and min(g.min() for g in pieces) >= -slack)


def in_l_half_ball(x, radius=1.0):
    return indicator(np.sum(np.sqrt(np.abs(x))) <= radius * (1 + TOLERANCE))


def at_most_k(x, k, group_axes=()):
    return indicator(all(np.sum(g != 0) <= k for g in each_group(x, group_axes)))


def at_most_k_groups(x, k, group_axes=-2, block=None):
    pieces = each_group(x, group_axes, block)
    if isinstance(k, float):
        k = max(1, round(k * len(pieces)))
    return indicator(sum(bool(np.any(g)) for g in pieces) <= k)


def of_rank_at_most(x, k, matrix_axes=(-2, -1)):
    matrices = np.moveaxis(np.asarray(x, np.float64), matrix_axes, (-2, -1))
    sigma = np.linalg.svd(matrices, compute_uv=False)
    slack = TOLERANCE * max(1.0, sigma.max(initial=0.0))
    return indicator(np.all(sigma[..., k:] <= slack))


def at_most_n_in_m(x, n, m, axis=-1):
    x = np.moveaxis(np.asarray(x), axis, -1)
    runs = [x[..., i : i + m] for i in range(0, x.shape[-1], m)]
    return indicator(all(np.all(np.sum(r != 0, axis=-1) <= n) for r in runs))


def total_variation(x, axis=-1):
    return np.sum(np.abs(np.diff(np.asarray(x, np.float64), axis=axis)))
