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

from rmda_jax.regularizers._hooks import array_from


class Solution(NamedTuple):
    """A minimiser, and what certifies it."""

    x: jax.Array
    residual: jax.Array  # norm of a subgradient of the objective at x
    iterations: jax.Array  # int32
    converged: jax.Array  # whether the residual met the tolerance, without ascent


class _Iterate(NamedTuple):
    z: jax.Array
    y: jax.Array
    momentum: jax.Array
    residual: jax.Array
    iterations: jax.Array


# Called eagerly, a loop of its own would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames=("prox", "value", "convex"), inline=True)
def proximal_gradient(
    prox: Callable[[jax.Array, jax.Array], jax.Array],
    value: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    t: jax.Array,
    d: jax.Array,
    *,
    start: jax.Array,
    convex: bool,
    rtol: float,
    max_iters: int,
) -> Solution:
    r"""Minimise :math:`\tfrac12\langle z-x, d(z-x)\rangle + t\psi(z)` from ``start``.

    Args:
      prox: The plain prox of :math:`\psi`.
      value: :math:`\psi` itself.
      x: Centre.
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
    theta = (1.0 if convex else 0.5) / jnp.max(d)

    def step(state: _Iterate) -> _Iterate:
        z = array_from(prox, state.y - theta * d * (state.y - x), theta * t)
        residual = _norm((1 / theta - d) * (state.y - z))
        if not convex:
            return _Iterate(z, z, state.momentum, residual, state.iterations + 1)
        uphill = jnp.sum((state.y - z) * (z - state.z)) > 0
        before = jnp.where(uphill, 1, state.momentum)
        after = (1 + jnp.sqrt(1 + 4 * jnp.square(before))) / 2
        y = z + jnp.where(uphill, 0, (before - 1) / after) * (z - state.z)
        return _Iterate(z, y, after, residual, state.iterations + 1)

    def met(state: _Iterate) -> jax.Array:
        return state.residual <= rtol * _norm(d * (x - state.z))

    def unfinished(state: _Iterate) -> jax.Array:
        return ~met(state) & (state.iterations < max_iters)

    def objective(z: jax.Array) -> jax.Array:
        return jnp.sum(d * jnp.square(z - x)) / 2 + t * value(z)

    one = jnp.ones((), x.dtype)
    first = step(_Iterate(start, start, one, one, jnp.zeros((), jnp.int32)))
    last = lax.while_loop(unfinished, step, first)
    # An infeasible or NaN start compares false and loses.
    ascended = objective(start) < objective(last.z)
    return Solution(
        x=jnp.where(ascended, start, last.z),
        residual=last.residual,
        iterations=last.iterations,
        converged=met(last) & ~ascended,
    )


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))
