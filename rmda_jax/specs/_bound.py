"""What a spec resolves to on the leaves of a pytree."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rmda_jax.specs._ties import Tie


class Bound(NamedTuple):
    """What a map resolves to on one leaf; ``regularizer`` is None where none acts.

    If that is a `Tie`, it acts on the ``leaves`` together, and so it stands at each.
    """

    name: str
    regularizer: Any  # Regularizer | Tie | None
    multiplier: float
    leaves: tuple[int, ...]  # where in the tree; several, in its order, for a tie

    def of(self, leaves: Sequence[Any]) -> Any:
        """Return what it acts on: one leaf, or the tuple of a tie."""
        several = tuple(leaves[i] for i in self.leaves)
        return several if isinstance(self.regularizer, Tie) else several[0]

    def put(self, leaves: list[Any], new: Any) -> None:
        """Put what `of` returns back, changed."""
        several = new if isinstance(self.regularizer, Tie) else (new,)
        for i, x in zip(self.leaves, several, strict=True):
            leaves[i] = x


def acting(bounds: Sequence[Bound]) -> list[Bound]:
    """Return what acts, each tie once, in flattening order."""
    return [
        bound
        for i, bound in enumerate(bounds)
        if bound.regularizer is not None and i == min(bound.leaves)
    ]
