"""Slice trees of arrays that are like the params."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, KeyPath, SequenceKey, tree_flatten_with_path

from rmda_jax._types import Params
from rmda_jax.shrink._plan import Plan
from rmda_jax.shrink._retrace import Conflict
from rmda_jax.specs._names import leaf_names

# In the states of Optax and of this package: iterates, where the rest are gradients.
_ITERATES = frozenset(
    "anchor x0 params0 init_params init_particles z cache fast slow".split()
)


def apply(
    plan: Plan, tree: Params, *, folds: bool | None = None, rebuilt: bool = False
) -> Params:
    """Slice the params, or any tree that holds arrays like them.

    Batch statistics, averages of the params, optimizer states with all that they hold
    (moments, RMDA's gradient sum and anchor, RigL's masks) are sliced alike: a leaf is
    matched with the param whose name its own ends in, the longest if there are several.
    So training continues: what is kept takes the steps that it would have taken.

    What plan folds into biases is added to them first, where it belongs: to params (all
    that has their names, alone or below ``params``), and not to the gradients and
    moments in states of Optax and of this package. Those states may hold iterates, as
    RMDA its ``anchor``, which take it: RMDA steps from there, and lands where it would
    have, shifted by the fold, wherever no regularizer acts on the bias. Of anything
    else, as averages of the params or states from a file, say which it is by ``folds``.
    The constants are those of the params that were planned: they fit an average of them
    as well as its zeros do.

    Args:
      plan: What `plan` returned.
      tree: Any pytree; abstract leaves (`jax.ShapeDtypeStruct`) become smaller, too.
        Leaves without a match, scalars and what is no array stay as they are.
      folds: True if what is like the params takes the folds, and False if not; None
        if the tree tells. What is known to be of gradients never takes them, and an
        ``anchor`` always does.
      rebuilt: Whether the function is built anew for the small params, with the sizes
        that ``plan.conflicts`` names, rather than run as it is.

    Returns:
      The tree with smaller arrays.

    Raises:
      ValueError: the function keeps a size of its own, so that it would run on the
        small params with wrong values (not if ``rebuilt``, nor for optimizer states).
      ValueError: a leaf that the plan cuts has neither its old shape nor none; two
        leaves have the same name; or, without ``folds``, a fold might belong to a leaf
        or not.

    Examples:
      >>> from rmda_jax import shrink
      >>> mlp = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((4, 3)), "out": jnp.array([[1.0], [0.0], [2.0]])}
      >>> plan = shrink.plan(mlp, params, jnp.ones((2, 4)))
      >>> small = shrink.apply(plan, params)
      >>> small["out"].ravel().tolist()
      [1.0, 2.0]
      >>> state = optax.adam(1e-3).init(params)
      >>> shrink.apply(plan, state)[0].mu["in"].shape
      (4, 2)
    """

    def leaf(place: str, path: KeyPath, x: Any, in_state: bool) -> Any:
        if not hasattr(x, "shape"):
            return x
        found = _match(plan, place.split("/"))
        if found is None:
            if in_state and isinstance(path[-1], SequenceKey) and x.shape != ():
                _check_no_part(plan, place, x)
            return x
        prefix, name = found
        fields = {key.name for key in path if isinstance(key, GetAttrKey)}
        takes: bool | None
        if "anchor" in prefix or (in_state and _ITERATES & fields & set(prefix)):
            takes = True
        elif in_state:
            takes = False
        else:
            takes = folds
        if takes is None:
            takes = set(prefix) <= {"params"}
            if not takes and _has_fold(plan, name, x):
                raise ValueError(_AMBIGUOUS.format(place, name))
        return sliced(plan, name, x, folds=takes, place=place)

    places = leaf_names(tree)
    leaves, treedef = tree_flatten_with_path(tree)
    in_state = [
        _is_state(node)
        for node in jax.tree.leaves(tree, is_leaf=_is_state)
        for _ in jax.tree.leaves(node)
    ]
    are_params = folds is not False and not all(in_state)
    if plan.conflicts and are_params and not rebuilt:
        raise ValueError(
            f"{unfollowed(plan.conflicts)} Take that size from the params or the "
            "inputs; or build the function anew with it and `plan.widths`, and pass "
            "`rebuilt=True`."
        )
    rows = zip(places, leaves, in_state, strict=True)
    return treedef.unflatten(
        [leaf(place, path, x, state) for place, (path, x), state in rows]
    )


def unfollowed(conflicts: Sequence[Conflict]) -> str:
    """Return what is wrong, and how to keep the units that make it so."""
    units = sorted({place for conflict in conflicts for place in conflict.units})
    kept = ", ".join(f"*couplings.find{place}" for place in units)
    return (
        "the function keeps a size of its own, and would run on the sliced params with "
        f"wrong values: {'; '.join(dict.fromkeys(map(str, conflicts)))}. `program` "
        "follows: plan with `for_program=True`, and run the sliced params by it. To "
        f"keep these units, plan with `couplings=couplings.keep({kept})`, where "
        "`couplings` is what `trace` returns."
    )


_AMBIGUOUS = (
    "`folds` must say what '{0}' is: a copy of parameter '{1}', to which the plan adds "
    "constants, takes them, and a moment of its gradients must not. Slice the trees "
    "one by one: `apply(plan, params)`, `apply(plan, average_of_params, folds=True)`, "
    "`apply(plan, opt_state, folds=False)`."
)


def sliced(
    plan: Plan, name: str, x: Any, *, folds: bool, place: str | None = None
) -> Any:
    """Return one array as the plan has it, with the fold of the leaf of that name.

    ``place`` is its own name in the tree that it is from.
    """
    old, new = plan.shapes[name], plan.widths[name]
    fold = plan.folds.get(name) if folds and _has_fold(plan, name, x) else None
    if x.shape == () or (old == new and fold is None):
        return x
    check_shape(plan, name, x, place)
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(new, x.dtype)
    if fold is not None:
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


def check_shape(plan: Plan, name: str, x: Any, place: str | None = None) -> None:
    """Raise if an array has not the shape that the param had when it was planned."""
    old, shape = plan.shapes[name], tuple(x.shape)
    if shape == old:
        return
    if shape == plan.widths[name]:
        remedy = "That is its new shape: has this tree been sliced before?"
    elif place is None or place == name:
        remedy = "Pass the params that were planned, and no others."
    else:
        remedy = (
            f"{_ANEW} If it only shares the parameter's name, take it out of the tree."
        )
    raise ValueError(
        f"'{place or name}' must have the shape {old} of parameter '{name}', got "
        f"{shape}. {remedy}"
    )


_ANEW = (
    "No plan can slice what an optimizer factors, as Adafactor does, or stacks, as the "
    "history of L-BFGS: initialize it anew, `tx.init(apply(plan, params))`."
)


def _check_no_part(plan: Plan, place: str, x: Any) -> None:
    """Raise for one array of several in the place of one, as for each axis of it."""
    found = _match(plan, place.split("/")[:-1])
    if found is None or plan.shapes[found[1]] == plan.widths[found[1]]:
        return
    raise ValueError(
        f"'{place}' of shape {tuple(x.shape)} must be one array like parameter "
        f"'{found[1]}', not one of several. {_ANEW}"
    )


def _is_state(x: Any) -> bool:
    """Whether this is an optimizer state whose fields we know."""
    package = type(x).__module__.partition(".")[0]
    return hasattr(x, "_fields") and package in ("optax", "rmda_jax")


def _has_fold(plan: Plan, name: str, x: Any) -> bool:
    """Whether the plan adds something to a leaf, and the array can take it."""
    return (
        name in plan.folds
        and x.shape != ()
        and not isinstance(x, jax.ShapeDtypeStruct)
        and jnp.issubdtype(x.dtype, jnp.number)
    )


def _match(plan: Plan, segments: list[str]) -> tuple[list[str], str] | None:
    """Return what stands before the longest name of a param, and that name."""
    for start in range(len(segments) + 1):
        name = "/".join(segments[start:])
        if name in plan.shapes:
            return segments[:start], name
    return None
