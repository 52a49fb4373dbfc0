"""The trees of an optimizer state: made, matched with the params, and read."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rmda_jax._types import Params, shape_dtype_of, wide_dtype
from rmda_jax.specs._names import is_variable, leaf_names, leaves_in_order_of


class ProxArguments(NamedTuple):
    """A structured iterate, as the arguments of the prox that gives it."""

    center: Params
    step_size: jax.Array  # without the strength
    metric: Params | None = None  # None: the plain prox


@runtime_checkable
class StructuredState(Protocol):
    """An optimizer state from which the structured iterate can be computed.

    It also counts its updates in a field ``count``, has a field ``strength``, and may
    have a method ``mean_gradient`` that returns the averaged gradient.
    """

    def prox_arguments(self) -> ProxArguments:
        """Return the arguments of the last prox."""
        ...


def accumulators(params: Params, dtype: Any = None) -> Params:
    """Return a tree of zeros like the params, in ``dtype`` or at least float32."""
    return jax.tree.map(
        lambda leaf: jnp.zeros_like(
            leaf, dtype=dtype or wide_dtype(shape_dtype_of(leaf)[1])
        ),
        params,
    )


def starting_point(w: Any, dtype: Any = None) -> jax.Array:
    """Return a copy of a leaf of the params, in ``dtype`` or at least float32.

    Of a `jax.ShapeDtypeStruct` there is none, and NaN says so wherever it is used.
    """
    dtype = dtype or wide_dtype(shape_dtype_of(w)[1])
    if isinstance(w, jax.ShapeDtypeStruct):
        return jnp.full_like(w, jnp.nan, dtype=dtype)
    return jnp.array(w, dtype)


def renewed(
    anchor: list[jax.Array], w: list[jax.Array], restart: ArrayLike
) -> list[jax.Array]:
    """Return the anchors of a stage: at a restart the params, else what they were.

    Where there are no restarts nothing is selected, and an accelerator does not write
    the anchor at every step; a copy is one only outside of a compiled step.
    """
    if restart is False:
        return [jnp.copy(w0) for w0 in anchor]
    return [jnp.where(restart, w, w0) for w0, w in zip(anchor, w, strict=True)]


def leaf_lists(params: Params, updates: Any, *trees: Any) -> list[list[jax.Array]]:
    """Return what an update works on as lists with one array per leaf.

    Lists, because the tree of a state may differ from that of the params: NNX and
    checkpoints wrap arrays and sort keys in their own way.

    Args:
      params: The params.
      updates: Their gradients.
      *trees: Accumulators of the state, at least one tree.

    Returns:
      The params and the gradients in the dtype of the first accumulator, then the
      accumulators; all in the order of the params.

    Raises:
      ValueError: as in `state_leaves`.
    """
    lists = [state_leaves(params, tree) for tree in trees]
    wide = [
        [x.astype(like.dtype) for x, like in zip(leaves, lists[0], strict=True)]
        for leaves in (state_leaves(params, params), state_leaves(params, updates))
    ]
    return wide + lists


def as_updates(params: Params, changes: Sequence[jax.Array]) -> Params:
    """Return new minus old params as a tree like the params, in their dtypes."""
    leaves, treedef = jax.tree.flatten(params)
    return treedef.unflatten(
        x.astype(jnp.asarray(w).dtype) for x, w in zip(changes, leaves, strict=True)
    )


_DEMAND = "the optimizer state must have the names of the params"
_REMEDY = "It belongs to other params: call `init` with these, or restore theirs."


def state_leaves(params: Params, tree: Any, *, masked: bool = False) -> list[Any]:
    """Return the arrays of a tree in a state, each where the param of its name stands.

    A restored state may hold them in another order, see `leaves_in_order_of`. Those of
    other params would broadcast, or come to the wrong leaf, and go on.

    Args:
      params: The params.
      tree: Tree of arrays like the params.
      masked: Whether `optax.MaskedNode` may stand for some; the entry is None there.

    Returns:
      One entry per leaf of the params.

    Raises:
      ValueError: the trees differ in a name or in a shape.
    """
    leaves = leaves_by_name(params, tree, masked=masked)
    for i, (w, x) in enumerate(zip(jax.tree.leaves(params), leaves, strict=True)):
        if x is not None and jnp.shape(x) != shape_dtype_of(w)[0]:
            name, shape = leaf_names(params)[i], shape_dtype_of(w)[0]
            raise ValueError(
                f"the optimizer state must have the shape of parameter '{name}', "
                f"{shape}, got {jnp.shape(x)}. {_REMEDY}"
            )
    return [None if x is None else jnp.asarray(x) for x in leaves]


def leaves_by_name(like: Any, tree: Any, *, masked: bool = False) -> list[Any]:
    """Return the leaves of a tree in a state, in the order of the tree they belong to.

    Raises:
      ValueError: a leaf is in only one of the two.
    """
    return leaves_in_order_of(like, tree, _DEMAND, _REMEDY, masked=masked)


def in_containers_of(like: Any, tree: Any) -> Any:
    """Return a state in the containers of one that ``init`` makes, matched by name.

    Raises:
      ValueError: a leaf is in only one of the two.
    """
    return jax.tree.structure(like).unflatten(leaves_by_name(like, tree))


def unwrap(tree: Any) -> Any:
    """Return the tree with arrays in place of NNX variables.

    NNX's optimizer wraps every array of a state in variables of its own kind, so that
    the trees of a state and of the params differ.
    """
    return jax.tree.map(jnp.asarray, tree, is_leaf=is_variable)
