"""RegularizerMap: which regularizer acts on which leaf of a pytree."""

from __future__ import annotations  # so that `help` shows Scalar by its name

import dataclasses
import fnmatch
import glob
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from rmda_jax._types import Params, Scalar, shape_dtype_of
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.specs import _leaf_rules
from rmda_jax.specs._leaf_rules import LeafRule, check_fit, check_not_empty
from rmda_jax.specs._names import leaf_names
from rmda_jax.specs._report import called_out, remarks, table, warn_of_zeros


class Rule(NamedTuple):
    """One rule: leaves whose name matches ``pattern`` get ``regularizer``.

    A regularizer of groups that span leaves has a pattern for each of them.
    """

    pattern: str | tuple[str, ...]
    regularizer: Regularizer | None
    multiplier: float = 1.0

    def __str__(self) -> str:
        factor = "" if self.multiplier == 1 else f", {self.multiplier:g}"
        return f"({self.pattern!r}, {self.regularizer}{factor})"

    @property
    def is_tied(self) -> bool:
        """Whether its regularizer acts on several leaves together."""
        return self.regularizer is not None and self.regularizer.n_leaves is not None

    @property
    def patterns(self) -> tuple[str, ...]:
        """The pattern, or the several ones of a tie."""
        return (self.pattern,) if isinstance(self.pattern, str) else self.pattern


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class RegularizerMap:
    """Ordered rules that say which regularizer acts where in a pytree.

    A rule is ``(pattern, regularizer)`` or ``(pattern, regularizer, multiplier)``. The
    pattern is a shell glob over canonical leaf names such as ``block/conv/kernel``, in
    which ``*`` also crosses ``/``; ``*/kernel`` matches a top-level ``kernel``, too. A
    ``[`` of a name is written ``[[]``. A lone ``*`` takes biases and scales of norms.
    The first match wins, the multiplier scales the strength on the leaf, a regularizer
    ``None`` exempts the leaf, and leaves that no rule matches are not regularized.
    Groups that span leaves take a tuple of patterns, each for one leaf, and a
    regularizer such as `tied_group_lasso` or one made by `on_tied_groups`.

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

    def __repr__(self) -> str:
        return f"RegularizerMap([{', '.join(map(str, self.rules))}])"

    def value(self, params: Params) -> jax.Array:
        r"""Return the sum of ``multiplier * psi(leaf)`` over the regularized leaves.

        Args:
          params: Pytree of floating arrays.

        Returns:
          Scalar; the strength is yours to multiply.

        Raises:
          TypeError, ValueError: as in `resolve`.
        """
        return _leaf_rules.total_value(self.resolve(params), params)

    def prox(self, params: Params, step_size: Scalar) -> Params:
        """Apply every leaf's prox with ``multiplier * step_size``.

        Args:
          params: Pytree of floating arrays.
          step_size: Learning rate times strength, nonnegative.

        Returns:
          Pytree like ``params``; unregularized leaves are returned as they are.

        Raises:
          TypeError, ValueError: as in `resolve`.
        """
        return _leaf_rules.prox(self.resolve(params), params, step_size)

    def support(self, params: Params) -> Any:
        """Return every regularized leaf's active units, as `Regularizer.support`.

        Args:
          params: Pytree of floating arrays.

        Returns:
          Pytree like ``params`` with boolean arrays, and None where none acts. The
          groups of a tie are flagged at its first leaf, with None at the others.

        Raises:
          TypeError, ValueError: as in `resolve`.
        """
        return _leaf_rules.support(self.resolve(params), params)

    def snap(self, params: Params) -> Params:
        """Restore what rounding blurred, as `Regularizer.snap` on every leaf.

        Args:
          params: Pytree of floating arrays, structured up to rounding.

        Returns:
          Pytree like ``params``.

        Raises:
          TypeError, ValueError: as in `resolve`.
        """
        return _leaf_rules.snap(self.resolve(params), params)

    def report(self, params: Params) -> str:
        """Return a table: leaf, shape, regularizer, units, their size, zero units.

        Args:
          params: Pytree of concrete floating arrays.

        Returns:
          The table as text, one line per leaf and a line of totals; and a remark on
          every rule that takes biases or scales of norms together with kernels.

        Warns:
          UserWarning: all units of a leaf are zero: nothing passes through it. The
            report says so, too.

        Raises:
          TypeError, ValueError: as in `resolve`.
        """
        rules = self.resolve(params)
        lines, all_zero = table(rules, params)
        warn_of_zeros(all_zero, stacklevel=2)
        notes = *called_out(all_zero), *self._remarks(rules, params)
        return "\n".join((lines, *notes))

    def resolve(self, params: Params) -> list[LeafRule]:
        """Match the rules against a tree.

        Args:
          params: Pytree of arrays, tracers or `jax.ShapeDtypeStruct`.

        Returns:
          One rule per leaf, in flattening order. A regularizer that acts on several
          leaves together stands at each of them.

        Raises:
          TypeError: a regularized leaf is not real floating.
          ValueError: the tree is empty, two leaves have the same name, a rule matches
            nothing or is hidden behind earlier ones, a pattern of a tie matches several
            leaves, or a regularizer does not fit the shape of its leaf.
        """
        names = leaf_names(params)
        leaves = jax.tree.leaves(params)
        if not leaves:
            check_not_empty(params)
            return []
        resolved = [LeafRule(name, None, 1.0, (i,)) for i, name in enumerate(names)]
        owners = [self._owner(name) for name in names]
        for index, rule in enumerate(self.rules):
            taken = [
                [i for i, owner in enumerate(owners) if owner == (index, place)]
                for place in range(len(rule.patterns))
            ]
            for pattern, places in zip(rule.patterns, taken, strict=True):
                if not places:
                    raise ValueError(_unused_message(pattern, names))
                if rule.is_tied and len(places) > 1:
                    raise ValueError(
                        f"pattern '{pattern}' of a tie must match one parameter, got "
                        f"{', '.join(names[i] for i in places)}. Give each a pattern "
                        "of its own."
                    )
            tied = tuple(i for places in taken for i in places)
            for i in tied:
                together = tied if rule.is_tied else (i,)
                resolved[i] = LeafRule(names[i], *rule[1:], together)
        check_fit(resolved, leaves)
        return resolved

    def _remarks(self, rules: list[LeafRule], params: Params) -> list[str]:
        taken: dict[str, dict[str, int]] = {}
        for rule, leaf in zip(rules, jax.tree.leaves(params), strict=True):
            if rule.regularizer is not None and not rule.is_tied:
                index, place = self._owner(rule.name) or (0, 0)
                pattern = self.rules[index].patterns[place]
                taken.setdefault(pattern, {})[rule.name] = len(shape_dtype_of(leaf)[0])
        return [line for p, ranks in taken.items() for line in remarks(p, ranks)]

    def _owner(self, name: str) -> tuple[int, int] | None:
        """Return which pattern of which rule takes a leaf: the first that matches."""
        patterns = (
            (index, place, pattern)
            for index, rule in enumerate(self.rules)
            for place, pattern in enumerate(rule.patterns)
        )
        return next(((i, j) for i, j, p in patterns if _matches(p, name)), None)


def _matches(pattern: str, name: str) -> bool:
    # A leading "*/" also matches names without a parent, and "/" is no boundary to *.
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(
        f"/{name}", pattern
    )


def _check_rule(rule: Any) -> Rule:
    try:
        rule = Rule(*rule)
        ok = rule.regularizer is None or isinstance(rule.regularizer, Regularizer)
        ok = ok and isinstance(rule.pattern, tuple if rule.is_tied else str)
        ok = ok and all(isinstance(pattern, str) for pattern in rule.patterns)
    except TypeError:
        ok = False
    if not ok:
        raise TypeError(
            "a rule must be (pattern, regularizer) or (pattern, regularizer, "
            "multiplier), with a tuple of patterns for a tie and one pattern for all "
            f"else, got {rule!r}."
        )
    n_leaves = 1 if rule.regularizer is None else rule.regularizer.n_leaves or 1
    if len(rule.patterns) != n_leaves:
        raise ValueError(
            f"{rule.regularizer} needs as many patterns as it ties leaves, {n_leaves}, "
            f"got {rule.pattern}."
        )
    check_parameter(f"multiplier of rule '{rule.pattern}'", rule.multiplier, at_least=0)
    return rule


def _unused_message(pattern: str, names: list[str]) -> str:
    matched = [name for name in names if _matches(pattern, name)]
    if matched:
        return (
            f"rule '{pattern}' never acts: earlier rules take all it matches "
            f"({', '.join(matched)}). Put it first or remove it."
        )
    special = [name for name in names if glob.escape(name) != name]
    hint = (
        " A [, * or ? that belongs to a name stands in brackets: "
        f"'{glob.escape(special[0])}' matches {special[0]}."
        if special
        else ""
    )
    return (
        f"rule '{pattern}' matches no parameter. The names are: "
        f"{', '.join(names)}. Patterns are shell globs in which * crosses /.{hint}"
    )
