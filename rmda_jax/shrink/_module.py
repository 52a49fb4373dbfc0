"""Slice modules: their arrays, and the sizes that they keep beside them.

Nothing of NNX or Equinox is imported: a module is what has attributes, a box what holds
an array (``__jax_array__``), and a size is known by its name and its old value.
"""

import types
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_map_with_path

from rmda_jax._types import Shape
from rmda_jax.shrink._apply import sliced, unfollowed
from rmda_jax.shrink._plan import Plan
from rmda_jax.specs._names import canonical_name

# Attribute: the axes of the arrays whose lengths it may be. It is the first that the
# module has, and only if the attribute's old value is the old length.
_LENGTHS: dict[str, tuple[tuple[str, int], ...]] = {
    "in_features": (
        ("kernel", -2),
        ("weight", 1),
        ("query/kernel", 0),
        ("dense_i/kernel", 0),
        ("ii/kernel", 0),
    ),
    "out_features": (("kernel", -1), ("weight", 0), ("out/kernel", -1)),
    "in_kv_features": (("key/kernel", 0),),
    "num_features": (("scale", 0), ("bias", 0), ("mean", 0)),
    "hidden_features": (("dense_h/kernel", 0), ("hi/kernel", 0)),
    "features": (("embedding", 1),),
    "num_embeddings": (("embedding", 0), ("weight", 0)),
    "num_heads": (("query/kernel", 1),),
    "num_kv_heads": (("key/kernel", 1),),
    "head_dim": (("query/kernel", 2),),
    "in_channels": (("weight", 1),),
    "out_channels": (("weight", 0),),
    "channels": (("weight", 0),),
    "input_size": (("weight", 0), ("weight_ih", 1)),
    "hidden_size": (("weight_hh", 1),),
    "embedding_size": (("weight", 1),),
    "in_size": (("layers/0/weight", 1),),
    "width_size": (("layers/0/weight", 0),),
    "query_size": (("query_proj/weight", 1),),
    "key_size": (("key_proj/weight", 1),),
    "value_size": (("value_proj/weight", 1),),
    "output_size": (("output_proj/weight", 0),),
}

# Attribute: the axes that it cuts into as many blocks.
_BLOCKS: dict[str, tuple[tuple[str, int], ...]] = {
    "feature_group_count": (("kernel", -1),),
    "groups": (("weight", 0),),
    "num_groups": (("scale", 0), ("bias", 0)),
    "num_heads": (("query_proj/weight", 0),),
}

# Attribute: the axis of which it is a block, and the attribute that counts the blocks.
_WITHIN = {
    "qk_size": ("query_proj/weight", 0, "num_heads"),
    "vo_size": ("value_proj/weight", 0, "num_heads"),
}

_SHAPES = {"kernel_shape": "kernel", "bias_shape": "bias"}


def slice_module(plan: Plan, module: Any) -> Any:
    """Slice a module: its arrays, and the sizes in its attributes.

    An NNX module is changed in place; of a frozen Equinox module a smaller one is made.
    The sizes of their layers are set (features and channels, heads, the shapes of
    kernels, groups of convolutions), by attribute name: those of modules of your own
    only if they are named alike. `verify` tells whether all fit.

    Args:
      plan: What `plan` returned for the state or the parameters of this module.
      module: NNX or Equinox module. An NNX optimizer is none: its state is for `apply`.

    Returns:
      None for a module that is changed in place, else the smaller module.

    Raises:
      ValueError: no array of the module is in the plan, one has another shape, it
        could be one of several in the plan, or the module keeps a size of its own that
        is none of these attributes.

    Examples:
      >>> from rmda_jax import shrink
      >>> class Linear:
      ...     def __init__(self, kernel):
      ...         self.kernel, self.in_features = kernel, len(kernel)
      >>> layer = Linear(jnp.array([[1.0, 2.0], [0.0, 0.0]]))
      >>> fn = lambda p, x: jnp.tanh(x * p["scale"]) @ p["kernel"]
      >>> params = {"scale": jnp.ones(2), "kernel": layer.kernel}
      >>> plan = shrink.plan(fn, params, jnp.ones(()))
      >>> shrink.slice_module(plan, layer)
      >>> layer.kernel.shape, layer.in_features
      ((1, 2), 1)
    """
    names = _names(plan, module)
    if not names:
        raise ValueError(
            "the module must hold arrays that the plan names, got "
            f"{type(module).__name__}, and in the plan: {', '.join(plan.shapes)}."
        )
    _check_heads(plan, names)
    _check_followed(plan, names, module)
    frozen = _is_frozen(module)
    if frozen:
        cut = lambda path, x: (
            sliced(plan, names[name], x, folds=True)
            if (name := canonical_name(path)) in names
            else x
        )
        module = tree_map_with_path(cut, module)
    for path, node in _nodes(module):
        if not frozen:
            _slice_arrays(plan, names, path, node)
        for attribute, size in _sizes(plan, names, path, node).items():
            # Past the guard of a module that is frozen: this one is new, and ours.
            set_to = object.__setattr__ if frozen else setattr
            set_to(node, attribute, size)
    return module if frozen else None


def _names(plan: Plan, module: Any) -> dict[str, str]:
    """Return the plan's names of the arrays of a module, by their paths in it.

    The plan's names are longer where the module's params were a part of all params.
    """
    names = {}
    for path, node in _nodes(module):
        for key, child in _children(node):
            place = _join(path, key)
            if _array(child) is None:
                continue
            longer = [x for x in plan.shapes if x.endswith(f"/{place}")]
            if place in plan.shapes:
                names[place] = place
            elif len(longer) == 1:
                names[place] = longer[0]
            elif any(plan.widths[x] != plan.shapes[x] for x in longer):
                raise ValueError(
                    f"the array '{place}' of the module could be any of "
                    f"{', '.join(longer)} in the plan. Pass an object that holds the "
                    "module as an attribute of the name that it has in the plan."
                )
    return names


def _check_heads(plan: Plan, names: dict[str, str]) -> None:
    """Raise where attention as NNX has it would not run."""
    for place, value in names.items():
        query = names.get(place.removesuffix("value/kernel") + "query/kernel", "")
        if not place.endswith("value/kernel") or query not in plan.widths:
            continue
        sizes = plan.widths[query][-1], plan.widths[value][-1]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"the heads of '{query}' and '{value}' must stay of one size for NNX's "
                f"attention, got {sizes[0]} and {sizes[1]}. Plan with `couplings=` "
                f"couplings.keep(*couplings.find({value!r}, 2)), and so for '{query}'."
            )


def _check_followed(plan: Plan, names: dict[str, str], module: Any) -> None:
    """Raise if the function keeps a size of its own that no attribute will set.

    Which attribute a function takes a size from cannot be seen: one that changes from
    the length that was found to the one that was foreseen is taken to be it.
    """
    changes = {
        (vars(node)[attribute], size)
        for path, node in _nodes(module)
        for attribute, size in _sizes(plan, names, path, node).items()
    }
    left = [c for c in plan.conflicts if not c.sizes & changes]
    if left:
        raise ValueError(
            f"{unfollowed(left)} Or give the size an attribute that `slice_module` "
            f"knows: {', '.join(sorted(_LENGTHS.keys() | _BLOCKS.keys()))}."
        )


def _slice_arrays(plan: Plan, names: dict[str, str], path: str, node: Any) -> None:
    """Slice the arrays that a node holds, in place."""
    for key, child in list(_children(node)):
        place = _join(path, key)
        if place not in names:
            continue
        x = sliced(plan, names[place], _array(child), folds=True)
        if hasattr(child, "set_value"):
            child.set_value(x)
        elif hasattr(child, "__jax_array__"):
            child.value = x
        elif isinstance(node, dict):
            node[key] = x
        elif isinstance(node, list):
            node[int(key)] = x
        else:
            setattr(node, key, x)


def _sizes(
    plan: Plan, names: dict[str, str], path: str, node: Any
) -> dict[str, int | tuple[int, ...]]:
    """Return the sizes that a module is to keep from now on."""
    has = vars(node) if hasattr(node, "__dict__") else {}

    def axis(array: str, i: int) -> tuple[int, int] | None:
        name = names.get(_join(path, array))
        if name is None or not -len(plan.shapes[name]) <= i < len(plan.shapes[name]):
            return None
        return plan.shapes[name][i], plan.widths[name][i]

    new: dict[str, Any] = {}
    for attribute in has.keys() & _BLOCKS.keys():
        for array, i in _BLOCKS[attribute]:
            if (name := names.get(_join(path, array))) is not None:
                new[attribute] = _blocks(plan, name, i, has[attribute])
    groups = next((g for g in ("feature_group_count", "groups") if g in new), None)
    for attribute in has.keys() & _LENGTHS.keys():
        grouped = groups if attribute in ("in_features", "in_channels") else None
        old_groups, new_groups = (has[grouped], new[grouped]) if grouped else (1, 1)
        for array, i in _LENGTHS[attribute]:
            lengths = axis(array, i)
            if lengths and lengths[0] * old_groups == has[attribute]:
                new[attribute] = lengths[1] * new_groups
                break
    for attribute in has.keys() & _WITHIN.keys():
        array, i, count = _WITHIN[attribute]
        if lengths := axis(array, i):
            new[attribute] = lengths[1] // new.get(count, has[count])
    for attribute in has.keys() & _SHAPES.keys():
        if (name := names.get(_join(path, _SHAPES[attribute]))) is not None:
            new[attribute] = plan.widths[name]
    if {"qkv_features", "num_heads", "head_dim"} <= has.keys() and "head_dim" in new:
        new["qkv_features"] = new["num_heads"] * new["head_dim"]
    return new | _tuples(has, plan.widths.get(names.get(_join(path, "kernel"), "")))


def _tuples(has: dict[str, Any], kernel: Shape | None) -> dict[str, tuple[int, ...]]:
    """Return the sizes of a dense layer that acts on several axes."""
    inner, outer = has.get("in_features"), has.get("out_features")
    if kernel is None or not (isinstance(inner, tuple) and isinstance(outer, tuple)):
        return {}
    end = len(kernel) - len(outer)
    return {"in_features": kernel[end - len(inner) : end], "out_features": kernel[end:]}


def _blocks(plan: Plan, name: str, axis: int, count: int) -> int:
    """Return in how many of the blocks of an axis something stays."""
    length = plan.shapes[name][axis]
    return len(np.unique(plan.kept[name][axis] // (length // count)))


def _nodes(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield a module and all that it consists of, each once, with their paths."""
    seen, left = set(), [("", module)]
    while left:
        path, node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        for key, child in _children(node):
            if _array(child) is None:
                left.append((_join(path, key), child))


def _children(node: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(node, dict):
        return [(str(key), child) for key, child in node.items()]
    if isinstance(node, list | tuple):
        return [(str(i), child) for i, child in enumerate(node)]
    if isinstance(node, type | types.FunctionType | types.ModuleType):
        return []
    public = getattr(node, "__dict__", {}).items()
    return [(key, child) for key, child in public if not key.startswith("_")]


def _array(x: Any) -> Any:
    """Return an array, or that in a box; None if it is neither."""
    if hasattr(x, "__jax_array__"):
        x = x.get_value() if hasattr(x, "get_value") else x.value
    return x if isinstance(x, jax.Array | np.ndarray) else None


def _is_frozen(module: Any) -> bool:
    for key, child in _children(module):
        try:
            setattr(module, key, child)
        except AttributeError:
            return True
    return False


def _join(path: str, key: str) -> str:
    return f"{path}/{key}" if path else key
