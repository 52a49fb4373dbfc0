"""Small params in a file, which a new process reads without the big model."""

import importlib
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, Shape
from rmda_jax.shrink._plan import Plan
from rmda_jax.specs._names import leaf_names


def save(
    path: str | os.PathLike[str], params: Params, plan: Plan | None = None
) -> None:
    """Save params with their widths as safetensors.

    Args:
      path: The file, conventionally ``*.safetensors``.
      params: Pytree of arrays, after `apply`; stored by name, ``conv/kernel``.
      plan: What `plan` returned: its old shapes are kept in the file's metadata, and
        the params are checked to have its widths.

    Raises:
      ImportError: the optional package ``safetensors`` is missing.
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
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"leaves must have different names, got two or more of {', '.join(twice)}."
        )
    arrays = dict(zip(names, map(np.asarray, jax.tree.leaves(params)), strict=True))
    metadata = {"widths": json.dumps({name: x.shape for name, x in arrays.items()})}
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
    stored = {name or "/": np.asarray(x, order="C") for name, x in arrays.items()}
    _safetensors("safetensors.numpy").save_file(stored, os.fspath(path), metadata)


def load(path: str | os.PathLike[str]) -> tuple[Params, dict[str, Shape]]:
    """Load what `save` wrote.

    Args:
      path: The file.

    Returns:
      The params, as nested dictionaries by the segments of their names (a bare array as
      such), and the widths by whole names, for the constructors of modules:
      ``params["conv"]["kernel"]``, ``widths["conv/kernel"][-1]``.

    Raises:
      ImportError: the optional package ``safetensors`` is missing.
      ValueError: the file was not written by `save`.

    Examples:
      See `save`.
    """
    with _safetensors("safetensors").safe_open(os.fspath(path), "numpy") as file:
        metadata = file.metadata() or {}
        arrays = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}
    if "widths" not in metadata:
        raise ValueError(
            f"the file must hold widths, got only {sorted(metadata)} in {path}. "
            "Write it with `rmda_jax.shrink.save`."
        )
    widths = {
        name: tuple(shape) for name, shape in json.loads(metadata["widths"]).items()
    }
    if set(arrays) == {"/"}:
        return arrays["/"], widths
    params: dict[str, Any] = {}
    for name, x in arrays.items():
        *parents, last = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = x
    return params, widths


def _safetensors(module: str) -> Any:
    """Import the optional package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "`save` and `load` need the package safetensors, which is not installed. "
            "Install it: pip install safetensors."
        ) from error
