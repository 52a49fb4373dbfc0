"""One canonical name per leaf, the same under every framework."""

from typing import Any

import jax
from jax.tree_util import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    KeyPath,
    SequenceKey,
)


def canonical_name(path: KeyPath) -> str:
    """Return the name of a leaf: the keys of its path, joined by ``/``.

    Two wrappers leave no trace. A boxed array (an NNX ``Variable``, linen's
    ``Partitioned``) adds an attribute ``value`` below its dict key; NNX shows it to
    ``init`` and not to ``update``. Linen's ``variables`` keep the parameters below a
    top-level key ``params``. Haiku's ``~`` segments (``mlp/~/linear_0``) are dropped.

    Args:
      path: Key path of the leaf, as `jax.tree_util.tree_flatten_with_path` gives it.

    Returns:
      For instance ``conv1/kernel``, ``layers/0/weight``; ``""`` for a bare array.
    """
    boxed = (
        len(path) >= 2
        and path[-1] == GetAttrKey("value")
        and isinstance(path[-2], DictKey)
    )
    if boxed:
        path = path[:-1]
    if len(path) >= 2 and path[0] == DictKey("params"):
        path = path[1:]
    segments = "/".join(_key_name(key) for key in path).split("/")
    return "/".join(segment for segment in segments if segment != "~")


def leaf_names(tree: Any) -> list[str]:
    """Return the canonical names of a tree's leaves, in flattening order."""
    return [
        canonical_name(path)
        for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def is_placeholder(tree: Any) -> bool:
    """Return whether a leafless tree only stands for params, rather than being empty.

    `optax.tree.map_params` calls ``init`` on a placeholder node, `optax.masked` on a
    tree of `optax.MaskedNode`: neither has leaves, and neither is a mistake.
    """
    containers = (dict, list, tuple, type(None))
    return bool(
        jax.tree.leaves(tree, is_leaf=lambda node: type(node) not in containers)
    )


def _key_name(key: Any) -> str:
    match key:
        case DictKey(key=name) | FlattenedIndexKey(key=name):
            return str(name)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return name
        case _:
            return str(key)
