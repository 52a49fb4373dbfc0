"""How much is exactly zero: entries, groups in three definitions, ranks."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, shape_dtype_of_leaf
from rmda_jax.specs._leaf_rules import active
from rmda_jax.specs._names import leaf_names
from rmda_jax.specs._resolve import RegularizerSpec, resolve


def sparsity(params: Params, regularizer: RegularizerSpec | None = None) -> jax.Array:
    """Return the fraction of entries that are exactly zero.

    Args:
      params: Pytree of floating arrays; the structured iterate, usually.
      regularizer: Count only the leaves it acts on; all leaves by default.

    Returns:
      Scalar in [0, 1], float32 or wider.

    Raises:
      ValueError: there are no entries to count; a spec does not fit.

    Examples:
      >>> rj.metrics.sparsity({"a": jnp.array([0.0, 1.0]), "b": jnp.array([0.0, 0.0])})
      Array(0.75, dtype=float32)
    """
    leaves = jax.tree.leaves(params)
    for name, leaf in zip(leaf_names(params), leaves, strict=True):
        _ = shape_dtype_of_leaf(name, leaf)
    if regularizer is not None:
        rules = resolve(regularizer, params)
        leaves = [x for b, x in zip(rules, leaves, strict=True) if b.regularizer]
    alive = [_count(x != 0) for x in leaves]
    return _dead_share(alive, sum(x.size for x in leaves), "entries")


def group_sparsity(
    params: Params,
    regularizer: RegularizerSpec,
    weighting: Literal["unweighted", "size", "kernel"] = "unweighted",
) -> jax.Array:
    """Return the fraction of groups that are exactly zero.

    Three definitions are in use, and papers do not always say which:

    - ``"unweighted"``: every unit of the regularizers counts 1.
    - ``"size"``: every unit counts its number of entries (the RAMDA paper).
    - ``"kernel"``: leaves of rank 3 and more are counted per spatial kernel, one for
      each pair of input and output channel, whatever the regularizer's groups; leaves
      of rank 2 and less by the regularizer's units (RMDA's released evaluation). A tie
      counts its kernels, and if it has leaves of rank 2 or less its units as well.

    Args:
      params: Pytree of floating arrays; the structured iterate, usually.
      regularizer: Its units are counted on the leaves it acts on.
      weighting: The definition.

    Returns:
      Scalar in [0, 1].

    Raises:
      ValueError: an unknown weighting, nothing to count, or a spec that does not fit.

    Examples:
      >>> kernel = jnp.zeros((3, 3, 2, 4)).at[:, :, 0, :2].set(1.0)
      >>> for weighting in ("unweighted", "size", "kernel"):
      ...     print(rj.metrics.group_sparsity(kernel, rj.group_lasso(), weighting))
      0.5
      0.5
      0.75
    """
    if weighting not in ("unweighted", "size", "kernel"):
        raise ValueError(
            f"`weighting` must be 'unweighted', 'size' or 'kernel', got {weighting!r}."
        )
    alive, total = [], 0
    leaves = jax.tree.leaves(params)
    for rule in active(resolve(regularizer, params)):
        several = [leaves[i] for i in rule.leaves]
        if weighting == "kernel":
            for x in (x for x in several if x.ndim > 2):
                kernels = jnp.any(x != 0, axis=tuple(range(x.ndim - 2)))
                alive.append(_count(kernels))
                total += kernels.size
            if all(x.ndim > 2 for x in several):
                continue
        units = rule.regularizer.support(rule.take(leaves))
        if weighting == "size":
            sizes = rule.regularizer.unit_sizes(rule.take([x.shape for x in leaves]))
            alive.append(_count(jnp.where(units, sizes, 0)))
            total += int(np.broadcast_to(sizes, units.shape).sum())
        else:
            alive.append(_count(units))
            total += units.size
    return _dead_share(alive, total, "groups")


def rank(support: Any) -> Any:
    """Return the number of active units of every leaf: with spectral maps, its rank.

    Args:
      support: Tree of boolean arrays: `structured_support` of an optimizer state,
        which counts the singular values the prox itself shrank, or
        `RegularizerMap.support` of params, which needs an SVD and a tolerance.

    Returns:
      Tree of int32 arrays; one rank per matrix where a leaf is a batch of matrices.

    Examples:
      >>> x = jnp.diag(jnp.array([3.0, 0.5, 2.0]))
      >>> rj.metrics.rank(rj.nuclear_norm().prox_support(x, 1.0))
      Array(2, dtype=int32)
    """
    return jax.tree.map(lambda s: jnp.sum(s, axis=-1, dtype=jnp.int32), support)


def _count(flags_or_sizes: jax.Array) -> jax.Array:
    # Integer sums are exact; float32 stops counting at 2**24.
    count = jnp.sum(flags_or_sizes, dtype=jnp.int32)
    return count.astype(jnp.result_type(float))


def _dead_share(alive: list[jax.Array], total: int, what: str) -> jax.Array:
    if not total:
        raise ValueError(f"there are no {what} to count: no leaf is regularized.")
    # One survivor among 2**24 is still seen next to 1; its share of zeros would not be.
    count = sum(alive, jnp.zeros((), jnp.result_type(float)))
    # XLA may divide by multiplying, and then n / n is not quite 1.
    return jnp.where(count >= total, 0, 1 - count / total)
