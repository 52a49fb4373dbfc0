"""Which leaves decay: masks as Optax has them, and what no regularizer acts on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._names import leaf_names
from rmda_jax.transforms._arguments import evaluate, scale

DecayMask: TypeAlias = Any | Callable[[Params], Any] | None
"""A pytree prefix of the params with booleans, a function that makes it, or None."""


def decaying(decay_mask: DecayMask, params: Params) -> list[bool]:
    """Return for each leaf whether a mask lets it decay; with None all do.

    Raises:
      TypeError: the mask holds something else than booleans.
      ValueError: it is no prefix of the params.
    """
    if decay_mask is None:
        return [True] * len(jax.tree.leaves(params))
    mask = decay_mask(params) if callable(decay_mask) else decay_mask
    try:
        spread = jax.tree.map(
            lambda flag, subtree: jax.tree.map(lambda _: flag, subtree), mask, params
        )
    except ValueError as error:
        raise ValueError(
            "`decay_mask` must be a pytree prefix of the params, whose names are "
            f"{', '.join(leaf_names(params))}: {error}"
        ) from error
    flags = jax.tree.leaves(spread)
    for name, flag in zip(leaf_names(params), flags, strict=True):
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(
                f"`decay_mask` must hold True or False, got {flag!r} for parameter "
                f"'{name}'."
            )
    return [bool(flag) for flag in flags]


class Decay(NamedTuple):
    """The decay of the leaves without a regularizer, in one update."""

    weight: jax.Array  # omega
    mask: DecayMask

    def added(
        self,
        sums: Sequence[jax.Array],
        leaves: Sequence[jax.Array],
        rules: Sequence[LeafRule],
        params: Params,
        factors: Sequence[jax.Array] | None = None,
    ) -> list[jax.Array]:
        """Return gradients or their sums, plus omega times what decays.

        Args:
          sums: One for each leaf.
          leaves: The params, in their dtypes.
          rules: What acts on each.
          params: The params.
          factors: By what the decay of each leaf is multiplied; 1 if left out.
        """
        out = list(sums)
        for i, decays in enumerate(decaying(self.mask, params)):
            if decays and rules[i].regularizer is None:
                w = leaves[i] if factors is None else factors[i] * leaves[i]
                out[i] += scale(self.weight, w)
        return out


def decay_at(
    weight_decay: ScalarOrSchedule, decay_mask: DecayMask, count: jax.Array
) -> Decay | None:
    """Return the decay of the update with ``count`` behind it; None if it is 0."""
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return None
    return Decay(evaluate(weight_decay, count), decay_mask)
