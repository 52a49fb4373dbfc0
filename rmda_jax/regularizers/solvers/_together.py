r"""The norms of the groups of all leaves, found together: the form for GPUs.

Before each turn of a loop of no known length a GPU asks the host. So here all groups of
all leaves take the same steps without asking, and then one loop for all of them goes on
while any is unsolved: see ``docs/performance.md``, "The roots of all leaves together".
The equation and the step are those of ``_group_norm.py``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax._types import Arrays
from rmda_jax.regularizers.solvers._group_norm import (
    MAX_STEPS,
    root_step,
    step_from_zero,
)
from rmda_jax.regularizers.solvers._layout import GroupLayout

STEPS = 1  # after the one from 0
# Of the metric. Of centres near 1e-2, metrics from 1e-8 to 1e5 then fit into float32.
_UNIT = 2.0**-20


class GroupLasso(NamedTuple):
    r"""The problem :math:`\min_x \tfrac12\sum d(x - z)^2 + \sum_g k_g\|x_g\|`."""

    groups: GroupLayout
    z: Arrays
    d: Arrays
    k: jax.Array


Pose = Callable[[Any, Any], GroupLasso]


class _Search(NamedTuple):
    vanishes: jax.Array  # which groups do
    z_norm: jax.Array
    r: jax.Array  # the iterates, and what brackets the roots
    low: jax.Array
    high: jax.Array


def norms_together(
    poses: Sequence[Pose],
    given: Sequence[Any],
    squares: Sequence[Any],
    n_steps: int = STEPS,
) -> tuple[list[jax.Array], list[Any]]:
    """Return the norms of the minimisers of several problems, group by group.

    Args:
      poses: Each problem as a function of the next two. It is called again wherever
        centre and metric are needed, so that neither is written to memory.
      given: A tree of arrays for each problem.
      squares: A tree of arrays for each problem, on which its metric depends.
      n_steps: How many steps all groups take before the first question.

    Returns:
      For each problem one number per group, 0 where the group vanishes; and the
      squares, from which XLA computes the metric anew where the norms are used.
    """
    if not poses:
        return [], []
    with_gradients = squares
    given, squares = lax.stop_gradient((given, squares))
    poses = list(map(_constant, poses, given, squares))
    began = [
        _first(*pose(*at)) for pose, *at in zip(poses, given, squares, strict=True)
    ]
    searches, unsolved = map(list, zip(*began, strict=True))
    for _ in range(n_steps):
        squares, searches = _known_now(squares, searches)
        for i, pose in enumerate(poses):
            searches[i], still = _stepped(pose(given[i], squares[i]), searches[i])
            unsolved[i] |= still
    anys = [jnp.any(flags) for flags in unsolved]

    def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        n, anys, searches = state
        out = []
        for i, pose in enumerate(poses):
            at, old = _in_this_turn((given[i], squares[i]), searches[i])
            new, unsolved = _stepped(pose(*at), old)
            # A problem that is solved stays as it is: what lies on several devices,
            # of which one has to go on for other leaves, must stay the same on all.
            keep = functools.partial(jnp.where, anys[i])
            out.append((anys[i] & jnp.any(unsolved), _Search(*map(keep, new, old))))
        anys, searches = map(list, zip(*out, strict=True))
        return n + 1, anys, searches

    def goes_on(state: tuple[Any, Any, Any]) -> jax.Array:
        n, anys, _ = state
        return functools.reduce(jnp.logical_or, anys) & (n < MAX_STEPS)

    first = jnp.full((), n_steps, jnp.int32), anys, searches
    _, _, searches = lax.while_loop(goes_on, step, first)
    norms = [jnp.where(search.vanishes, 0, search.r) for search in searches]
    anew, norms = _known_now(with_gradients, norms)
    return norms, anew


def _known_now(
    squares: Sequence[Any], found: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Return both, problem by problem from behind a barrier.

    A metric of these squares is computed again in the pass that uses it. Left alone,
    XLA writes out the metrics of all leaves, and the centres with them.
    """
    pairs = list(map(lax.optimization_barrier, zip(squares, found, strict=True)))
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _in_this_turn(at: Any, search: _Search) -> tuple[Any, _Search]:
    """Return both, of which XLA takes the arrays to be of this turn of the loop.

    What no turn changes, it would compute before the loop, and write out. Scalars stay
    as they are: under `jax.shard_map` a barrier would make them vary over the devices.
    """
    leaves, treedef = jax.tree.flatten(at)
    arrays = [x for x in leaves if jnp.ndim(x)]
    arrays, search = lax.optimization_barrier((arrays, search))
    anew = iter(arrays)
    leaves = [next(anew) if jnp.ndim(x) else x for x in leaves]
    return treedef.unflatten(leaves), search


def _constant(pose: Pose, *at: Any) -> Pose:
    """Return a pose without derivatives, which a loop could not be asked for."""
    groups = pose(*at).groups
    closed, scalars = jax.closure_convert(lambda *at: tuple(pose(*at)[1:]), *at)
    scalars = lax.stop_gradient(scalars)
    return lambda *at: GroupLasso(groups, *closed(*at, *scalars))


def _stepped(problem: GroupLasso, search: _Search) -> tuple[_Search, jax.Array]:
    """Return the next iterates of a problem, and which groups are unsolved."""
    *at, unsolved = root_step(*problem, *search)
    return _Search(search.vanishes, search.z_norm, *at), unsolved


def _first(
    groups: GroupLayout, z: Arrays, d: Arrays, k: jax.Array
) -> tuple[_Search, jax.Array]:
    """Return the step from 0, of sums that one pass takes, and who needs two more.

    The metric is in units that are known before, so its squares may leave the range of
    the dtype. Such a group begins left of Newton's step from 0: no mean of the metric
    is larger than its sum.
    """
    total = lambda term: groups.total(term, z, d)
    b2, z2 = total(lambda z, d: jnp.square(d * z)), total(lambda z, d: jnp.square(z))
    b2d = total(lambda z, d: jnp.square(d * z) * (d / _UNIT))
    b2d2 = total(lambda z, d: jnp.square(d * z) * jnp.square(d / _UNIT))
    d_sum = total(lambda z, d: jnp.where(z == 0, 0, d))
    # As in `_group_norm`. What is subnormal, some kernels take for 0 and some do not.
    limits = jnp.finfo(k.dtype)
    vanishes = (jnp.sqrt(b2) <= k) | (b2 < limits.tiny) | (z2 < limits.tiny)
    b2, z2 = jnp.where(vanishes, 1, b2), jnp.where(vanishes, 1, z2)
    norm, z_norm = jnp.sqrt(b2), jnp.sqrt(z2)

    floor = limits.tiny / limits.eps**2  # what underflows beside it does not matter
    fits = (b2d > floor) & (b2d2 > floor) & (b2d < jnp.inf) & (b2d2 < jnp.inf)
    factor = z_norm / norm * _UNIT
    mean = jnp.where(fits, b2d / b2 * factor, 1)
    square = jnp.where(fits, b2d2 / b2 * jnp.square(factor), 1)
    r, low, high = step_from_zero(k, norm, z_norm, mean, square, vanishes)
    least = jnp.where(vanishes, 1, (norm - k) / jnp.where(d_sum > 0, d_sum, 1))
    r, low = (jnp.where(fits | vanishes, x, least) for x in (r, low))
    return _Search(vanishes, z_norm, r, low, high), ~(fits | vanishes)
