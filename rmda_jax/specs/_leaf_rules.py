"""Resolved rules: what a spec says of each leaf of a pytree, and how it is applied."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, Scalar, Shape, shape_dtype_of_leaf
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.specs._names import is_placeholder


class LeafRule(NamedTuple):
    """What acts on one leaf; ``regularizer`` is None where nothing does.

    A regularizer of groups that span leaves acts on its ``leaves`` together, so each of
    them has the same rule but for its name.
    """

    name: str
    regularizer: Any  # a Regularizer, or None
    multiplier: float
    leaves: tuple[int, ...]  # where in the flat tree, in the order of its arguments

    @property
    def is_tied(self) -> bool:
        """Whether its regularizer acts on a tuple of leaves."""
        return self.regularizer is not None and self.regularizer.n_leaves is not None

    def take(self, leaves: Sequence[Any]) -> Any:
        """Return what it acts on: one of the leaves, or a tuple of them."""
        several = tuple(leaves[i] for i in self.leaves)
        return several if self.is_tied else several[0]

    def unit_sets(self, shapes: Sequence[Shape]) -> np.ndarray:
        """Return which units belong together, as those of a layer do.

        All units of a leaf are one set; of groups that span leaves, those in the same.

        Args:
          shapes: Of all leaves of the tree.

        Returns:
          Integers that broadcast to the shape of the support: the numbers of the sets.
        """
        if not self.is_tied:
            return np.zeros((), int)
        return self.regularizer.geometry.sets(self.take(shapes))

    def put(self, leaves: list[Any], new: Any) -> None:
        """Put what `take` returns back into the leaves, changed."""
        several = new if self.is_tied else (new,)
        for i, x in zip(self.leaves, several, strict=True):
            leaves[i] = x


def active(rules: Sequence[LeafRule]) -> list[LeafRule]:
    """Return the rules that act, each tie once, in flattening order."""
    return [
        rule
        for i, rule in enumerate(rules)
        if rule.regularizer is not None and i == min(rule.leaves)
    ]


def total_value(rules: Sequence[LeafRule], params: Params) -> jax.Array:
    """Return the sum of ``multiplier * psi`` over what the rules act on."""
    leaves = jax.tree.leaves(params)
    terms = [
        rule.multiplier * rule.regularizer.value(rule.take(leaves))
        for rule in active(rules)
    ]
    zero = jnp.zeros(())
    return sum((jnp.asarray(term, zero.dtype) for term in terms), zero)


def prox(rules: Sequence[LeafRule], params: Params, step_size: Scalar) -> Params:
    """Apply every prox with ``multiplier * step_size``."""
    return _map(rules, params, lambda m, r, x: r.prox(x, step_size * m))


def snap(rules: Sequence[LeafRule], params: Params) -> Params:
    """Restore the structure of all that the rules act on."""
    return _map(rules, params, lambda m, r, x: r.snap(x))


def support(rules: Sequence[LeafRule], params: Params) -> Any:
    """Return a tree of supports, those of a tie at the first of its leaves."""
    leaves, treedef = jax.tree.flatten(params)
    flags: list[Any] = [None] * len(leaves)
    for rule in active(rules):
        flags[min(rule.leaves)] = rule.regularizer.support(rule.take(leaves))
    return jax.tree.unflatten(treedef, flags)


def check_fit(rules: Sequence[LeafRule], leaves: Sequence[Any]) -> None:
    """Raise unless each regularizer fits its leaves, and name those in the message."""
    specs = [
        ((), None) if rule.regularizer is None else shape_dtype_of_leaf(rule.name, leaf)
        for rule, leaf in zip(rules, leaves, strict=True)
    ]
    for rule in active(rules):
        shape = rule.take([shape for shape, _ in specs])
        names = "', '".join(rules[i].name for i in rule.leaves)
        try:
            rule.regularizer.check(shape, rule.take([dtype for _, dtype in specs]))
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{rule.regularizer} does not fit parameter '{names}' of shape "
                f"{shape}: {error}"
            ) from error


def check_not_empty(params: Params) -> None:
    """Raise a ValueError if a leafless tree does not even stand for params."""
    if not is_placeholder(params):
        raise ValueError(
            f"the tree of params is empty, got {params!r}. Pass the parameters that "
            "the regularizer is to act on."
        )


def _map(
    rules: Sequence[LeafRule],
    params: Params,
    fn: Callable[[float, Regularizer, Any], Any],
) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    out = list(leaves)
    for rule in active(rules):
        new = fn(rule.multiplier, rule.regularizer, rule.take(leaves))
        rule.put(out, new)
    return jax.tree.unflatten(treedef, out)
