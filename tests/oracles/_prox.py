"""Oracles: a slow global minimiser of the prox objective, and its value.

`tests._table` has one for each factory. `ORACLES[name].prox(v, step_size, **arguments)`
minimises, globally,
1/2 ||x-v||^2 + step_size*psi(x); `metric_prox` has 1/2 sum metric*(x-v)^2 instead.
The arguments and their defaults are those of the factory `name`.  No oracle shares a
formula with a fast implementation; each method is named where it is implemented.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import _groups, _scalar, _sets, _values

_L1 = _scalar.Penalty(_scalar.magnitude)


@dataclass(frozen=True)
class Oracle:
    prox: Callable
    value: Callable
    metric_prox: Callable | None = None


def entries(penalty):
    """Separable: grid, brackets and bisection on every entry."""

    def prox(v, step_size, **kw):
        return _scalar.minimise(v, step_size, penalty(**kw))

    def metric_prox(v, step_size, metric, **kw):
        return _scalar.minimise(v, step_size, penalty(**kw), metric)

    return Oracle(prox, lambda x, **kw: _values.entries(x, penalty(**kw)), metric_prox)


def levels(values):
    """Level sets: enumeration of the levels; soft ones by the entrywise search."""

    def prox(v, step_size, *, soft=False, **kw):
        return metric_prox(v, step_size, np.ones(np.shape(v)), soft=soft, **kw)

    def metric_prox(v, step_size, metric, *, soft=False, **kw):
        if soft:
            penalty = _scalar.levels(values(**kw))
            return _scalar.minimise(v, step_size, penalty, metric)
        return _sets.levels(v, values(**kw), metric)

    def value(x, *, soft=False, **kw):
        if soft:
            return _values.entries(x, _scalar.levels(values(**kw)))
        return _values.in_levels(x, values(**kw))

    return Oracle(prox, value, metric_prox)


def radial(penalty):
    """Group penalties phi(||x_g||): search along the ray; list of stationary points."""

    def prox(v, step_size, *, group_axes=-2, weighted=True, block=None, **kw):
        layout = group_axes, weighted, block
        return _groups.radial_prox(v, step_size, penalty(**kw), *layout)

    def metric_prox(
        v, step_size, metric, *, group_axes=-2, weighted=True, block=None, **kw
    ):
        layout = group_axes, weighted, block
        return _groups.radial_metric_prox(v, step_size, metric, penalty(**kw), *layout)

    def value(x, *, group_axes=-2, weighted=True, block=None, **kw):
        return _values.radial(x, penalty(**kw), group_axes, weighted, block)

    return Oracle(prox, value, metric_prox)


def sparse_group_lasso():
    """Sparse group lasso: list of stationary points, also where the metric is 1."""

    def metric_prox(v, step, metric, *, group_axes=-2, l1_ratio=0.5, weighted=True):
        return _groups.radial_metric_prox(
            v, step, metric, _L1, group_axes, weighted, l1_ratio=l1_ratio
        )

    def value(x, *, group_axes=-2, l1_ratio=0.5, weighted=True):
        norms = _values.radial(x, _L1, group_axes, weighted)
        return l1_ratio * np.abs(x).sum() + (1 - l1_ratio) * norms

    return Oracle(lambda v, t, **kw: metric_prox(v, t, 1.0, **kw), value, metric_prox)


def one_weighted_group(lasso):
    """The group lasso, with the weight of its only group in the step size."""

    def with_weight(method):
        def weighted(v, step_size, *rest, weights, group_axes):
            assert group_axes == ()
            whole = dict(group_axes=(), weighted=False)
            return method(v, weights * step_size, *rest, **whole)

        return weighted

    def value(x, *, weights, group_axes):
        return weights * lasso.value(x, group_axes=group_axes, weighted=False)

    return Oracle(with_weight(lasso.prox), value, with_weight(lasso.metric_prox))


def linf():
    """Largest magnitudes: bisection on the clipping level."""

    def prox(v, step_size, *, group_axes=-2, weighted=True):
        return _groups.linf_prox(v, step_size, group_axes, weighted)

    def value(x, *, group_axes=-2, weighted=True):
        return _values.group_linf(x, group_axes, weighted)

    return Oracle(prox, value)


def spectral(penalty):
    """Penalties of the singular values: SVD and the entrywise search."""

    def prox(v, step_size, *, matrix_axes=(-2, -1), **kw):
        return _groups.spectral_prox(v, step_size, penalty(**kw), matrix_axes)

    def value(x, *, matrix_axes=(-2, -1), **kw):
        return _values.spectral(x, penalty(**kw), matrix_axes)

    return Oracle(prox, value)


def feasible_set(projection, value, has_metric=False):
    """Indicators: the step size is idle."""

    def metric_prox(v, step_size, metric, **kw):
        return projection(v, metric=metric, **kw)

    return Oracle(
        lambda v, step_size, **kw: projection(v, **kw),
        value,
        metric_prox if has_metric else None,
    )


def fused(default_ratio):
    """Differences along an axis: active sets on the dual of every slice."""

    def prox(v, step, *, axis=-1, l1_ratio=default_ratio):
        return _sets.fused(v, l1_ratio * step, (1 - l1_ratio) * step, axis)

    def value(x, *, axis=-1, l1_ratio=default_ratio):
        variation = _values.total_variation(x, axis)
        return l1_ratio * np.abs(x).sum() + (1 - l1_ratio) * variation

    return Oracle(prox, value)
