"""D-Gating and spred: a penalty of groups or entries by factors with plain l2.

A regularized array is written as a product, and the factors are trained in its place by
any optimizer. No prox is taken.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmda_jax._types import Params, wide_dtype
from rmda_jax.regularizers._groups import Groups
from rmda_jax.regularizers._magnitude import MagnitudePenalty
from rmda_jax.regularizers._penalties import Abs, Lq
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._resolve import RegularizerSpec, resolve


class Gated(NamedTuple):
    """An array as a product: ``values * gates[0] * gates[1] * ...``."""

    values: jax.Array  # of the array's shape
    gates: jax.Array  # one less than the depth; each of length 1 within a group


def gate_params(
    params: Params, regularizer: RegularizerSpec, *, balanced: bool = False
) -> Params:
    r"""Write what is regularized as products, for D-Gating or spred.

    .. math:: x_g = v_g \prod_{i=1}^{D-1} s_{g,i}, \qquad
        \min_{v, s}\, \frac1D \Big(\|v_g\|^2 + \sum_i s_{g,i}^2\Big) = \|x_g\|^{2/D}

    The minimum is over all such products, and is where all factors have one norm. So
    train the factors on the loss of `collapse_gates` plus the strength times
    `gate_penalty`, which is smooth: its local minima are those of the loss plus the
    strength times ``regularizer``. `group_lasso` and `l1` have the depth D = 2,
    `group_lq` and `lq` with q = 2/D the depth D.

    What vanishes only becomes small, by a factor a step. Where all factors are 0 every
    gradient is, too: such a group never comes back.

    Args:
      params: Pytree of floating arrays.
      regularizer: A `RegularizerMap`, one regularizer, or a pytree prefix.
      balanced: Begin with factors of one norm, in place of gates of 1. The penalty is
        then that of ``regularizer``; but params that are zero stay so, and entries
        never change their sign, as gradient steps keep the factors balanced.

    Returns:
      A pytree like ``params``, in which a named tuple of ``values`` and ``gates``, both
      of the leaf's dtype, stands for each regularized leaf.

    Raises:
      ValueError: a regularizer is not one of these four, has tiles, or its 2/q is not
        an integer; or as `RegularizerMap.resolve`.

    Examples:
      >>> rules = rj.group_lasso(0, weighted=False)
      >>> x = jnp.array([[3.0, 4.0], [0.0, 0.25]])
      >>> for balanced in (False, True):
      ...     gated = rj.gate_params(x, rules, balanced=balanced)
      ...     print(f"{rj.gate_penalty(gated, rules):.2f}")
      13.53
      5.25

    References:
      Kolb et al., `Differentiable Sparsity via D-Gating
      <https://arxiv.org/abs/2509.23898>`_, 2025. Of entries with D = 2: Ziyin & Wang,
      `spred: Solving L1 Penalty with SGD <https://arxiv.org/abs/2210.01212>`_, 2023.
    """
    rules = resolve(regularizer, params)
    leaves, treedef = jax.tree.flatten(params)
    gated = [_gated(x, rule, balanced) for x, rule in zip(leaves, rules, strict=True)]
    return treedef.unflatten(gated)


def collapse_gates(gated: Params, threshold: float = 0.0) -> Params:
    r"""Return the params whose factors these are.

    Args:
      gated: As `gate_params` returns it.
      threshold: Groups (or entries) of a norm below this become exactly zero. Which
        they are depends on it, unlike after a prox: look at the norms first.

    Returns:
      The pytree of the params.

    Examples:
      >>> x = jnp.array([[3.0, 4.0], [0.0, 1e-4]])
      >>> gated = rj.gate_params(x, rj.group_lasso(0))
      >>> rj.collapse_gates(gated, threshold=1e-3)
      Array([[3., 4.],
             [0., 0.]], dtype=float32)
    """

    def collapse(leaf: Any) -> Any:
        if not isinstance(leaf, Gated):
            return leaf
        x = leaf.values * jnp.prod(leaf.gates, axis=0)
        norms = _norms(x.astype(wide_dtype(x.dtype)), leaf.gates)
        return jnp.where(norms < threshold, 0, x)

    return jax.tree.map(collapse, gated, is_leaf=_is_gated)


def gate_penalty(gated: Params, regularizer: RegularizerSpec) -> jax.Array:
    r"""Return :math:`\sum_g \frac{w_g}D (\|v_g\|^2 + \sum_i s_{g,i}^2)`, all leaves.

    Args:
      gated: As `gate_params` returns it.
      regularizer: That of `gate_params`, whose weights and multipliers these are.

    Returns:
      Scalar, at least ``RegularizerMap.value`` of the collapsed params; the strength is
      yours to multiply.

    Raises:
      ValueError: as `gate_params`.

    Examples:
      >>> gated = rj.gate_params(jnp.array([4.0, -1.0]), rj.l1(), balanced=True)
      >>> print(rj.gate_penalty(gated, rj.l1()))
      5.0
    """
    rules = resolve(regularizer, collapse_gates(gated))
    leaves = jax.tree.leaves(gated, is_leaf=_is_gated)
    total = jnp.zeros(())
    for leaf, rule in zip(leaves, rules, strict=True):
        if isinstance(leaf, Gated):
            weights = rule.regularizer.geometry.weights(leaf.values.shape)
            squares = jnp.sum(weights * jnp.square(leaf.values))
            squares += jnp.sum(weights * jnp.square(leaf.gates))
            total += rule.multiplier / _depth(rule) * squares
    return total


def _gated(x: jax.Array, rule: LeafRule, balanced: bool) -> Any:
    if rule.regularizer is None:
        return x
    depth, wide = _depth(rule), x.astype(wide_dtype(x.dtype))
    norms = rule.regularizer.geometry.magnitudes(wide)
    if not balanced:
        return Gated(x, jnp.ones((depth - 1, *norms.shape), x.dtype))
    gates = jnp.broadcast_to(norms ** (1 / depth), (depth - 1, *norms.shape))
    safe = jnp.where(norms == 0, 1, norms)
    values = wide * safe ** (1 / depth - 1)
    return Gated(values.astype(x.dtype), gates.astype(x.dtype))


def _depth(rule: LeafRule) -> int:
    """Return D of a regularizer; raise unless it has one."""
    found = rule.regularizer
    if isinstance(found, MagnitudePenalty):
        is_simple = found.geometry.is_entrywise or (
            type(found.geometry) is Groups and found.geometry.block is None
        )
        q = {Abs: lambda p: 1.0, Lq: lambda p: p.q}.get(type(found.penalty))
        if is_simple and q is not None:
            depth = 2 / q(found.penalty)
            if abs(depth - round(depth)) < 1e-9:
                return round(depth)
    raise ValueError(
        f"{found} of '{rule.name}' has no gates. Take l1 or group_lasso, or lq or "
        "group_lq with q = 2/3, 2/4, ..."
    )


def _norms(x: jax.Array, gates: jax.Array) -> jax.Array:
    """Return the norm of every group; a gate is as long as there are groups."""
    within = tuple(i for i, n in enumerate(gates.shape[1:]) if n == 1)
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=within, keepdims=True))


def _is_gated(node: Any) -> bool:
    return isinstance(node, Gated)
