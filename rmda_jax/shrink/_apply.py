"""Slice trees of arrays that are like the params."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params
from rmda_jax.shrink._plan import Plan
from rmda_jax.shrink._retrace import Conflict
from rmda_jax.specs._names import leaf_names


def apply(
    plan: Plan, tree: Params, *, folds: bool = True, rebuilt: bool = False
) -> Params:
    """Slice the params, or any tree that holds arrays like them.

    Batch statistics, averages of the params, optimizer states with all that they hold
    (moments, RMDA's gradient sum and anchor, RigL's masks) are sliced alike: a leaf is
    matched with the param whose name its own ends in, the longest if there are several.
    So training continues: what is kept takes the steps that it would have taken.

    What plan folds into biases is added to them first. It belongs to params and to
    averages of them, not to gradients: for an optimizer state pass ``folds=False``. An
    ``anchor`` takes it even so: RMDA steps from there, and lands where it would have,
    shifted by the fold, wherever no regularizer acts on the bias.

    Args:
      plan: What `plan` returned.
      tree: Any pytree; abstract leaves (`jax.ShapeDtypeStruct`) become smaller, too.
        Leaves without a match, scalars and what is no array stay as they are.
      folds: Whether to add the folds.
      rebuilt: Whether the function is built anew for the small params, with the sizes
        that ``plan.conflicts`` names, rather than run as it is.

    Returns:
      The tree with smaller arrays.

    Raises:
      ValueError: the function keeps a size of its own, so that it would run on the
        small params with wrong values (not if ``rebuilt``, nor if not ``folds``).
      ValueError: a leaf that the plan cuts has neither its old shape nor none, or two
        leaves have the same name.

    Examples:
      >>> from rmda_jax import shrink
      >>> mlp = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((4, 3)), "out": jnp.array([[1.0], [0.0], [2.0]])}
      >>> plan = shrink.plan(mlp, params, jnp.ones((2, 4)))
      >>> small = shrink.apply(plan, params)
      >>> small["out"].ravel().tolist()
      [1.0, 2.0]
      >>> state = optax.adam(1e-3).init(params)
      >>> shrink.apply(plan, state, folds=False)[0].mu["in"].shape
      (4, 2)
    """
    if folds and not rebuilt and plan.conflicts:
        raise ValueError(
            f"{unfollowed(plan.conflicts)} Take that size from the params or the "
            "inputs; or build the function anew with it and `plan.widths`, and pass "
            "`rebuilt=True`."
        )

    def leaf(place: str, x: Any) -> Any:
        found = _match(plan, place.split("/"))
        if found is None or not hasattr(x, "shape"):
            return x
        prefix, name = found
        return sliced(plan, name, x, folds=folds or "anchor" in prefix)

    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten(map(leaf, leaf_names(tree), leaves))


def unfollowed(conflicts: Sequence[Conflict]) -> str:
    """Return what is wrong, and how to keep the units that make it so."""
    units = sorted({place for conflict in conflicts for place in conflict.units})
    kept = ", ".join(f"*couplings.find{place}" for place in units)
    return (
        "the function keeps a size of its own, and would run on the sliced params with "
        f"wrong values: {'; '.join(dict.fromkeys(map(str, conflicts)))}. To keep these "
        f"units, plan with `couplings=couplings.keep({kept})`, where `couplings` is "
        "what `trace` returns."
    )


def sliced(plan: Plan, name: str, x: Any, *, folds: bool) -> Any:
    """Return one array as the plan has it, with the fold of the leaf of that name."""
    old, new = plan.shapes[name], plan.widths[name]
    fold = plan.folds.get(name) if folds else None
    if x.shape == () or (old == new and fold is None):
        return x
    if tuple(x.shape) != old:
        raise ValueError(
            f"an array like parameter '{name}' must have its shape {old}, got "
            f"{tuple(x.shape)}. Has this tree been sliced before? Take out of it "
            "what only shares the parameter's name."
        )
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(new, x.dtype)
    if fold is not None and jnp.issubdtype(x.dtype, jnp.floating):
        x = (x + fold).astype(x.dtype)
    # Whole axes stay untouched, and a leaf of which all stays is not copied.
    for axis, kept in enumerate(plan.kept[name]):
        if len(kept) < old[axis]:
            x = (
                np.take(x, kept, axis)
                if isinstance(x, np.ndarray)
                else jnp.take(x, kept, axis, mode="clip")
            )
    return x


def _match(plan: Plan, segments: list[str]) -> tuple[list[str], str] | None:
    """Return what stands before the longest name of a param, and that name."""
    for start in range(len(segments) + 1):
        name = "/".join(segments[start:])
        if name in plan.shapes:
            return segments[:start], name
    return None
