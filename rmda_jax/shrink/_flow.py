"""How axes flow through a jaxpr.

Every value has axes of spaces (see `_spaces`). A primitive that has a rule (see
`_primitives` and `_control`) unifies the spaces of its operands and says which of them
its results have; any other freezes all that it touches, under its own name.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jax.extend import core

from rmda_jax.shrink._spaces import Axis, Space, freeze, fresh


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of an array: its axes, and the leaf that it is (a view of)."""

    axes: tuple[Axis, ...]
    leaf: str | None = None


Path: TypeAlias = tuple[int, ...]
"""Identities of an equation and of those that call it: jaxprs are shared by calls."""


class Seen(NamedTuple):
    """An equation, and the axes of what it takes and gives."""

    eqn: Any
    operands: tuple[Value, ...]
    results: tuple[Value, ...]


@dataclasses.dataclass
class Flow:
    """Follows the axes through a jaxpr, and records what leaves do to spaces."""

    roles: list[tuple[str, Space, str]] = dataclasses.field(default_factory=list)
    seen: dict[Path, Seen] = dataclasses.field(default_factory=dict)
    path: Path = ()

    def record(self, value: Value, axes: Sequence[int], role: str) -> None:
        """Record what a leaf does to the spaces along some axes."""
        if value.leaf is not None:
            self.roles += [
                (value.leaf, space, role)
                for i in axes
                for space, _ in value.axes[i]
                if space is not None
            ]

    def run(
        self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]
    ) -> list[Value]:
        """Return the values that a jaxpr puts out."""
        values: dict[Any, Value] = {}
        values.update(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                return constant(atom.val)
            return values[atom]

        for eqn in jaxpr.eqns:
            rule = RULES.get(eqn.primitive.name, unknown)
            caller, self.path = self.path, (*self.path, id(eqn))
            operands = tuple(map(read, eqn.invars))
            results = tuple(rule(self, eqn, *operands))
            self.seen[self.path] = Seen(eqn, operands, results)
            self.path = caller
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def closed(self, closed: Any, args: Sequence[Value]) -> list[Value]:
        """Return the values that a closed jaxpr puts out."""
        return self.run(closed.jaxpr, [constant(c) for c in closed.consts], args)


CONSTANT = "a constant array: pass it in params"

Rule = Callable[..., Sequence[Value]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some primitives."""

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return register


def constant(x: Any) -> Value:
    """Return the value of an array that the function brings along.

    Its length is not that of any param: it stays what it is, also if the params become
    smaller. What the function makes of a number, as `jax.numpy.zeros` does, is none.
    """
    return Value(tuple(fresh(n, CONSTANT) for n in np.shape(x)))


def unknown(flow: Flow, eqn: Any, *operands: Value) -> list[Value]:
    """Freeze everything: a primitive that is not understood."""
    del flow
    name = eqn.primitive.name
    for operand in operands:
        for axis in operand.axes:
            freeze(axis, name)
    return [
        Value(tuple(fresh(n, name) for n in getattr(out.aval, "shape", ())))
        for out in eqn.outvars
    ]
