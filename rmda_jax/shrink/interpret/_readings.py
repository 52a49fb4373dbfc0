"""How an equation reads an operand of which units are removed."""

from typing import NamedTuple

import numpy as np

from rmda_jax.shrink.interpret._axes import Recomputation
from rmda_jax.shrink.interpret._values import PartialValue


class Reading(NamedTuple):
    """An operand that an equation reads also where units are removed."""

    primitive: str
    places: list[int]  # the axes along which it is to be expanded
    known: PartialValue | None  # of the expanded operand
    stays: tuple[np.ndarray, ...]  # where the small operand lies in the expanded one
    anew: Recomputation | None = None  # how it is computed, if it is not known

    @property
    def removed(self) -> np.ndarray:
        """Which entries of the expanded operand are removed."""
        assert self.known is not None
        removed = np.ones(self.known.value.shape, bool)
        removed[self.stays] = False
        return removed

    @property
    def is_known(self) -> bool:
        """Whether the values of the removed entries are known, or can be computed."""
        if self.anew is not None:
            return True
        if self.known is None:
            return False
        return not self.known.unknown_mask[self.removed].any()

    @property
    def is_neutral(self) -> bool:
        """Whether the equation does without these entries: it is a sum of zeros."""
        if self.anew is not None or self.known is None:
            return False
        if self.primitive != "reduce_sum":
            return False
        return bool(self.known.zero[self.removed].all())
