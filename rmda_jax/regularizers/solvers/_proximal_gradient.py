r"""The prox in a diagonal metric by proximal gradient: right for any regularizer.

Minimises :math:`Q(z) = \tfrac12\langle z - x, d(z - x)\rangle + t\psi(z)` with nothing
but the plain prox. With :math:`L = \max d` and a point y,

.. math:: z^+ = \operatorname{prox}_{\theta t\psi}(y - \theta d (y - x)), \qquad
    s = (\theta^{-1} - d)(y - z^+) \in \partial Q(z^+)

so that :math:`\|s\|` certifies :math:`z^+` at no cost: condition (7) of the RAMDA paper
asks :math:`\|s\| \le \epsilon_t` and :math:`Q(z^+) \le Q(\text{start})`. Convex
problems take :math:`\theta = 1/L` and Nesterov's momentum, restarted whenever it points
uphill; nonconvex ones :math:`\theta = 1/(2L)` and no momentum, as in the paper.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax._types import Arrays
from rmda_jax.regularizers._hooks import array_from


class Solution(NamedTuple):
    """A minimiser, and what certifies it."""

    x: Arrays
    residual: jax.Array  # norm of a subgradient of the objective at x
    iterations: jax.Array  # int32
    converged: jax.Array  # whether the residual met the tolerance, without ascent


class _Iterate(NamedTuple):
    z: Arrays
    y: Arrays
    momentum: jax.Array
    residual: jax.Array
    iterations: jax.Array


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnames=("prox", "value", "convex"), inline=True)
def proximal_gradient(
    prox: Callable[[Arrays, jax.Array], Arrays],
    value: Callable[[Arrays], jax.Array],
    x: Arrays,
    t: jax.Array,
    d: Arrays,
    *,
    start: Arrays,
    convex: bool,
    rtol: float,
    max_iters: int,
) -> Solution:
    r"""Minimise :math:`\tfrac12\langle z-x, d(z-x)\rangle + t\psi(z)` from ``start``.

    Args:
      prox: The plain prox of :math:`\psi`.
      value: :math:`\psi` itself.
      x: Centre: one array, or a tuple, as are ``d`` and ``start``.
      t: Step size.
      d: Positive metric of ``x``'s shape.
      start: First iterate; the previous params, usually.
      convex: Whether :math:`\psi` is.
      rtol: Stop at a subgradient of norm ``rtol`` times that of :math:`d(x - z)`, the
        size of the subgradient's two halves, which cancel at the solution.
      max_iters: Stop after so many prox steps.

    Returns:
      The last iterate (``start``, should that be better) and its certificate.
    """
    each = jax.tree.map
    theta = (1.0 if convex else 0.5) / _max(d)

    def step(state: _Iterate) -> _Iterate:
        inner = each(lambda y, d, x: y - theta * d * (y - x), state.y, d, x)
        z = array_from(prox, inner, theta * t)
        s = each(lambda d, y, z: (1 / theta - d) * (y - z), d, state.y, z)
        n = state.iterations + 1
        if not convex:
            return _Iterate(z, z, state.momentum, _norm(s), n)
        # Restart where the step and the direction of momentum form an obtuse angle.
        along = each(
            lambda y, z, old: jnp.sum((y - z) * (z - old)), state.y, z, state.z
        )
        uphill = _sum(along) > 0
        before = jnp.where(uphill, 1, state.momentum)
        after = (1 + jnp.sqrt(1 + 4 * jnp.square(before))) / 2
        factor = jnp.where(uphill, 0, (before - 1) / after)
        y = each(lambda z, old: z + factor * (z - old), z, state.z)
        return _Iterate(z, y, after, _norm(s), n)

    def met(state: _Iterate) -> jax.Array:
        return state.residual <= rtol * _norm(
            each(lambda d, x, z: d * (x - z), d, x, state.z)
        )

    def unfinished(state: _Iterate) -> jax.Array:
        return ~met(state) & (state.iterations < max_iters)

    def objective(z: Arrays) -> jax.Array:
        loss = each(lambda d, z, x: jnp.sum(d * jnp.square(z - x)), d, z, x)
        return _sum(loss) / 2 + t * value(z)

    one = jnp.ones((), t.dtype)
    first = step(_Iterate(start, start, one, one, jnp.zeros((), jnp.int32)))
    last = lax.while_loop(unfinished, step, first)
    # An infeasible or NaN start compares false and loses.
    ascended = objective(start) < objective(last.z)
    return Solution(
        x=each(lambda start, z: jnp.where(ascended, start, z), start, last.z),
        residual=last.residual,
        iterations=last.iterations,
        converged=met(last) & ~ascended,
    )


def _norm(x: Arrays) -> jax.Array:
    return jnp.sqrt(_sum(jax.tree.map(lambda x: jnp.sum(jnp.square(x)), x)))


def _sum(terms: Arrays) -> jax.Array:
    return functools.reduce(jnp.add, jax.tree.leaves(terms))


def _max(x: Arrays) -> jax.Array:
    return functools.reduce(jnp.maximum, map(jnp.max, jax.tree.leaves(x)))
