"""The units of the model, those of least magnitude set to zero, and what is left.

Nothing is trained. The zeros are those that a budget makes in one step of ProxSGD from
the pretrained weights, or other scores, with gradients of zero; the group lasso would
also shrink what it keeps, so the weights that are kept are put back.
"""

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import rmda_jax as rj
from examples.pretrained.model import Fn

TEXT = Path(__file__).with_name("text.txt")
SOME = jax.ShapeDtypeStruct((1, 16), jnp.int32)


def unit_rules(fn: Fn, shapes: Any, where: str = "*") -> Any:
    """Return the rules of groups that hold all weights of a unit.

    A group of keys and values goes with its queries, a gated unit with its gate.
    ``where`` is a pattern of the leaves that may have rules.
    """
    return rj.shrink.group_rules(fn, shapes, SOME, side="all", where=where)


def without_pull(rules: Any) -> Any:
    """Return the same groups with l0 of their norms, which leaves what it keeps as is.

    The group lasso takes as much off every unit of a rule. Units of pretrained weights
    are almost of one size: what a budget zeros is then most of what it keeps, too.
    """

    def of(rule: Any) -> Any:
        if rule.regularizer is None:
            return None
        g = rule.regularizer.geometry
        l0 = rj.regularizers.l0()
        return rj.regularizers.on_tied_groups(
            l0, g.group_axes, g.groups, weighted=g.weighted
        )

    return rj.RegularizerMap([(r.pattern, of(r), r.multiplier) for r in rules.rules])


def budget(keep: float, *, per_layer: bool) -> Any:
    """Return the budget of a share of the weights in units.

    Args:
      keep: Which share.
      per_layer: Whether every layer keeps that share of its gated units and of its
        groups of heads, so that all layers stay alike.
    """
    if per_layer:
        return rj.budget(groups=keep, per_rule=True)
    return rj.budget(weights=keep)


def zeroed(params: Any, rules: Any, strength: Any, scores: Any = None) -> Any:
    """Return params with zeros for the groups of least score, and the others as before.

    Args:
      params: The params.
      rules: The groups.
      strength: A budget.
      scores: A tree like the params. The score of a group is the norm of its entries
        over the root of their number, as in the group lasso; by default that of the
        params, the magnitude.
    """
    tx = rj.proxsgd(1.0, rules, strength)

    @jax.jit
    def step(params: Any, scores: Any) -> Any:
        gradient = jax.tree.map(jnp.zeros_like, scores)
        updates, _ = tx.update(gradient, tx.init(scores), scores)
        moved = jax.tree.leaves(optax.apply_updates(scores, updates))
        leaves, treedef = jax.tree.flatten(params)
        for i, rule in enumerate(rules.resolve(params)):
            if rule.regularizer is not None and i == min(rule.leaves):
                # Of the whole group: a leaf may have no scores of its own.
                alive = rule.regularizer.support_mask(rule.take(moved))
                of_rule = rule.take(leaves)
                kept = jax.tree.map(lambda a, x: jnp.where(a, x, 0), alive, of_rule)
                rule.put(leaves, kept)
        return treedef.unflatten(leaves)

    return step(params, params if scores is None else scores)


def perplexity(fn: Fn, params: Any, tokens: jax.Array) -> float:
    """Return exp of the mean negative log-likelihood of each token but the first."""

    @jax.jit
    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = fn(params, tokens[None, :-1])[0]
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, tokens[1:]
        ).mean()

    return float(jnp.exp(loss(params, tokens)))


def made_smaller(
    fn: Fn, params: Any, keep: float, *, per_layer: bool = True, where: str = "*"
) -> tuple[Any, Any]:
    """Return the params with zeros for the units of least norm, and without them."""
    rules = unit_rules(fn, jax.tree.map(as_shape, params), where)
    zeros = zeroed(params, rules, budget(keep, per_layer=per_layer))
    return zeros, rj.shrink.apply(rj.shrink.plan(fn, zeros, SOME), zeros)


def shrunk(
    fn: Fn,
    params: Any,
    tokens: jax.Array,
    keep: float,
    *,
    per_layer: bool,
    where: str = "*",
) -> tuple[Any, dict[str, Any]]:
    """Make the model smaller without training.

    Returns:
      The small params, and what was measured: parameters and perplexities before and
      after, and how far apart the outputs of the zeroed and of the small params are.
    """
    start = time.perf_counter()
    zeros, small = made_smaller(fn, params, keep, per_layer=per_layer, where=where)
    some = tokens[None, :32]
    difference = rj.shrink.verify(fn, zeros, small, some)
    with float64():
        exact = rj.shrink.verify(fn, in_float64(zeros), in_float64(small), some)
    return small, {
        "keep": keep,
        "where": where,
        "per_layer": per_layer,
        "tokens": len(tokens),
        "parameters": [count(params), count(small)],
        "perplexity": [perplexity(fn, p, tokens) for p in (params, zeros, small)],
        "difference": difference.max_abs,
        "difference_in_float64": exact.max_abs,
        "scale": difference.scale,
        "widths": widths(small),
        "seconds": round(time.perf_counter() - start),
    }


def as_shape(x: jax.Array) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of an array."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def float64() -> AbstractContextManager[None]:
    """Return a context in which JAX has 64 bits."""
    if hasattr(jax, "enable_x64"):  # JAX 0.8 and newer
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64(True)


def in_float64(params: Any) -> Any:
    """Return params in float64, in which rounding is no longer seen."""
    return jax.tree.map(lambda x: x.astype(jnp.float64), params)


def count(params: Any) -> int:
    """Return the number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))


def widths(params: dict[str, Any]) -> list[list[int]]:
    """Return the groups of heads and the gated units of every layer."""
    layers = [params[f"block{i}"] for i in range(len(params) - 2)]
    return [[b["attention"]["key"].shape[1], b["mlp"]["up"].shape[1]] for b in layers]


def in_words(found: dict[str, Any]) -> str:
    """Return what `shrunk` measured, in words."""
    before, after = found["parameters"]
    dense, zeros, small = found["perplexity"]
    kinds = sorted({tuple(w) for w in found["widths"]})
    alike = [f"{found['widths'].count(list(w))} x {w[0]}, {w[1]:,}" for w in kinds]
    return "\n".join(
        [
            f"kept: {found['keep']:.0%} of the units of {found['where']}; no training",
            f"layers x groups of heads, gated units: {'; '.join(alike)}",
            f"parameters: {before:,} -> {after:,} ({after / before:.1%})",
            f"perplexity of {found['tokens']} tokens: {dense:.2f} before, {zeros:.4g} "
            f"with zeros, {small:.4g} smaller",
            f"zeros against smaller: largest difference of a logit "
            f"{found['difference']:.1e}, of logits up to {found['scale']:.3g}; "
            f"in float64 {found['difference_in_float64']:.1e}",
            f"seconds: {found['seconds']}",
        ]
    )
