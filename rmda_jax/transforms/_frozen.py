"""Frozen zeros: what lies outside of the support neither moves nor is seen."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax.specs._leaf_rules import LeafRule, active


def support_masks(
    rules: Sequence[LeafRule], leaves: Sequence[jax.Array]
) -> list[jax.Array | None]:
    """Return the support mask of each leaf; None where no regularizer acts.

    Raises:
      NotImplementedError: a regularizer has a structure that no mask keeps.
    """
    masks: list[Any] = [None] * len(leaves)
    for rule in active(rules):
        try:
            rule.put(masks, rule.regularizer.support_mask(rule.take(leaves)))
        except NotImplementedError as error:
            names = "', '".join(rules[i].name for i in rule.leaves)
            raise NotImplementedError(
                f"the support of parameter '{names}' cannot be frozen: {error}"
            ) from error
    return masks


def check_masks(rules: Sequence[LeafRule], leaves: Sequence[Any]) -> None:
    """Raise as `support_masks` would, and compute nothing."""
    _ = jax.eval_shape(lambda leaves: support_masks(rules, leaves), leaves)


def within(masks: Sequence[jax.Array | None], tree: Any) -> Any:
    """Return the tree with zeros outside of the masks."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten(
        x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))
        for mask, x in zip(masks, leaves, strict=True)
    )
