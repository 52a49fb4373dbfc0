"""Any form of spec, resolved against a tree."""

import dataclasses
from typing import Any, TypeAlias

import jax

from rmda_jax._types import Params
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.specs._leaf_rules import LeafRule, check_fit, check_not_empty
from rmda_jax.specs._map import RegularizerMap
from rmda_jax.specs._names import leaf_names

RegularizerSpec: TypeAlias = Any
"""A RegularizerMap, one Regularizer for every leaf, or a pytree prefix of the params
with a Regularizer or None (leave alone) at its leaves."""


def resolve(spec: RegularizerSpec, params: Params) -> list[LeafRule]:
    """Resolve any form of spec against a tree: one `LeafRule` per leaf.

    Args:
      spec: A RegularizerMap, one Regularizer (then it acts on every leaf), or a pytree
        prefix of ``params`` with a Regularizer or None at its leaves.
      params: Pytree of arrays, tracers or `jax.ShapeDtypeStruct`.

    Returns:
      One rule per leaf, in flattening order.

    Raises:
      TypeError, ValueError: as in `RegularizerMap.resolve`; ``spec`` is none of these.
    """
    if isinstance(spec, RegularizerMap):
        return spec.resolve(params)
    leaves = jax.tree.leaves(params)
    if not leaves:
        check_not_empty(params)
        return []
    if isinstance(spec, Regularizer):
        regularizers = [spec] * len(leaves)
    else:
        regularizers = _broadcast_prefix(spec, params)
    rules = [
        LeafRule(name, regularizer, 1.0, (i,))
        for i, (name, regularizer) in enumerate(
            zip(leaf_names(params), regularizers, strict=True)
        )
    ]
    for rule in rules:
        if rule.is_tied:
            raise TypeError(
                f"{rule.regularizer} acts on several leaves together and needs a "
                "pattern for each: put it into a RegularizerMap."
            )
    check_fit(rules, leaves)
    return rules


def _broadcast_prefix(
    spec: RegularizerSpec, params: Params
) -> list[Regularizer | None]:
    def is_leaf(node: Any) -> bool:
        return node is None or isinstance(node, Regularizer)

    def spread(regularizer: Any, subtree: Any) -> list:
        if not is_leaf(regularizer):
            raise TypeError(
                "`regularizer` must be a RegularizerMap, a Regularizer, or a pytree "
                f"prefix of the params with these or None at its leaves, got "
                f"{regularizer!r}."
            )
        return [_Box(regularizer)] * len(jax.tree.leaves(subtree))

    try:
        spread_tree = jax.tree.map(spread, spec, params, is_leaf=is_leaf)
    except ValueError as error:
        raise ValueError(
            f"the pytree of regularizers is no prefix of the params, whose names are "
            f"{', '.join(leaf_names(params))}: {error}"
        ) from error
    return [box.content for box in jax.tree.leaves(spread_tree)]


@dataclasses.dataclass(frozen=True)
class _Box:
    """Keeps None a leaf while trees are mapped."""

    content: Regularizer | None
