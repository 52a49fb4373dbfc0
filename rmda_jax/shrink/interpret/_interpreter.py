"""The loop that both interpreters of a jaxpr share, and the rules of the primitives.

As in `JAX's own interpreters
<https://docs.jax.dev/en/latest/notebooks/Writing_custom_interpreters_in_Jax.html>`_,
every variable of a jaxpr gets a value of another kind than its array: of
`AxisInterpreter` what its axes are, of `ValueInterpreter` what is known of its entries,
of `SmallInterpreter` what is left of it without the units that are removed. The files
`elementwise`, `shapes`, `reshapes`, `contractions`, `reductions`, `indexing`, `updates`
and `control_flow` have the rules of each primitive side by side.
"""

import abc
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import jax
from jax.extend import core

Value = TypeVar("Value")

Path: TypeAlias = tuple[int, ...]
"""The ids of an equation and of those that call it: calls may share a jaxpr."""

Rule: TypeAlias = Callable[..., Sequence[Any]]
"""From an interpreter, an equation and the values of its operands to its results'."""


class Rules(NamedTuple):
    """The rules of one primitive."""

    axes: Rule
    values: Rule
    views: bool  # the results are the operands with their entries elsewhere
    small: Rule | None  # None: run as it was, on small operands


RULES: dict[str, Rules] = {}
"""By the name of the primitive."""


def register(
    names: str,
    *,
    axes: Rule,
    values: Rule,
    views: bool = False,
    small: Rule | None = None,
) -> None:
    """Register the rules of some primitives.

    Args:
      names: Of the primitives, separated by spaces. They are names, not objects of JAX,
        so that one table serves all versions: a primitive that the installed version
        does not have is never met.
      axes: The rule of `AxisInterpreter`.
      values: The rule of `ValueInterpreter`; `all_or_nothing` if there is no better.
      views: Whether the results are the operands with their entries elsewhere, or
        copies of them. Then they are still the leaf or the contraction that they come
        from (see `Provenance`).
      small: The rule of `SmallInterpreter`; None if the primitive has no shapes in its
        parameters, and can be run on smaller operands as it was.
    """
    for name in names.split():
        assert name not in RULES, f"{name} has rules already"
        RULES[name] = Rules(axes, values, views, small)


class Interpreter(abc.ABC, Generic[Value]):
    """Evaluates a jaxpr with values of another kind in place of its arrays."""

    def __init__(self) -> None:
        self.path: Path = ()  # of the equation that is being evaluated
        self.read: Callable[[Any], Value] = (
            _nothing  # the value of one of its variables
        )

    @abc.abstractmethod
    def constant(self, x: Any) -> Value:
        """Return the value of a literal, or of an array that a jaxpr closes over."""

    @abc.abstractmethod
    def eval_eqn(self, eqn: Any, *operands: Value) -> Sequence[Value]:
        """Return the values of the results of one equation, by the primitive's rule."""

    @abc.abstractmethod
    def eval_unsupported(self, eqn: Any, *operands: Value) -> Sequence[Value]:
        """Return the values of the results where no rule applies."""

    def eval_jaxpr(
        self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]
    ) -> list[Value]:
        """Return the values of the outputs of a jaxpr."""
        env: dict[Any, Value] = {}

        def read(atom: Any) -> Value:
            is_literal = isinstance(atom, core.Literal)
            return self.constant(atom.val) if is_literal else env[atom]

        outer, self.read = self.read, read

        def write(variables: Sequence[Any], values: Sequence[Value]) -> None:
            env.update(zip(variables, values, strict=True))

        # As `jax.core.eval_jaxpr`, with the rule of the primitive in place of `bind`.
        write(jaxpr.constvars, consts)
        write(jaxpr.invars, args)
        for eqn in _live(jaxpr):
            caller, self.path = self.path, (*self.path, id(eqn))
            results = self.eval_eqn(eqn, *map(read, eqn.invars))
            self.path = caller
            write(eqn.outvars, results)
        self.read = outer
        return list(map(read, jaxpr.outvars))

    def eval_closed_jaxpr(self, closed: Any, args: Sequence[Value]) -> list[Value]:
        """Return the values of the outputs of a jaxpr that brings its constants."""
        consts = [self.constant(x) for x in closed.consts]
        return self.eval_jaxpr(closed.jaxpr, consts, args)


def _nothing(atom: Any) -> Any:
    """Stand for the variables of no jaxpr."""
    raise LookupError(f"no jaxpr with {atom} is evaluated.")


def _live(jaxpr: Any) -> list[Any]:
    """Return the equations whose results are used, or that do something beside them."""
    used, found = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(var) in used for var in eqn.outvars):
            found.append(eqn)
            used |= set(map(id, eqn.invars))
    return found[::-1]


_SHRINK = FilePath(__file__).parent.parent
_LIBRARIES = tuple(f"{folder}/" for folder in (FilePath(jax.__file__).parent, _SHRINK))


def line_of(eqn: Any) -> str:
    """Return file and line of the first frame outside of JAX, innermost first."""
    traceback = getattr(getattr(eqn, "source_info", None), "traceback", None)
    for frame in traceback.frames if traceback is not None else ():
        if not frame.file_name.startswith(_LIBRARIES):
            return f"{FilePath(frame.file_name).name}:{frame.line_num}"
    return ""
