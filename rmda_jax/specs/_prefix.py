"""A pytree prefix of regularizers, spread over the leaves of the params."""

import dataclasses
from typing import Any

import jax

from rmda_jax._types import Params
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.specs._names import leaf_names


def broadcast_prefix(spec: Any, params: Params) -> list[Regularizer | None]:
    """Return the regularizer of every leaf, in flattening order.

    Raises:
      TypeError: ``spec`` holds something else, or is a list of rules.
      ValueError: it is no prefix of ``params``.
    """

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

    if _holds_rules(spec):
        raise TypeError(
            f"`regularizer` must not be bare rules, got {spec!r}. Make a map of them: "
            "rj.RegularizerMap([(pattern, regularizer), ...])."
        )
    try:
        spread_tree = jax.tree.map(spread, spec, params, is_leaf=is_leaf)
    except ValueError as error:
        raise ValueError(
            f"the pytree of regularizers is no prefix of the params, whose names are "
            f"{', '.join(leaf_names(params))}: {error}. To choose leaves by patterns, "
            "pass rj.RegularizerMap([(pattern, regularizer), ...])."
        ) from error
    return [box.content for box in jax.tree.leaves(spread_tree)]


def _holds_rules(spec: Any) -> bool:
    """Return whether it is a rule, or a list of some: params have no strings."""
    if not isinstance(spec, list | tuple):
        return False
    rules = [spec, *spec]
    return any(
        isinstance(rule, list | tuple) and len(rule) > 1 and _is_pattern(rule[0])
        for rule in rules
    )


def _is_pattern(x: Any) -> bool:
    several = x if isinstance(x, tuple) and x else (x,)
    return all(isinstance(one, str) for one in several)


@dataclasses.dataclass(frozen=True)
class _Box:
    """Keeps None a leaf while trees are mapped."""

    content: Regularizer | None
