"""Convex feasible sets: box, balls, simplex. Their prox is the projection."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rmda_jax._types import Shape
from rmda_jax.regularizers._base import Regularizer
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._groups import Groups
from rmda_jax.regularizers._spelling import call
from rmda_jax.regularizers.solvers._water_level import water_level


class FeasibleSet(Regularizer):
    """A set as a regularizer: the indicator of what its projection leaves alone."""

    @property
    def is_indicator(self) -> bool:
        return True

    def _value(self, x: jax.Array) -> jax.Array:
        return jnp.zeros((), x.dtype)

    def _contains(self, x: jax.Array, eps: float) -> ArrayLike:
        # Sums round: a projection may miss the boundary by an ulp per entry.
        rounding = 8 * eps * math.sqrt(max(x.size, 1))
        gap = jnp.abs(x - self._prox(x, jnp.zeros((), x.dtype)))
        return jnp.all(gap <= rounding * (1 + jnp.max(jnp.abs(x), initial=0)))

    def _critical_levels(self, x: jax.Array, d: jax.Array | None) -> jax.Array:
        del x, d
        raise NotImplementedError(
            f"{self} is a set, of which no strength makes more or less zero. Choose "
            "the set itself, or take a penalty, such as l0() in place of top_k."
        )

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        # A sum that rounds to the wrong side must not make a zero entry nonzero.
        zero = (x == 0) & self._contains(x, eps)
        return jnp.where(zero, 0, self._prox(x, jnp.zeros((), x.dtype)))


@dataclasses.dataclass(frozen=True, repr=False)
class Box(FeasibleSet):
    r"""The box :math:`[\text{lower}, \text{upper}]^n`."""

    lower: float
    upper: float

    def __post_init__(self):
        check_parameter("upper", self.upper, at_least=self.lower)

    def __str__(self) -> str:
        return call("box", self.lower, self.upper)

    @property
    def is_convex(self) -> bool:
        return True

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_homogeneous(self) -> bool:
        return {self.lower, self.upper} <= {0.0, -math.inf, math.inf}

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return jnp.clip(x, self.lower, self.upper)

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        del d
        return self._prox(x, t)


@dataclasses.dataclass(frozen=True, repr=False)
class Ball(FeasibleSet):
    """A ball of one radius for every group: in the l1 or l2 norm, or the simplex."""

    kind: str
    radius: float
    groups: Groups

    def __post_init__(self):
        check_parameter("radius", self.radius, above=0)

    def __str__(self) -> str:
        radius = {} if self.radius == 1 else {"radius": self.radius}
        axes = self.groups.arguments() if self.groups.group_axes else {}
        axes.pop("weighted", None)
        return call(self.kind, **radius, **axes)

    @property
    def is_convex(self) -> bool:
        return True

    def _check(self, shape: Shape) -> None:
        self.groups.check(shape)

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return _PROJECTIONS[self.kind](self.groups, x, self.radius)


def _project_simplex(groups: Groups, x: jax.Array, radius: float) -> jax.Array:
    theta = water_level(groups, x, jnp.asarray(radius, x.dtype))
    return jnp.maximum(x - groups.expand(theta, x.shape), 0)


def project_l1_ball(groups: Groups, x: jax.Array, radius: ArrayLike) -> jax.Array:
    """Project every group onto its l1 ball; radii broadcast to the magnitudes."""
    radius = jnp.asarray(radius, x.dtype)
    inside = groups.reduce(jnp.sum, jnp.abs(x)) <= radius
    # Rounding may push a level near 0 below 0, which would make zeros nonzero.
    level = jnp.maximum(water_level(groups, jnp.abs(x), radius), 0)
    theta = jnp.where(inside, 0, level)
    r = jnp.maximum(jnp.abs(x) - groups.expand(theta, x.shape), 0)
    return jnp.where(r == 0, 0, jnp.where(x < 0, -r, r))


def _project_l2_ball(groups: Groups, x: jax.Array, radius: float) -> jax.Array:
    r = groups.magnitudes(x)
    inside = r <= radius
    factor = jnp.where(inside, 1, radius / jnp.where(inside, 1, r))
    return x * groups.expand(factor, x.shape)


_PROJECTIONS: dict[str, Callable[..., jax.Array]] = {
    "simplex": _project_simplex,
    "l1_ball": project_l1_ball,
    "l2_ball": _project_l2_ball,
}
