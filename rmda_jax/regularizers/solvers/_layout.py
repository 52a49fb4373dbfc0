"""What an algorithm for groups must know of them."""

import abc
from collections.abc import Callable
from typing import Any, Protocol

import jax

from rmda_jax._types import Arrays


class GroupLayout(Protocol):
    """How one array (`Groups`) or several (`TiedGroups`) are cut into groups.

    What holds one number per group is an array, whose shape is the layout's own
    business. What is as large as the weights is one array or a tuple of arrays.
    """

    @abc.abstractmethod
    def total(self, term: Callable[..., jax.Array], *operands: Arrays) -> jax.Array:
        """Sum an elementwise term of the operands over every group."""

    @abc.abstractmethod
    def each(self, fn: Callable[..., Any], *operands: Any) -> Any:
        """Call a function on the operands, leaf by leaf."""

    @abc.abstractmethod
    def expand(self, per_group: jax.Array, shapes: Any, outside: Any = 0.0) -> Arrays:
        """Make one number per group broadcast against the leaves.

        Positions that belong to no group get ``outside``.
        """

    @abc.abstractmethod
    def any_nonzero(self, x: Arrays) -> jax.Array:
        """Flag the groups that hold an entry other than 0."""

    @abc.abstractmethod
    def magnitudes(self, x: Arrays) -> jax.Array:
        """Return the Euclidean norm of every group."""
