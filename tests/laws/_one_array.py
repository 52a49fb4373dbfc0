"""Regularizers of several leaves, as of one array: for laws that know only these."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rmda_jax as rj


@dataclasses.dataclass(frozen=True)
class OneArray(rj.Regularizer):
    """A regularizer of tied leaves, on the vector of all their entries."""

    tied: rj.Regularizer
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return f"{self.tied} on one array"

    is_convex = property(lambda self: self.tied.is_convex)
    is_homogeneous = property(lambda self: self.tied.is_homogeneous)

    def leaves(self, x: jax.Array) -> tuple[jax.Array, ...]:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = jnp.split(x, ends)
        return tuple(p.reshape(s) for p, s in zip(parts, self.shapes, strict=True))

    def joined(self, leaves: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    def _check(self, shape) -> None:
        if shape != (sum(map(math.prod, self.shapes)),):
            raise ValueError(f"the leaves do not fit into shape {shape}.")

    def _value(self, x):
        return self.tied._value(self.leaves(x))

    def _prox(self, x, t):
        return self.joined(self.tied._prox(self.leaves(x), t))

    def _prox_at(self, center, operands, t):
        operands = tuple(zip(*map(self.leaves, operands), strict=True))
        return self.joined(self.tied._prox_at(center, operands, t))

    def _counted_metric_prox(self, x, t, d) -> Any:
        found = self.tied._counted_metric_prox(self.leaves(x), t, self.leaves(d))
        return None if found is None else (self.joined(found[0]), found[1])

    def _support(self, x, eps):
        return self.tied._support(self.leaves(x), eps)

    def _prox_support(self, x, t):
        return self.tied._prox_support(self.leaves(x), t)

    def _support_mask(self, x):
        return self.joined(self.tied._support_mask(self.leaves(x)))

    def _unit_sizes(self, shape):
        return self.tied._unit_sizes(self.shapes)

    def _subgradient_distance(self, x, v, strength):
        leaves = self.leaves(x), self.leaves(v)
        return self.tied._subgradient_distance(*leaves, strength)

    def _critical_levels(self, x, d):
        metric = None if d is None else self.leaves(d)
        return self.tied._critical_levels(self.leaves(x), metric)

    def _margin(self, x, v, strength):
        return self.tied._margin(self.leaves(x), self.leaves(v), strength)
