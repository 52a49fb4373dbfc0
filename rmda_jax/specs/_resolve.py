"""Any form of spec, resolved against a tree."""

from typing import Any, TypeAlias

import jax

from rmda_jax._types import Params
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.specs._leaf_rules import LeafRule, check_fit, check_not_empty
from rmda_jax.specs._map import RegularizerMap
from rmda_jax.specs._names import leaf_names
from rmda_jax.specs._prefix import broadcast_prefix

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
        regularizers = broadcast_prefix(spec, params)
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
