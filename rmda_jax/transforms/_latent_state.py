"""The state of `latent` and its kin, apart from them: readers must know it, too."""

from typing import Any, NamedTuple

import jax
import optax

from rmda_jax._types import Params
from rmda_jax.transforms._state import ProxArguments


class NotHeld(optax.MaskedNode):
    """Stands for a leaf without a regularizer: its params are all there is of it."""


class LatentState(NamedTuple):
    """State of `latent`, `aprox`, `normal_map` and `linbreg`."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    gamma: jax.Array  # floating: gamma_t
    # floating: lambda of the last prox, 0 while none is taken; for a budget, one a leaf
    strength: Any
    latent: Params  # accumulator dtype: z_t; NotHeld without a regularizer
    inner_state: Any

    def prox_arguments(self) -> ProxArguments:
        """Return centre and step size of the prox that gives the params."""
        return ProxArguments(self.latent, self.gamma)
