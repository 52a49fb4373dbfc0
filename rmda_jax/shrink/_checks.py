"""What is no pure function of params: errors that say how it becomes one."""

import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rmda_jax._types import Shape
from rmda_jax.shrink._objects import arrays_of
from rmda_jax.specs._names import canonical_name

_RECIPES = {
    "NNX": (
        "graph, params = nnx.split(model); fn = lambda p, x: nnx.merge(graph, p)(x)"
    ),
    "Equinox": (
        "params, static = eqx.partition(model, eqx.is_inexact_array); "
        "fn = lambda p, x: eqx.combine(p, static)(x)"
    ),
    "linen": "params = model.init(key, x); fn = model.apply",
    "Haiku": (
        "model = hk.without_apply_rng(hk.transform(forward)); "
        "params = model.init(key, x); fn = model.apply"
    ),
}

_PACKAGES = {
    "flax.nnx": "NNX",
    "flax.linen": "linen",
    "equinox": "Equinox",
    "haiku": "Haiku",
}


def check_call(
    fn: Any, params: Any, inputs: Sequence[Any], *, names: str = "fn params"
) -> None:
    """Raise if this is no function of params, or if they are no arrays.

    Args:
      fn: What is to be called as ``fn(params, *inputs)``.
      params: Its params.
      inputs: Its inputs.
      names: Those of the first two arguments, for the message.

    Raises:
      TypeError: ``fn`` cannot be called, or it is a module, whose arrays would be
        constants; a leaf of ``params`` is no array, abstract array or number.
      ValueError: ``params`` have no leaves.
    """
    of_fn, of_params = names.split()
    _check_function(fn, of_fn, alone=not inputs and hasattr(params, "shape"))
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    if not leaves:
        raise ValueError(
            f"`{of_params}` must hold arrays, got {type(params).__name__} without any. "
            f"{_recipe(params)}"
        )
    for path, x in leaves:
        is_number = isinstance(x, np.generic | int | float | complex)
        if not is_number and not hasattr(x, "shape"):
            raise TypeError(
                f"`{of_params}` must be a pytree of arrays, got {type(x).__name__} as "
                f"'{canonical_name(path)}'. {_recipe(params)}"
            )


def check_values(params: Any) -> None:
    """Raise if params are abstract arrays, or none at all.

    Raises:
      TypeError: a leaf has no values.
    """
    for leaf in jax.tree.leaves(params):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
            raise TypeError(
                f"`params` must hold arrays with values, got {type(leaf).__name__}. "
                "Zeros are looked for; the couplings of shapes alone are `trace`'s."
            )


def _check_function(fn: Any, name: str, alone: bool) -> None:
    """Raise for a module, given ``alone`` with one array or with others."""
    if not callable(fn):
        raise TypeError(
            f"`{name}` must be a function of the params and the inputs, got "
            f"{type(fn).__name__}, which cannot be called. {_recipe(fn)}"
        )
    if hasattr(fn, "lower"):  # of `jax.jit`
        fn = getattr(fn, "__wrapped__", fn)
    of = fn.__self__ if isinstance(fn, types.MethodType) else fn
    if isinstance(of, types.FunctionType | types.BuiltinFunctionType | type):
        return
    framework = _framework(of)
    if framework == "linen":
        is_module = fn is of  # which is not called but by its `apply`
    elif framework is None and not alone:
        is_module = False  # an object of one's own may hold constants
    else:
        is_module = type(of).__name__ != "Partial" and bool(arrays_of(of))
    if is_module:
        raise TypeError(
            f"`{name}` must be a function of the params and the inputs, got the model "
            f"{type(of).__name__}, which has its params inside. {_recipe(of)}"
        )


def _recipe(x: Any) -> str:
    framework = _framework(x)
    if framework is not None:
        return f"With {framework}: {_RECIPES[framework]}."
    every = "; ".join(f"with {name}, {how}" for name, how in _RECIPES.items())
    return f"For example: {every}."


def _framework(x: Any) -> str | None:
    """Return the framework that the class of an object is from."""
    for base in type(x).__mro__:
        for package, framework in _PACKAGES.items():
            if f"{base.__module__}.".startswith(f"{package}."):
                return framework
    return None


def check_small(
    widths: Mapping[str, Shape], names: list[str], leaves: Sequence[Any]
) -> None:
    """Raise if params are not the small ones."""
    found = {n: np.shape(x) for n, x in zip(names, leaves, strict=True)}
    if found.keys() != widths.keys():
        raise ValueError(
            f"`small_params` must have the leaves {', '.join(widths)}, got "
            f"{', '.join(found)}."
        )
    for name, shape in found.items():
        if shape != widths[name]:
            raise ValueError(
                f"`small_params` must have the plan's shape {widths[name]} of "
                f"'{name}', got {shape}. Pass `apply(plan, params)`."
            )
