"""Shrink a model that somebody else wrote, and measure what becomes of it."""

import collections
import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rmda_jax as rj

SEED = 0
SHARE = 0.5  # of the units of each set that are given zeros
SHOWN = 100  # characters of an error

Fn = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as a function.

    Attributes:
      fn: Called as ``fn(params, *inputs)``.
      params: Its params and batch statistics.
      inputs: Arrays.
      sliced: From a plan to the small model by the library's own means for its
        framework: a function and its params.
    """

    fn: Fn
    params: Any
    inputs: tuple[Any, ...]
    sliced: Callable[[rj.shrink.Plan, Any], tuple[Fn, Any]]


def of_function(fn: Fn, params: Any, *inputs: Any) -> Model:
    """Return a plain function, also the `apply` of linen or Haiku, as a model."""
    return Model(fn, params, inputs, lambda plan, p: (fn, rj.shrink.apply(plan, p)))


def of_nnx(module: nnx.Module, *inputs: Any, call: Fn | None = None) -> Model:
    """Return an NNX module as a model; ``call(module, *inputs)`` computes it."""
    call = call or (lambda module, *x: module(*x))
    module.eval()

    def functional(module: nnx.Module) -> tuple[Fn, Any]:
        graph, params, rest = nnx.split(module, (nnx.Param, nnx.BatchStat), ...)
        # Copies, for counters of random numbers go up while the module is traced.
        copied = lambda: jax.tree.map(lambda x: x, rest)
        return lambda p, *x: call(nnx.merge(graph, p, copied()), *x), params

    def sliced(plan: rj.shrink.Plan, params: Any) -> tuple[Fn, Any]:
        small = nnx.clone(module)
        nnx.update(small, params)
        rj.shrink.slice_module(plan, small)
        return functional(small)

    fn, params = functional(module)
    return Model(fn, jax.tree.map(jnp.copy, params), inputs, sliced)


def of_equinox(module: Any, *inputs: Any, call: Fn | None = None) -> Model:
    """Return an Equinox module as a model; ``call(module, *inputs)`` computes it."""
    import equinox as eqx

    call = call or (lambda module, *x: module(*x))

    def functional(module: Any) -> tuple[Fn, Any]:
        params, static = eqx.partition(module, eqx.is_inexact_array)
        return lambda p, *x: call(eqx.combine(p, static), *x), params

    def sliced(plan: rj.shrink.Plan, params: Any) -> tuple[Fn, Any]:
        whole = eqx.combine(params, module)
        return functional(rj.shrink.slice_module(plan, whole))

    fn, params = functional(module)
    return Model(fn, params, inputs, sliced)


def zeroed(fn: Fn, params: Any, *inputs: Any) -> tuple[Any, dict[Any, np.ndarray]]:
    """Give zeros to half the units of every set that `program` can make smaller.

    All weights that belong to a unit are zero: what makes it, and what reads it. Sets
    of leaves that the function does not use are left out.

    Returns:
      The params, and by the key of each set which of its units have zeros.
    """
    rng = np.random.default_rng(SEED)
    leaves = dict(
        zip(names_of(params), map(np.array, jax.tree.leaves(params)), strict=True)
    )
    chosen = {}
    for units in rj.shrink.trace(fn, params, *inputs, for_program=True).free:
        if not any(member.roles for member in units.members):
            continue  # no output depends on them, as on averages for training
        some = rng.permutation(units.size)[: math.floor(SHARE * units.size)]
        chosen[_key(units)] = np.isin(np.arange(units.size), some)
        for member in units.members:
            weights = np.moveaxis(leaves[member.leaf], member.axis, 0)
            weights[member.positions[some]] = 0
    treedef = jax.tree.structure(params)
    return treedef.unflatten(map(jnp.asarray, leaves.values())), chosen


def names_of(params: Any) -> list[str]:
    """Return the names of the leaves, as `trace` has them."""
    from rmda_jax.specs._names import leaf_names

    return leaf_names(params)


def _key(units: rj.shrink.UnitGroup) -> Any:
    """Return what tells a set from others."""
    return tuple((m.leaf, m.axis, m.positions.tobytes()) for m in units.members)


def measured(model: Model) -> dict[str, Any]:
    """Give a model zeros, and make it smaller by itself and by `program`."""
    fn, inputs = model.fn, model.inputs
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sets that are zero: they shall be
        params, chosen = zeroed(fn, model.params, *inputs)
        itself = _attempt(lambda: by_itself(model, params))
        program = _attempt(lambda: by_program(model, params, chosen))
    free = sum(map(len, chosen.values()))
    zeros = sum(int(x.sum()) for x in chosen.values())
    return {
        "parameters": sum(np.size(x) for x in jax.tree.leaves(params)),
        "free": free,
        "zeros": zeros,
        "itself": itself,
        "program": program,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _attempt(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return make()
    except Exception as error:  # whatever the model raises is what is to be reported
        text = " ".join(str(error).split())
        return {"error": f"{type(error).__name__}: {text}"[:SHOWN]}


def by_itself(model: Model, params: Any) -> dict[str, Any]:
    """Slice the model by the means for its framework, and compare."""
    plan = rj.shrink.plan(model.fn, params, *model.inputs)
    removed = int(sum(cut.removed.sum() for cut in plan.cuts))
    small_fn, small = model.sliced(plan, params)
    found = _difference(model, params, small, small_fn)
    return {"removed": removed, **found}


def by_program(
    model: Model, params: Any, chosen: dict[Any, np.ndarray]
) -> dict[str, Any]:
    """Run the small params by `program`, and compare."""
    fn, inputs = model.fn, model.inputs
    plan = rj.shrink.plan(fn, params, *inputs, for_program=True)
    small_fn = rj.shrink.program(plan, fn, params, *inputs)
    small = rj.shrink.apply(plan, params)
    found = _difference(model, params, small, small_fn)
    stay: collections.Counter[str] = collections.Counter()
    frozen: collections.Counter[str] = collections.Counter()
    for cut in plan.cuts:
        left = (
            chosen.get(_key(cut.units), np.zeros(cut.units.size, bool)) & ~cut.removed
        )
        if left.any():
            stay["; ".join(cut.reasons)] += int(left.sum())
        elif cut.units.frozen:
            frozen[", ".join(sorted(cut.units.frozen))] += cut.units.size
    return {
        "removed": int(sum(cut.removed.sum() for cut in plan.cuts)),
        "parameters": sum(np.size(x) for x in jax.tree.leaves(small)),
        "whole": sum(x.whole for x in small_fn.report()),
        "equations": len(small_fn.report()),
        "stay": dict(stay),
        "frozen": dict(frozen),
        **found,
    }


def _difference(model: Model, params: Any, small: Any, small_fn: Fn) -> dict[str, Any]:
    found = rj.shrink.verify(model.fn, params, small, *model.inputs, small_fn=small_fn)
    return {"difference": found.max_abs, "scale": found.scale}
