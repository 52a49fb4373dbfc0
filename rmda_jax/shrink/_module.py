"""Slice modules: their arrays, and the sizes that they keep beside them.

Nothing of NNX or Equinox is imported (see `_objects`). An attribute is a size

- if it has one of the names of the tables below,
- if the module has the array that the table names with it, and
- if its old value is the old length of that array's axis.
"""

from typing import Any

import numpy as np
from jax.tree_util import tree_map_with_path

from rmda_jax._types import Shape
from rmda_jax.shrink._apply import sliced, unfollowed
from rmda_jax.shrink._objects import array_of, children_of, join, nodes
from rmda_jax.shrink._plan import Plan
from rmda_jax.specs._names import canonical_name

# Attribute: the axes of the arrays whose lengths it may be. It is the first that the
# module has, and only if the attribute's old value is the old length. Axes count from
# the back, for layers may be stacked along new ones in front; those from the front are
# of a convolution's weight, see `_from_back`.
_LENGTHS: dict[str, tuple[tuple[str, int], ...]] = {
    "in_features": (
        ("kernel", -2),
        ("weight", -1),
        ("lora_a", -2),
        ("query/kernel", -3),
        ("dense_i/kernel", -2),
        ("ii/kernel", -2),
    ),
    "out_features": (
        ("kernel", -1),
        ("weight", -2),
        ("lora_b", -1),
        ("out/kernel", -1),
    ),
    "in_kv_features": (("key/kernel", -3),),
    "num_features": (("scale", -1), ("bias", -1), ("mean", -1)),
    "hidden_features": (("dense_h/kernel", -2), ("hi/kernel", -2)),
    "features": (("embedding", -1),),
    "num_embeddings": (("embedding", -2), ("weight", -2)),
    "num_heads": (("query/kernel", -2),),
    "num_kv_heads": (("key/kernel", -2),),
    "head_dim": (("query/kernel", -1),),
    "lora_rank": (("lora_a", -1),),
    "in_channels": (("weight", 1),),
    "out_channels": (("weight", 0),),
    "channels": (("weight", -1),),
    "input_size": (("weight", -1), ("weight_ih", -1)),
    "hidden_size": (("weight_hh", -1),),
    "embedding_size": (("weight", -1),),
    "in_size": (("layers/0/weight", -1),),
    "width_size": (("layers/0/weight", -2),),
    "query_size": (("query_proj/weight", -1),),
    "key_size": (("key_proj/weight", -1),),
    "value_size": (("value_proj/weight", -1),),
    "output_size": (("output_proj/weight", -2),),
}

# Attribute: the axes that it cuts into as many blocks.
_BLOCKS: dict[str, tuple[tuple[str, int], ...]] = {
    "feature_group_count": (("kernel", -1),),
    "groups": (("weight", 0),),
    "num_groups": (("scale", -1), ("bias", -1)),
    "num_heads": (("query_proj/weight", -2),),
}

# Attribute: the axis of which it is a block, and the attribute that counts the blocks.
_WITHIN = {
    "qk_size": ("query_proj/weight", -2, "num_heads"),
    "vo_size": ("value_proj/weight", -2, "num_heads"),
}

_SHAPES = {"kernel_shape": "kernel", "bias_shape": "bias"}


def slice_module(plan: Plan, module: Any) -> Any:
    """Slice a module: its arrays, and the sizes in its attributes.

    An NNX module is changed in place, and with it the state of an `nnx.split` before,
    which shares its Variables: keep a copy to compare with, `nnx.clone(module)` or
    ``jax.tree.map(jnp.copy, params)``. Of a frozen Equinox module, a smaller one is
    made. The sizes of their layers are set (features and channels, heads, the shapes of
    kernels, groups of convolutions), by attribute name: those of modules of your own
    only if they are named alike. `verify` tells whether all fit.

    Args:
      plan: What `plan` returned for the state or the parameters of this module.
      module: NNX or Equinox module. An NNX optimizer is none: its state is for `apply`.

    Returns:
      None for a module that is changed in place, else the smaller module.

    Raises:
      ValueError: the plan is for `program`; no array of the module is in it, one has
        another shape, it could be one of several in the plan, or the module keeps a
        size of its own that is none of these attributes. Then nothing has been changed.

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
    if plan.for_program:
        raise ValueError(
            "`plan` must be one for the module, got one with `for_program=True`: the "
            "module would be wrong on the sliced params. Run them by `program`, or "
            "plan without it."
        )
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
    else:
        _slice_arrays(plan, names, module)
    for path, node in nodes(module):
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
    for path, node in nodes(module):
        for key, child in children_of(node):
            place = join(path, key)
            if array_of(child) is None:
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
        for path, node in nodes(module)
        for attribute, size in _sizes(plan, names, path, node).items()
    }
    left = [c for c in plan.conflicts if not c.sizes & changes]
    if left:
        raise ValueError(
            f"{unfollowed(left)} Or give the size an attribute that `slice_module` "
            f"knows: {', '.join(sorted(_LENGTHS.keys() | _BLOCKS.keys()))}."
        )


def _slice_arrays(plan: Plan, names: dict[str, str], module: Any) -> None:
    """Slice the arrays that a module holds, in place: all of them, or none."""
    found = [
        (node, key, child, names[place])
        for path, node in nodes(module)
        for key, child in children_of(node)
        if (place := join(path, key)) in names
    ]
    small = [sliced(plan, name, array_of(x), folds=True) for *_, x, name in found]
    for (node, key, child, _), x in zip(found, small, strict=True):
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
        name, i = names.get(join(path, array)), _from_back(has, i)
        if name is None or not -len(plan.shapes[name]) <= i < len(plan.shapes[name]):
            return None
        return plan.shapes[name][i], plan.widths[name][i]

    new: dict[str, Any] = {}
    counts = {key for key, x in has.items() if isinstance(x, int | np.integer) and x}
    for attribute in counts & _BLOCKS.keys():
        for array, i in _BLOCKS[attribute]:
            if (name := names.get(join(path, array))) is not None:
                i = _from_back(has, i)
                new[attribute] = _blocks(plan, name, i, has[attribute])
    groups = next((g for g in ("feature_group_count", "groups") if g in new), None)
    for attribute in counts & _LENGTHS.keys():
        grouped = groups if attribute in ("in_features", "in_channels") else None
        old_groups, new_groups = (has[grouped], new[grouped]) if grouped else (1, 1)
        for array, i in _LENGTHS[attribute]:
            lengths = axis(array, i)
            if lengths and lengths[0] * old_groups == has[attribute]:
                new[attribute] = lengths[1] * new_groups
                break
    for attribute in counts & _WITHIN.keys():
        array, i, count = _WITHIN[attribute]
        if (lengths := axis(array, i)) and count in new:
            new[attribute] = lengths[1] // new[count]
    for attribute in has.keys() & _SHAPES.keys():
        name, shape = names.get(join(path, _SHAPES[attribute])), has[attribute]
        if name is not None and isinstance(shape, tuple | list) and shape:
            n = len(shape)
            if plan.shapes[name][-n:] == tuple(shape):
                new[attribute] = plan.widths[name][-n:]
    if {"qkv_features", "num_heads", "head_dim"} <= has.keys() and "head_dim" in new:
        new["qkv_features"] = new.get("num_heads", has["num_heads"]) * new["head_dim"]
    return new | _tuples(has, plan.widths.get(names.get(join(path, "kernel"), "")))


def _from_back(has: dict[str, Any], axis: int) -> int:
    """Return an axis of a module's array, counted from the back where that is known."""
    if axis < 0:
        return axis
    if "num_spatial_dims" in has:  # a convolution of Equinox
        return axis - 2 - has["num_spatial_dims"]
    return -1 if "channels" in has else axis  # its group norm


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


def _is_frozen(module: Any) -> bool:
    for key, child in children_of(module):
        try:
            setattr(module, key, child)
        except AttributeError:
            return True
    return False
