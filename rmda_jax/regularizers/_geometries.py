"""Geometries: the units of an array, and the magnitude of each.

A geometry turns an array into nonnegative magnitudes and rebuilds it from shrunk ones.
Units are entries and singular values here, and groups in `_groups` and `_tied_groups`.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Arrays, Shape, Shapes
from rmda_jax.regularizers._axes import as_axes, normalized_axes
from rmda_jax.regularizers._spelling import call
from rmda_jax.regularizers.solvers._singular_values import (
    matmul,
    shrunk_singular_values,
    singular_values,
    transpose,
)

Center = Callable[..., jax.Array]
Shrink = Callable[[jax.Array, jax.Array], jax.Array]  # the prox of a scalar penalty


class Geometry(abc.ABC):
    """Magnitudes of an array, their weights, and the way back.

    Most geometries act on one array. One that acts on several arrays together takes and
    returns tuples wherever it says ``Arrays``, and says in `n_leaves` how many.
    """

    is_entrywise: ClassVar[bool] = False
    # What the product with a penalty is called, if it has a name of its own.
    names: ClassVar[dict[str, str]] = {}

    @property
    def n_leaves(self) -> int | None:
        """How many arrays it acts on, as a tuple; None for one array, as it is."""
        return None

    @abc.abstractmethod
    def spelled(self, entrywise: str, keywords: dict[str, Any]) -> str:
        """Return the call that makes a penalty here, given that for entries.

        Args:
          entrywise: Name of the factory for entries, such as ``mcp``.
          keywords: Its arguments.
        """

    def check(self, shape: Shapes) -> None:
        """Raise a ValueError if an array of this shape has no such magnitudes."""
        del shape

    def weights(self, shape: Shapes) -> ArrayLike:
        """Return the weight of each magnitude, broadcastable to the magnitudes."""
        del shape
        return 1.0

    @abc.abstractmethod
    def sizes(self, shape: Shapes) -> np.ndarray:
        """Return the number of entries behind each unit, broadcastable to `units`."""

    @abc.abstractmethod
    def magnitudes(self, x: Arrays) -> jax.Array:
        """Return the magnitudes; their gradient at 0 is 0."""

    @abc.abstractmethod
    def shrink_at(
        self, center: Center, operands: Any, prox: Shrink, t: jax.Array
    ) -> Arrays:
        """Replace magnitudes ``r`` of ``center(*operands)`` by ``prox(r, t * w)``."""

    @abc.abstractmethod
    def units(self, x: Arrays) -> jax.Array:
        """Return which units are not zero, without the axes that were reduced."""

    @abc.abstractmethod
    def shrunk_units(self, x: Arrays, prox: Shrink, t: jax.Array) -> jax.Array:
        """Return `units` of the shrunk array, from its magnitudes alone."""

    @abc.abstractmethod
    def subgradient_distance(
        self, x: Arrays, v: Arrays, slope: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        r"""Return the distance from ``v`` to the subdifferential at ``x``.

        ``slope`` maps magnitudes to :math:`\lambda w \varphi'`. An active unit has one
        subgradient; at a zero unit they fill a ball of radius ``slope(0)``.
        """

    @abc.abstractmethod
    def zero_magnitudes(self, x: Arrays, v: Arrays) -> jax.Array:
        """Return the magnitudes of ``v`` on the zero units of ``x``, 0 elsewhere."""


@dataclasses.dataclass(frozen=True)
class Entries(Geometry):
    """Every entry is a unit; its magnitude is its absolute value."""

    is_entrywise = True

    def spelled(self, entrywise: str, keywords: dict[str, Any]) -> str:
        return call(entrywise, **keywords)

    def sizes(self, shape: Shape) -> np.ndarray:
        return np.ones((1,) * len(shape), int)

    def magnitudes(self, x: jax.Array) -> jax.Array:
        return jnp.abs(x)

    def shrink_at(
        self, center: Center, operands: Any, prox: Shrink, t: jax.Array
    ) -> jax.Array:
        x = center(*operands)
        r = prox(jnp.abs(x), t)
        # Zeros become +0; the sign alone would leave -0 behind negative entries.
        return jnp.where(r == 0, 0, jnp.where(x < 0, -r, r))

    def units(self, x: jax.Array) -> jax.Array:
        return x != 0

    def shrunk_units(self, x: jax.Array, prox: Shrink, t: jax.Array) -> jax.Array:
        return prox(jnp.abs(x), t) != 0

    def subgradient_distance(
        self, x: jax.Array, v: jax.Array, slope: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        level = slope(jnp.abs(x))
        active = x != 0
        outside = v - jnp.where(active, level, 0) * jnp.sign(x)
        inside = jnp.maximum(jnp.abs(v) - level, 0)
        return norm(jnp.where(active, outside, inside))

    def zero_magnitudes(self, x: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.where(x == 0, jnp.abs(v), 0)


@dataclasses.dataclass(frozen=True)
class SingularValues(Geometry):
    """Singular values of the matrices along two axes, batched over the others.

    An SVD of the whole matrix is needed: both matrix axes must be unsharded. Gradients
    through it are NaN at repeated or zero singular values.
    """

    matrix_axes: tuple[int, int] = (-2, -1)

    names: ClassVar[dict[str, str]] = {"l1": "nuclear_norm", "mcp": "spectral_mcp"}

    def arguments(self) -> dict[str, Any]:
        """Return the keyword of a factory that is no default."""
        return {} if self.matrix_axes == (-2, -1) else {"matrix_axes": self.matrix_axes}

    def spelled(self, entrywise: str, keywords: dict[str, Any]) -> str:
        axes = self.arguments()
        if entrywise in self.names:
            return call(self.names[entrywise], **axes, **keywords)
        return call("on_singular_values", call(entrywise, **keywords), **axes)

    def check(self, shape: Shape) -> None:
        _ = normalized_axes(self.matrix_axes, shape, name="matrix_axes")

    def sizes(self, shape: Shape) -> np.ndarray:
        return np.ones((1,) * (len(shape) - 1), int)

    def magnitudes(self, x: jax.Array) -> jax.Array:
        return singular_values(self._matrices(x))

    def shrink_at(
        self, center: Center, operands: Any, prox: Shrink, t: jax.Array
    ) -> jax.Array:
        x = self._matrices(center(*operands))
        y = shrunk_singular_values(x, lambda s: prox(s, t))
        return jnp.moveaxis(jnp.where(t == 0, x, y), (-2, -1), self.matrix_axes)

    def above_rounding(self, x: jax.Array) -> jax.Array:
        """Return the singular values, those that are zero up to rounding as 0."""
        s = self.magnitudes(x)
        largest = jnp.max(s, axis=-1, keepdims=True, initial=0)
        return jnp.where(s <= self._tolerance(x) * largest, 0, s)

    def units(self, x: jax.Array) -> jax.Array:
        return self.above_rounding(x) > 0

    def shrunk_units(self, x: jax.Array, prox: Shrink, t: jax.Array) -> jax.Array:
        s = self.magnitudes(x)
        floor = self._tolerance(x) * jnp.max(s, axis=-1, keepdims=True, initial=0)
        return jnp.where(t == 0, s > floor, prox(s, t) > 0)

    def truncated(self, x: jax.Array) -> jax.Array:
        """Return ``x`` without the singular values that are zero up to rounding."""

        def drop(s: jax.Array, t: jax.Array) -> jax.Array:
            del t
            largest = jnp.max(s, axis=-1, keepdims=True, initial=0)
            return jnp.where(s > self._tolerance(x) * largest, s, 0)

        return self.shrink_at(lambda y: y, (x,), drop, jnp.ones((), x.dtype))

    def subgradient_distance(
        self, x: jax.Array, v: jax.Array, slope: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        x, v = self._matrices(x), self._matrices(v)
        u, s, vt, active = self._active_bases(x)
        level = slope(s)
        # The subgradients are U diag(level) V' plus what is orthogonal to U and V, of
        # spectral norm at most slope(0). So v splits: its part in the tangent space
        # (what shares rows or columns with U, V) has one target, the rest a ball.
        left = matmul(u, matmul(transpose(u), v))
        right = matmul(matmul(v, transpose(vt)), vt)
        both = matmul(u, matmul(transpose(u), right))
        tangent = left + right - both
        level = jnp.where(active, level, 0)
        gap = norm(tangent - matmul(u * level[..., None, :], vt))
        rest = singular_values(v - tangent)
        radius = slope(jnp.zeros_like(s))
        return jnp.hypot(gap, norm(jnp.maximum(rest - radius, 0)))

    def zero_magnitudes(self, x: jax.Array, v: jax.Array) -> jax.Array:
        x, v = self._matrices(x), self._matrices(v)
        u, s, vt, active = self._active_bases(x)
        v = v - matmul(u, matmul(transpose(u), v))
        v = v - matmul(matmul(v, transpose(vt)), vt)
        rest = singular_values(v)
        full = jnp.sum(active, axis=-1, keepdims=True) == s.shape[-1]
        return jnp.where(full, 0, rest)

    def _active_bases(
        self, x: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Return the SVD of matrices, 0 for the vectors of zero singular values."""
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        active = s > self._tolerance(x) * jnp.max(s, axis=-1, keepdims=True, initial=0)
        u = jnp.where(active[..., None, :], u, 0)
        return u, s, jnp.where(active[..., :, None], vt, 0), active

    def _matrices(self, x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, self.matrix_axes, (-2, -1))

    def _tolerance(self, x: jax.Array) -> float:
        rows, columns = (x.shape[axis] for axis in self.matrix_axes)
        return max(rows, columns, 1) * float(jnp.finfo(x.dtype).eps)


def norm(x: jax.Array) -> jax.Array:
    """Return the Euclidean norm of all entries."""
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def as_singular_values(matrix_axes: tuple[int, int]) -> SingularValues:
    """Build `SingularValues`, or raise a ValueError unless there are two axes."""
    axes = as_axes(matrix_axes, name="matrix_axes")
    if len(axes) != 2:
        raise ValueError(f"`matrix_axes` must be rows and columns, got {axes}.")
    return SingularValues(axes)
