"""Objects with attributes, and the arrays among them.

Nothing of NNX or Equinox is imported. Instead,

- a module is any object that has attributes, and
- a box, as a variable of NNX, is any object that converts to an array by
  ``__jax_array__``.
"""

import types
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from rmda_jax.specs._names import is_variable


def arrays_of(module: Any) -> list[Any]:
    """Return the arrays that a module holds, bare or in boxes."""
    found = [child for _, node in nodes(module) for _, child in children_of(node)]
    return [x for child in found if (x := array_of(child)) is not None]


def nodes(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield a module and all that it consists of, each once, with their paths."""
    seen, left = set(), [("", module)]
    while left:
        path, node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        for key, child in children_of(node):
            if array_of(child) is None:
                left.append((join(path, key), child))


def children_of(node: Any) -> Iterable[tuple[str, Any]]:
    """Return what an object consists of: entries, or public attributes."""
    if isinstance(node, dict):
        return [(str(key), child) for key, child in node.items()]
    if isinstance(node, list | tuple):
        return [(str(i), child) for i, child in enumerate(node)]
    if isinstance(node, type | types.FunctionType | types.ModuleType):
        return []
    public = getattr(node, "__dict__", {}).items()
    return [(key, child) for key, child in public if not key.startswith("_")]


def array_of(x: Any) -> Any:
    """Return an array, or that in a box; None if it is neither."""
    if is_variable(x):
        if hasattr(type(x), "get_value"):
            x = x.get_value()
        else:
            x = getattr(x, "value", None)
    return x if isinstance(x, jax.Array | np.ndarray) else None


def join(path: str, key: str) -> str:
    """Return the path of a child."""
    return f"{path}/{key}" if path else key
