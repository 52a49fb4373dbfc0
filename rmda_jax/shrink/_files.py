"""Small params in a file, which a new process reads without the big model."""

import importlib
import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, tree_flatten_with_path

from rmda_jax._types import Params, Shape
from rmda_jax.shrink._plan import Plan
from rmda_jax.specs._names import check_names, is_array_variable, key_name, leaf_names

# What safetensors both writes and reads back as NumPy arrays.
_DTYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bfloat16", "float16", "float32", "float64", "complex64",
}  # fmt: skip


def save(
    path: str | os.PathLike[str], params: Params, plan: Plan | None = None
) -> None:
    """Save params with their widths as safetensors.

    Every reader of the format finds the arrays by their names, also those of other
    frameworks, and the widths as JSON in the metadata, under ``"widths"``.

    Args:
      path: The file, conventionally ``*.safetensors``.
      params: Pytree of arrays, after `apply`; stored by name, ``conv/kernel``. How its
        dictionaries, lists and tuples are nested is kept in the file's metadata.
      plan: What `plan` returned: its old shapes are kept in the file's metadata, and
        the params are checked to have its widths.

    Raises:
      ImportError: the optional package ``safetensors`` is missing.
      TypeError: a leaf is no array, or of a dtype that the format lacks, such as int4.
      ValueError: two leaves have the same name, or a leaf has not the plan's width.

    Examples:
      >>> import tempfile
      >>> from rmda_jax import shrink
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     shrink.save(f"{folder}/small", {"dense": {"bias": jnp.ones(3)}})
      ...     params, widths = shrink.load(f"{folder}/small")
      >>> params["dense"]["bias"].tolist(), widths
      ([1.0, 1.0, 1.0], {'dense/bias': (3,)})
    """
    names = leaf_names(params)
    arrays = dict(zip(names, map(_array, names, jax.tree.leaves(params)), strict=True))
    metadata = {
        "widths": json.dumps({name: x.shape for name, x in arrays.items()}),
        "layout": json.dumps(_layout(params, iter(names))),
    }
    if plan is not None:
        for name, x in arrays.items():
            width = plan.widths.get(name, x.shape)
            if x.shape != width:
                raise ValueError(
                    f"parameter '{name}' must have the plan's width {width}, got "
                    f"{x.shape}. Pass the params that `apply` returned."
                )
        metadata["shapes"] = json.dumps(plan.shapes)
    # Names of the file format's own may not be empty, as that of a bare array is.
    unnamed = "/" * (1 + max(map(len, names), default=0))
    stored = {name or unnamed: np.asarray(x, order="C") for name, x in arrays.items()}
    _safetensors("safetensors.numpy").save_file(stored, os.fspath(path), metadata)


def load(
    path: str | os.PathLike[str], like: Params | None = None
) -> tuple[Params, dict[str, Shape]]:
    """Load what `save` wrote.

    Args:
      path: The file.
      like: A tree with the names of the saved one, such as the state of a module built
        anew: the arrays are put in their places in it, by name. Its own arrays may be
        larger, or abstract (`jax.ShapeDtypeStruct`). Leaves that are no arrays and not
        in the file stay as they are.

    Returns:
      The params, and the widths by whole names, for the constructors of modules:
      ``params["conv"]["kernel"]``, ``widths["conv/kernel"][-1]``. The params have the
      structure of ``like``, and the dtypes of the file; JAX shortens its 64-bit arrays
      unless it is set to 64 bits, and a warning tells. Without ``like`` dictionaries,
      lists and tuples come back as they were, other mappings (of Haiku, linen, NNX) as
      dictionaries, and the objects of other frameworks as dictionaries of their
      attributes, with a warning.

    Raises:
      ImportError: the optional package ``safetensors`` is missing.
      ValueError: the file was not written by `save`, or ``like`` has other names, fewer
        axes or shorter ones.

    Examples:
      >>> import tempfile
      >>> from rmda_jax import shrink
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     shrink.save(f"{folder}/small", {"layers": [jnp.ones(3)]})
      ...     params, _ = shrink.load(f"{folder}/small")
      ...     other, _ = shrink.load(f"{folder}/small", like={"layers": (jnp.ones(5),)})
      >>> params
      {'layers': [Array([1., 1., 1.], dtype=float32)]}
      >>> other
      {'layers': (Array([1., 1., 1.], dtype=float32),)}
    """
    with _safetensors("safetensors").safe_open(os.fspath(path), "numpy") as file:
        metadata = file.metadata() or {}
        stored = {name: file.get_tensor(name) for name in file.keys()}
    if "widths" not in metadata:
        raise ValueError(
            f"the file must hold widths, got only {sorted(metadata)} in {path}. "
            "Write it with `rmda_jax.shrink.save`."
        )
    widths = {
        name: tuple(shape) for name, shape in json.loads(metadata["widths"]).items()
    }
    _warn_of_64_bits(stored, path)
    arrays = {
        name if name in widths else "": jnp.asarray(x) for name, x in stored.items()
    }
    if like is not None:
        return _filled(like, arrays, path), widths
    if "layout" not in metadata:
        return _by_segments(arrays, path), widths
    foreign: list[str] = []
    params = _built(json.loads(metadata["layout"]), arrays, foreign)
    if foreign:
        kinds = ", ".join(dict.fromkeys(foreign))
        warnings.warn(
            f"{path} was saved from {kinds}, for which dictionaries come back. Give a "
            "tree of the same kind: load(path, like=tree).",
            stacklevel=2,
        )
    return params, widths


def _array(name: str, x: Any) -> np.ndarray:
    try:
        array = np.asarray(x)
    except TypeError:  # a key of random numbers
        array = np.asarray(None)
    if array.dtype.kind in "OSU":
        raise TypeError(
            f"`params` must hold arrays, got {type(x).__name__} for '{name}'. Keep the "
            "parameters alone, with eqx.filter(module, eqx.is_array) or "
            "nnx.state(module, nnx.Param)."
        )
    if array.dtype.name not in _DTYPES:
        wider = "int8" if "int" in array.dtype.name else "bfloat16"
        raise TypeError(
            f"`params` must have dtypes that safetensors keeps, got {array.dtype} for "
            f"'{name}'. Convert it to a wider one, such as x.astype(jnp.{wider})."
        )
    return array


def _warn_of_64_bits(stored: dict[str, np.ndarray], path: Any) -> None:
    """Warn if JAX, as it is set, has no such dtypes as a file."""
    for name, x in stored.items():
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        if dtype != x.dtype:
            warnings.warn(
                f"'{name}' in {path} is of {x.dtype}, and comes back as {dtype}. To "
                'keep it: jax.config.update("jax_enable_x64", True).',
                stacklevel=3,
            )
            return


def _layout(tree: Any, names: Iterator[str], key: Any = None) -> Any:
    """Return how a tree is nested, as JSON: names, None, and [kind, keys, nodes]."""
    if tree is None:
        return None
    children = tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if is_array_variable(tree) or [path for path, _ in children] == [()]:
        return next(names)
    keys = [path[0] for path, _ in children]
    if keys == [GetAttrKey("value")] and isinstance(key, DictKey):
        return _layout(children[0][1], names)  # a box, as `canonical_name` has it
    nodes = [
        _layout(node, names, key) for key, (_, node) in zip(keys, children, strict=True)
    ]
    if type(tree) in (list, tuple):
        return [type(tree).__name__, None, nodes]
    if all(isinstance(k, DictKey) and type(k.key) in (str, int, bool) for k in keys):
        return ["dict", [k.key for k in keys], nodes]
    return [type(tree).__name__, [key_name(k) for k in keys], nodes]


def _built(layout: Any, arrays: dict[str, jax.Array], foreign: list[str]) -> Any:
    """Return the tree of a layout, and add to ``foreign`` what it cannot be made of."""
    if layout is None:
        return None
    if isinstance(layout, str):
        return arrays[layout]
    kind, keys, nodes = layout
    nodes = [_built(node, arrays, foreign) for node in nodes]
    if kind in ("list", "tuple"):
        return nodes if kind == "list" else tuple(nodes)
    if kind != "dict":
        foreign.append(kind)
    return dict(zip(keys, nodes, strict=True))


def _by_segments(arrays: dict[str, jax.Array], path: Any) -> Any:
    """Return dictionaries by the segments of names, all that older files tell."""
    if set(arrays) == {""}:
        return arrays[""]
    params: dict[str, Any] = {}
    for name, x in arrays.items():
        *parents, last = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = x
    if any(segment.isdigit() for name in arrays for segment in name.split("/")):
        warnings.warn(
            f"{path} was saved by an older version, which did not tell the items of a "
            "list from keys: they come back as strings, in another order. Give a tree "
            "of the same kind: load(path, like=tree).",
            stacklevel=3,
        )
    return params


def _filled(like: Any, arrays: dict[str, jax.Array], path: Any) -> Any:
    """Return a tree like another one with the arrays of the same names."""
    names, (leaves, treedef) = leaf_names(like), jax.tree.flatten(like)
    old = dict(zip(names, leaves, strict=True))
    check_names(
        arrays.keys() - old.keys(),
        [n for n, x in old.items() if n not in arrays and hasattr(x, "shape")],
        f"`like` must have the names in {path}",
        "Build it like the tree that was saved.",
    )
    for name, x in arrays.items():
        shape = getattr(old[name], "shape", x.shape)
        if len(shape) != x.ndim or any(
            m < n for m, n in zip(shape, x.shape, strict=True)
        ):
            raise ValueError(
                f"`like` must have at least the shape {x.shape} of '{name}' in {path}, "
                f"got {tuple(shape)}. Is it another model?"
            )
    return treedef.unflatten([arrays.get(name, x) for name, x in old.items()])


def _safetensors(module: str) -> Any:
    """Import the optional package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "`save` and `load` need the package safetensors, which is not installed. "
            "Install it: pip install safetensors."
        ) from error
