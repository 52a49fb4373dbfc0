"""RegularizerMap: which regularizer acts on which leaf of a pytree."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from rmda_jax._types import Params, Scalar, spec_of
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.specs._bound import Bound, acting
from rmda_jax.specs._names import is_placeholder, leaf_names
from rmda_jax.specs._report import table
from rmda_jax.specs._ties import Tie

Spec: TypeAlias = Any
"""A RegularizerMap, one Regularizer for every leaf, or a pytree prefix of the params
with a Regularizer or None (leave alone) at its leaves."""


class Rule(NamedTuple):
    """One rule: leaves whose name matches ``pattern`` get ``regularizer``.

    A `Tie` has a pattern for each of its leaves.
    """

    pattern: str | tuple[str, ...]
    regularizer: Regularizer | Tie | None
    multiplier: float = 1.0

    @property
    def patterns(self) -> tuple[str, ...]:
        """The pattern, or the several ones of a tie."""
        return (self.pattern,) if isinstance(self.pattern, str) else self.pattern


@dataclasses.dataclass(frozen=True, init=False)
class RegularizerMap:
    """Ordered rules that say which regularizer acts where in a pytree.

    A rule is ``(pattern, regularizer)`` or ``(pattern, regularizer, multiplier)``. The
    pattern is a shell glob over canonical leaf names such as ``block/conv/kernel``, in
    which ``*`` also crosses ``/``; ``*/kernel`` matches a top-level ``kernel``, too.
    The first match wins, the multiplier scales the strength on the leaf, a regularizer
    ``None`` exempts the leaf, and leaves that no rule matches are not regularized.
    Groups that span leaves take a tuple of patterns, each for one leaf, and a
    `tied_group_lasso`.

    Maps are frozen and hashable. They are matched anew whenever they are used, at
    trace time, and never stored in an optimizer state.

    Args:
      rules: The rules, in order.

    Raises:
      TypeError: a rule is not of that form.
      ValueError: no rule, a multiplier is negative or NaN, or a tie has not as many
        patterns as axes.

    Examples:
      >>> spec = rj.RegularizerMap([("head/*", None), ("*/kernel", rj.group_lasso())])
      >>> params = {"fc": {"kernel": jnp.eye(2), "bias": jnp.ones(2)},
      ...           "head": {"kernel": jnp.ones((2, 3))}}
      >>> spec.prox(params, 0.5)["fc"]["kernel"]
      Array([[0.29289323, 0.        ],
             [0.        , 0.29289323]], dtype=float32)
      >>> spec.support(params)["fc"]
      {'bias': None, 'kernel': Array([ True,  True], dtype=bool)}
    """

    rules: tuple[Rule, ...]

    def __init__(self, rules: Iterable[tuple]):
        checked = tuple(_check_rule(rule) for rule in rules)
        if not checked:
            raise ValueError(
                "`rules` must hold at least one (pattern, regularizer), got none. To "
                "regularize nothing, set the strength to 0."
            )
        object.__setattr__(self, "rules", checked)

    def value(self, params: Params) -> jax.Array:
        r"""Return the sum of ``multiplier * psi(leaf)`` over the regularized leaves.

        Args:
          params: Pytree of floating arrays.

        Returns:
          Scalar; the strength is yours to multiply.

        Raises:
          TypeError, ValueError: as in `bind`.
        """
        return value(self, params)

    def prox(self, params: Params, step_size: Scalar) -> Params:
        """Apply every leaf's prox with ``multiplier * step_size``.

        Args:
          params: Pytree of floating arrays.
          step_size: Learning rate times strength, nonnegative.

        Returns:
          Pytree like ``params``; unregularized leaves are returned as they are.

        Raises:
          TypeError, ValueError: as in `bind`.
        """
        return prox(self, params, step_size)

    def support(self, params: Params) -> Any:
        """Return every regularized leaf's active units, as `Regularizer.support`.

        Args:
          params: Pytree of floating arrays.

        Returns:
          Pytree like ``params`` with boolean arrays, and None where none acts. The
          groups of a tie are flagged at its first leaf, with None at the others.

        Raises:
          TypeError, ValueError: as in `bind`.
        """
        return support(self, params)

    def snap(self, params: Params) -> Params:
        """Restore what rounding blurred, as `Regularizer.snap` on every leaf.

        Args:
          params: Pytree of floating arrays, structured up to rounding.

        Returns:
          Pytree like ``params``.

        Raises:
          TypeError, ValueError: as in `bind`.
        """
        return snap(self, params)

    def report(self, params: Params) -> str:
        """Return a table: leaf, shape, regularizer, units, their size, zero units.

        Args:
          params: Pytree of concrete floating arrays.

        Returns:
          The table as text, one line per leaf and a line of totals.

        Raises:
          TypeError, ValueError: as in `bind`.
        """
        return table(self.bind(params), params)

    def bind(self, params: Params) -> list[Bound]:
        """Match the rules against a tree.

        Args:
          params: Pytree of arrays, tracers or `jax.ShapeDtypeStruct`.

        Returns:
          One entry per leaf, in flattening order; ``acting`` has each tie but once.

        Raises:
          TypeError: a regularized leaf is not real floating.
          ValueError: the tree is empty, two leaves have the same name, a rule matches
            nothing or is hidden behind earlier ones, a pattern of a tie matches several
            leaves, or a regularizer does not fit the shape of its leaf.
        """
        names = leaf_names(params)
        leaves = jax.tree.leaves(params)
        if not leaves:
            _check_not_empty(params)
            return []
        bounds = [Bound(name, None, 1.0, (i,)) for i, name in enumerate(names)]
        owners = [self._owner(name) for name in names]
        for index, rule in enumerate(self.rules):
            taken = [
                [i for i, owner in enumerate(owners) if owner == (index, place)]
                for place in range(len(rule.patterns))
            ]
            for pattern, places in zip(rule.patterns, taken, strict=True):
                if not places:
                    raise ValueError(_unused_message(pattern, names))
                if isinstance(rule.regularizer, Tie) and len(places) > 1:
                    raise ValueError(
                        f"pattern '{pattern}' of a tie must match one parameter, got "
                        f"{', '.join(names[i] for i in places)}. Give each a pattern "
                        "of its own."
                    )
            tied = tuple(i for places in taken for i in places)
            for i in tied:
                together = tied if isinstance(rule.regularizer, Tie) else (i,)
                bounds[i] = Bound(names[i], *rule[1:], together)
        _check_fit(bounds, leaves)
        return bounds

    def _owner(self, name: str) -> tuple[int, int] | None:
        """Return which pattern of which rule takes a leaf: the first that matches."""
        patterns = (
            (index, place, pattern)
            for index, rule in enumerate(self.rules)
            for place, pattern in enumerate(rule.patterns)
        )
        return next(((i, j) for i, j, p in patterns if _matches(p, name)), None)


def bind(spec: Spec, params: Params) -> list[Bound]:
    """Resolve any form of spec against a tree: one `Bound` per leaf.

    Args:
      spec: A RegularizerMap, one Regularizer (then it acts on every leaf), or a pytree
        prefix of ``params`` with a Regularizer or None at its leaves.
      params: Pytree of arrays, tracers or `jax.ShapeDtypeStruct`.

    Returns:
      One entry per leaf, in flattening order.

    Raises:
      TypeError, ValueError: as in `RegularizerMap.bind`; ``spec`` is none of these.
    """
    if isinstance(spec, RegularizerMap):
        return spec.bind(params)
    leaves = jax.tree.leaves(params)
    if not leaves:
        _check_not_empty(params)
        return []
    if isinstance(spec, Regularizer):
        regularizers = [spec] * len(leaves)
    else:
        regularizers = _broadcast_prefix(spec, params)
    bounds = [
        Bound(name, regularizer, 1.0, (i,))
        for i, (name, regularizer) in enumerate(
            zip(leaf_names(params), regularizers, strict=True)
        )
    ]
    _check_fit(bounds, leaves)
    return bounds


def value(spec: Spec, params: Params) -> jax.Array:
    """Return the sum of ``multiplier * psi(leaf)``; see `RegularizerMap.value`."""
    leaves = jax.tree.leaves(params)
    terms = [
        bound.multiplier * bound.regularizer.value(bound.of(leaves))
        for bound in acting(bind(spec, params))
    ]
    return sum(terms, jnp.zeros(()))


def prox(spec: Spec, params: Params, step_size: Scalar) -> Params:
    """Apply every leaf's prox; see `RegularizerMap.prox`."""
    return _map(
        spec, params, lambda b, x: b.regularizer.prox(x, step_size * b.multiplier)
    )


def snap(spec: Spec, params: Params) -> Params:
    """Restore the structure of every leaf; see `RegularizerMap.snap`."""
    return _map(spec, params, lambda b, x: b.regularizer.snap(x))


def support(spec: Spec, params: Params) -> Any:
    """Return the active units of every leaf; see `RegularizerMap.support`."""
    leaves, treedef = jax.tree.flatten(params)
    flags: list[Any] = [None] * len(leaves)
    for bound in acting(bind(spec, params)):
        flags[min(bound.leaves)] = bound.regularizer.support(bound.of(leaves))
    return jax.tree.unflatten(treedef, flags)


def _map(spec: Spec, params: Params, fn: Callable[[Bound, Any], Any]) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    out = list(leaves)
    for bound in acting(bind(spec, params)):
        bound.put(out, fn(bound, bound.of(leaves)))
    return jax.tree.unflatten(treedef, out)


def _matches(pattern: str, name: str) -> bool:
    # A leading "*/" also matches names without a parent, and "/" is no boundary to *.
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(
        f"/{name}", pattern
    )


def _check_rule(rule: Any) -> Rule:
    try:
        rule = Rule(*rule)
        tied = isinstance(rule.regularizer, Tie)
        ok = (
            tied
            or rule.regularizer is None
            or isinstance(rule.regularizer, Regularizer)
        )
        ok &= isinstance(rule.pattern, tuple if tied else str)
        ok &= all(isinstance(pattern, str) for pattern in rule.patterns)
    except TypeError:
        ok = False
    if not ok:
        raise TypeError(
            "a rule must be (pattern, regularizer) or (pattern, regularizer, "
            "multiplier), with a tuple of patterns for a tie and one pattern for all "
            f"else, got {rule!r}."
        )
    if isinstance(rule.regularizer, Tie) and len(rule.patterns) != len(
        rule.regularizer.axes
    ):
        raise ValueError(
            f"a tie along axes {rule.regularizer.axes} needs as many patterns, got "
            f"{rule.pattern}."
        )
    check_parameter(f"multiplier of rule '{rule.pattern}'", rule.multiplier, at_least=0)
    return rule


def _check_fit(bounds: list[Bound], leaves: list) -> None:
    specs = [spec_of(leaf) for leaf in leaves]
    for bound in acting(bounds):
        shape = bound.of([shape for shape, _ in specs])
        names = "', '".join(bounds[i].name for i in bound.leaves)
        try:
            bound.regularizer.check(shape, bound.of([dtype for _, dtype in specs]))
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{bound.regularizer} does not fit parameter '{names}' of shape "
                f"{shape}: {error}"
            ) from error


def _check_not_empty(params: Params) -> None:
    if not is_placeholder(params):
        raise ValueError(
            f"the tree of params is empty, got {params!r}. Pass the parameters that "
            "the regularizer is to act on."
        )


def _unused_message(pattern: str, names: list[str]) -> str:
    matched = [name for name in names if _matches(pattern, name)]
    if matched:
        return (
            f"rule '{pattern}' never acts: earlier rules take all it matches "
            f"({', '.join(matched)}). Put it first or remove it."
        )
    return (
        f"rule '{pattern}' matches no parameter. The names are: "
        f"{', '.join(names)}. Patterns are shell globs in which * crosses /."
    )


def _broadcast_prefix(spec: Spec, params: Params) -> list[Regularizer | None]:
    def is_leaf(node: Any) -> bool:
        return node is None or isinstance(node, Regularizer)

    def spread(regularizer: Any, subtree: Any) -> list:
        if not is_leaf(regularizer):
            raise TypeError(
                "`regularizer` must be a RegularizerMap, a Regularizer, or a pytree "
                f"prefix of the params with these or None at its leaves, got "
                f"{regularizer!r}."
            )
        return [_Box(regularizer)] * len(jax.tree.leaves(subtree))

    try:
        spread_tree = jax.tree.map(spread, spec, params, is_leaf=is_leaf)
    except ValueError as error:
        raise ValueError(
            f"the pytree of regularizers is no prefix of the params, whose names are "
            f"{', '.join(leaf_names(params))}: {error}"
        ) from error
    return [box.content for box in jax.tree.leaves(spread_tree)]


@dataclasses.dataclass(frozen=True)
class _Box:
    """Keeps None a leaf while trees are mapped."""

    content: Regularizer | None
