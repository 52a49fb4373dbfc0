"""RegularizerMap: which regularizer acts on which leaf of a pytree."""

import dataclasses
import fnmatch
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, Scalar, spec_of
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.specs._names import is_placeholder, leaf_names

Spec: TypeAlias = Any
"""A RegularizerMap, one Regularizer for every leaf, or a pytree prefix of the params
with a Regularizer or None (leave alone) at its leaves."""


class Rule(NamedTuple):
    """One rule: leaves whose name matches ``pattern`` get ``regularizer``."""

    pattern: str
    regularizer: Regularizer | None
    multiplier: float = 1.0


class Bound(NamedTuple):
    """What a map resolves to on one leaf; ``regularizer`` is None where none acts."""

    name: str
    regularizer: Regularizer | None
    multiplier: float


@dataclasses.dataclass(frozen=True, init=False)
class RegularizerMap:
    """Ordered rules that say which regularizer acts where in a pytree.

    A rule is ``(pattern, regularizer)`` or ``(pattern, regularizer, multiplier)``. The
    pattern is a shell glob over canonical leaf names such as ``block/conv/kernel``, in
    which ``*`` also crosses ``/``; ``*/kernel`` matches a top-level ``kernel``, too.
    The first match wins, the multiplier scales the strength on the leaf, a regularizer
    ``None`` exempts the leaf, and leaves that no rule matches are not regularized.

    Maps are frozen and hashable. They are matched anew whenever they are used, at
    trace time, and never stored in an optimizer state.

    Args:
      rules: The rules, in order.

    Raises:
      TypeError: a rule is not of that form.
      ValueError: no rule, or a multiplier is negative or NaN.

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
          Pytree like ``params`` with boolean arrays, and None where none acts.

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
        return report(self, params)

    def bind(self, params: Params) -> list[Bound]:
        """Match the rules against a tree.

        Args:
          params: Pytree of arrays, tracers or `jax.ShapeDtypeStruct`.

        Returns:
          One entry per leaf, in flattening order.

        Raises:
          TypeError: a regularized leaf is not real floating.
          ValueError: the tree is empty, a rule matches nothing or is hidden behind
            earlier ones, or a regularizer does not fit the shape of its leaf.
        """
        names = leaf_names(params)
        leaves = jax.tree.leaves(params)
        if not leaves:
            _check_not_empty(params)
            return []
        bounds, used = [], set()
        for name in names:
            index = next((i for i, r in enumerate(self.rules) if _matches(r, name)), -1)
            rule = self.rules[index] if index >= 0 else Rule("", None)
            used.add(index)
            bounds.append(Bound(name, rule.regularizer, rule.multiplier))
        for index, rule in enumerate(self.rules):
            if index not in used:
                raise ValueError(_unused_message(rule, names))
        _check_fit(bounds, leaves)
        return bounds


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
        Bound(name, regularizer, 1.0)
        for name, regularizer in zip(leaf_names(params), regularizers, strict=True)
    ]
    _check_fit(bounds, leaves)
    return bounds


def value(spec: Spec, params: Params) -> jax.Array:
    """Return the sum of ``multiplier * psi(leaf)``; see `RegularizerMap.value`."""
    terms = [
        bound.multiplier * bound.regularizer.value(leaf)
        for bound, leaf in zip(bind(spec, params), jax.tree.leaves(params), strict=True)
        if bound.regularizer is not None
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
    return _map(spec, params, lambda b, x: b.regularizer.support(x), otherwise=None)


def report(spec: Spec, params: Params) -> str:
    """Return a table of what a spec finds in a tree; see `RegularizerMap.report`."""
    header = ("leaf", "shape", "regularizer", "units", "unit size", "zero units")
    rows, units, zeros = [], 0, 0
    for bound, leaf in zip(bind(spec, params), jax.tree.leaves(params), strict=True):
        shape = spec_of(leaf)[0]
        if bound.regularizer is None:
            rows.append((bound.name, str(shape), "-", "-", "-", "-"))
            continue
        alive = np.asarray(bound.regularizer.support(leaf))
        sizes = np.unique(bound.regularizer.unit_sizes(shape))
        factor = "" if bound.multiplier == 1 else f"{bound.multiplier:g} x "
        size = "-".join(str(n) for n in sizes[[0, -1]] if sizes.size > 1) or str(
            sizes[0]
        )
        zero = int((~alive).sum())
        units, zeros = units + alive.size, zeros + zero
        share = f"{zero} ({zero / max(alive.size, 1):.1%})"
        rows.append(
            (
                bound.name,
                str(shape),
                f"{factor}{bound.regularizer}",
                str(alive.size),
                size,
                share,
            )
        )
    rows.append(
        ("total", "", "", str(units), "", f"{zeros} ({zeros / max(units, 1):.1%})")
    )
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, rule, *rows[:-1], rule, rows[-1])
    )


def _map(spec: Spec, params: Params, fn: Any, **otherwise: Any) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    out = [
        otherwise.get("otherwise", leaf)
        if bound.regularizer is None
        else fn(bound, leaf)
        for bound, leaf in zip(bind(spec, params), leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, out)


def _matches(rule: Rule, name: str) -> bool:
    # A leading "*/" also matches names without a parent, and "/" is no boundary to *.
    return fnmatch.fnmatchcase(name, rule.pattern) or fnmatch.fnmatchcase(
        f"/{name}", rule.pattern
    )


def _check_rule(rule: Any) -> Rule:
    try:
        rule = Rule(*rule)
        ok = isinstance(rule.pattern, str)
        ok &= rule.regularizer is None or isinstance(rule.regularizer, Regularizer)
    except TypeError:
        ok = False
    if not ok:
        raise TypeError(
            "a rule must be (pattern, regularizer) or (pattern, regularizer, "
            f"multiplier), got {rule!r}."
        )
    check_parameter(f"multiplier of rule '{rule.pattern}'", rule.multiplier, at_least=0)
    return rule


def _check_fit(bounds: list[Bound], leaves: list) -> None:
    for bound, leaf in zip(bounds, leaves, strict=True):
        if bound.regularizer is None:
            continue
        shape, dtype = spec_of(leaf)
        try:
            bound.regularizer.check(shape, dtype)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{bound.regularizer} does not fit parameter '{bound.name}' of shape "
                f"{shape}: {error}"
            ) from error


def _check_not_empty(params: Params) -> None:
    if not is_placeholder(params):
        raise ValueError(
            f"the tree of params is empty, got {params!r}. Pass the parameters that "
            "the regularizer is to act on."
        )


def _unused_message(rule: Rule, names: list[str]) -> str:
    matched = [name for name in names if _matches(rule, name)]
    if matched:
        return (
            f"rule '{rule.pattern}' never acts: earlier rules take all it matches "
            f"({', '.join(matched)}). Put it first or remove it."
        )
    return (
        f"rule '{rule.pattern}' matches no parameter. The names are: "
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
