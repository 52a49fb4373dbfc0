"""One canonical name per leaf, the same under every framework."""

from collections.abc import Collection
from typing import Any

import jax
import optax
from jax.tree_util import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    KeyPath,
    SequenceKey,
    keystr,
    tree_flatten_with_path,
)


def canonical_name(path: KeyPath) -> str:
    """Return the name of a leaf: the keys of its path, joined by ``/``.

    Two wrappers leave no trace. A boxed array (an NNX ``Variable``, linen's
    ``Partitioned``) adds an attribute ``value`` below its dict key; NNX shows it to
    ``init`` and not to ``update``. (`leaf_names` drops that of a ``Variable`` below any
    key.) Linen's ``variables`` keep the parameters below a top-level key ``params``.
    Haiku's ``~`` segments (``mlp/~/linear_0``) are dropped.

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
    segments = "/".join(key_name(key) for key in path).split("/")
    return "/".join(segment for segment in segments if segment != "~")


def leaf_names(tree: Any) -> list[str]:
    """Return the canonical names of a tree's leaves, in flattening order.

    Raises:
      ValueError: two leaves have the same name, so that it could mean either.
    """
    paths = [
        path for path, _ in tree_flatten_with_path(tree, is_leaf=is_array_variable)[0]
    ]
    names = [canonical_name(path) for path in paths]
    first: dict[str, KeyPath] = {}
    for name, path in zip(names, paths, strict=True):
        other = first.setdefault(name, path)
        if other is not path:
            raise ValueError(
                f"two leaves have the same name '{name}': {keystr(other)} and "
                f"{keystr(path)}. A name is the keys joined by '/', without Haiku's "
                "'~' and a leading 'params'. Rename one of the keys, in Haiku by "
                "another name for the module."
            )
    return names


def leaves_in_order_of(
    like: Any, tree: Any, demand: str, remedy: str, *, masked: bool = False
) -> list[Any]:
    """Return the leaves of a tree in the order of another tree with the same names.

    Two containers may hold the same leaves in different orders: JAX sorts the keys of a
    dictionary, and the strings "0", "1", "10", "2" come in another order than integers
    or the items of a list.

    Args:
      like: The tree whose order counts, usually the params.
      tree: The other one.
      demand: What an error says of ``tree``: that it must have these names.
      remedy: What an error says last.
      masked: Whether ``tree`` may leave out leaves, where it has `optax.MaskedNode`.

    Returns:
      One entry per leaf of ``like``; None where ``tree`` has `optax.MaskedNode`.

    Raises:
      ValueError: a leaf is in only one of the trees.
    """
    leaves, treedef = jax.tree.flatten(tree)
    if treedef == jax.tree.structure(like):
        return leaves
    names, wanted = leaf_names(tree), leaf_names(like)
    found = dict(zip(names, leaves, strict=True))
    left_out = _masked_names(tree) if masked else []
    missing = [
        name
        for name in wanted
        if name not in found and not any(_lies_in(name, node) for node in left_out)
    ]
    check_names(missing, found.keys() - set(wanted), demand, remedy)
    return [found.get(name) for name in wanted]


def check_names(
    missing: Collection[str], unexpected: Collection[str], demand: str, remedy: str
) -> None:
    """Raise a ValueError if names are missing, or there are others than expected."""
    kinds = {"missing": missing, "unexpected": unexpected}
    found = [f"{kind}: {', '.join(sorted(x))}" for kind, x in kinds.items() if x]
    if found:
        raise ValueError(f"{demand}; {'; '.join(found)}. {remedy}")


def is_placeholder(tree: Any) -> bool:
    """Return whether a leafless tree only stands for params, rather than being empty.

    `optax.tree.map_params` calls ``init`` on a placeholder node, `optax.masked` on a
    tree of `optax.MaskedNode`: neither has leaves, and neither is a mistake.
    """
    containers = (dict, list, tuple, type(None))
    return bool(
        jax.tree.leaves(tree, is_leaf=lambda node: type(node) not in containers)
    )


def is_variable(node: Any) -> bool:
    """Return whether this is an NNX variable, or another object that holds an array.

    Asked is the type: the class of such objects is none itself.
    """
    return hasattr(type(node), "__jax_array__")


def is_array_variable(node: Any) -> bool:
    """Return whether a variable holds one leaf; a quantized array holds several."""
    return is_variable(node) and len(jax.tree.leaves(node)) == 1


def _masked_names(tree: Any) -> list[str]:
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    nodes = tree_flatten_with_path(tree, is_leaf=is_masked)[0]
    return [canonical_name(path) for path, node in nodes if is_masked(node)]


def _lies_in(name: str, node: str) -> bool:
    return node in ("", name) or name.startswith(f"{node}/")


def key_name(key: Any) -> str:
    """Return a key of a path as it stands in names."""
    match key:
        case DictKey(key=name) | FlattenedIndexKey(key=name):
            return str(name)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return name
        case _:
            return str(key)
