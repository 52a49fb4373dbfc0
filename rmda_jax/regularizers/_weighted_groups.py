"""Groups along axes of one array, each with a weight of its own."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from rmda_jax.regularizers._groups import Groups, Shape
from rmda_jax.regularizers._spelling import call


@dataclasses.dataclass(frozen=True)
class WeightedGroups(Groups):
    """The groups of `Groups`, whose weights are given.

    Args:
      given: The weights, in the shape of the support; nested tuples, or traced.
    """

    given: Any = 1.0

    def spelled(self, entrywise: str, keywords: dict[str, Any]) -> str:
        assert entrywise == "l1", "only the group lasso has weights of its own"
        traced = isinstance(self.given, Tracer)
        axes = self.arguments()["group_axes"]
        return call("weighted_group_lasso", "..." if traced else self.given, axes)

    def check(self, shape: Shape) -> None:
        super().check(shape)
        reduced = self._layout(shape).reduced
        lengths = tuple(n for i, n in enumerate(shape) if i not in reduced)
        if np.shape(self.given) != lengths:
            raise ValueError(
                f"the weights must have the shape of the support, {lengths} for an "
                f"array of shape {shape}, got shape {np.shape(self.given)}."
            )

    def weights(self, shape: Shape) -> ArrayLike:
        return jnp.expand_dims(jnp.asarray(self.given), self._layout(shape).reduced)
