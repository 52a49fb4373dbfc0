"""A convex penalty of entries, restricted to a box."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._sets import Box
from rmda_jax.regularizers._spelling import call


@dataclasses.dataclass(frozen=True, repr=False)
class Boxed(Regularizer):
    r""":math:`\psi(x)` on the box, infinite outside: the prox, then a clip.

    Right for a convex sum over entries, where each entry's objective has one minimum
    and rises on both sides of it.
    """

    inner: Regularizer
    box: Box

    def __post_init__(self):
        if not (self.inner.is_convex and self.inner.is_separable):
            raise ValueError(
                f"`inner` must be convex and separable to be boxed, got {self.inner}. "
                "Box entrywise penalties such as l1()."
            )

    def __str__(self) -> str:
        return call("boxed", self.inner, self.box.lower, self.box.upper)

    @property
    def is_convex(self) -> bool:
        return True

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_homogeneous(self) -> bool:
        return self.inner.is_homogeneous and self.box.is_homogeneous

    def _value(self, x: jax.Array) -> jax.Array:
        return self.inner.value(x)

    def _contains(self, x: jax.Array, eps: float) -> ArrayLike:
        return self.box._contains(x, eps)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self.box.prox(self.inner.prox(x, t), t)

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        return self.box.prox(self.inner.metric_prox(x, t, d), t)

    def _critical_levels(self, x: jax.Array, d: jax.Array | None) -> jax.Array:
        if not self.box.lower <= 0 <= self.box.upper:
            return jnp.where(jnp.isnan(x), x, jnp.inf)
        # Where the clip alone gives 0, no strength is needed.
        clipped = jnp.clip(x, self.box.lower, self.box.upper)
        return jnp.where(clipped == 0, 0, self.inner._critical_levels(x, d))

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        del eps
        return self.box.snap(x)
