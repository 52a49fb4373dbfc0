"""What a regularizer is: one structure on one array, without its strength.

Every regularizer answers the same questions about an array ``x``: how far is it from
the structure (`value`), what is the nearest structured point (`prox`), which of its
units are alive (`support`), and is a vector a subgradient (`subgradient_distance`).
Groups, singular values, levels and sets differ only in how they answer.

The public methods here do once what every answer needs: they check shape and dtype,
widen bfloat16 and float16 to float32, and cast the result back. A concrete
regularizer implements the underscored hooks on wide arrays, and nothing else.
"""

import abc
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Scalar, Shape, spec_of, wide_dtype


class Regularizer(abc.ABC):
    r"""A structure-inducing function :math:`\psi` of one real array.

    Instances are frozen, hashable and picklable and hold structure only: the strength
    :math:`\lambda` and the step :math:`\eta` enter as the argument ``step_size``, so
    sweeping them never recompiles. There is no ``__call__``: `optax.inject_hyperparams`
    would take a callable for a schedule.
    """

    @property
    def is_convex(self) -> bool:
        r"""Whether :math:`\psi` is convex (its prox is then firmly nonexpansive)."""
        return False

    @property
    def is_separable(self) -> bool:
        r"""Whether :math:`\psi` is a sum over entries."""
        return False

    @property
    def is_indicator(self) -> bool:
        r"""Whether :math:`\psi` is 0 on a set and infinite off it: prox projects."""
        return False

    @property
    def is_homogeneous(self) -> bool:
        r"""Whether :math:`\psi(c x) = c\,\psi(x)` for every :math:`c > 0`."""
        return False

    def check(self, shape: Shape, dtype: Any = jnp.float32) -> None:
        """Raise if arrays of this shape and dtype cannot carry the structure.

        Args:
          shape: Shape of the array.
          dtype: Its dtype.

        Raises:
          TypeError: ``dtype`` is not real floating.
          ValueError: ``shape`` does not fit (an axis that does not exist, ...).
        """
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"a regularizer needs a real floating array, got dtype "
                f"{jnp.dtype(dtype).name} and shape {shape}. Leave integer, boolean "
                "and complex leaves out of the rules."
            )
        self._check(shape)

    def value(self, x: ArrayLike) -> jax.Array:
        r"""Return :math:`\psi(x)`.

        Args:
          x: Real floating array.

        Returns:
          Scalar, float32 or wider. Indicators give 0 or infinity, and forgive rounding.

        Raises:
          TypeError, ValueError: as in `check`.
        """
        return self._value(self._enter(x))

    def prox(self, x: ArrayLike, step_size: Scalar) -> jax.Array:
        r"""Return the proximal point of ``x``.

        .. math:: \operatorname{prox}_{t\psi}(x) =
            \arg\min_y \tfrac12 \|y - x\|^2 + t\,\psi(y), \qquad t = \text{step_size}

        Args:
          x: Real floating array.
          step_size: The whole factor in front of :math:`\psi` (learning rate times
            strength), nonnegative; a number or a traced scalar. 0 returns ``x``, or
            its projection when :math:`\psi` is an indicator.

        Returns:
          Array of ``x``'s shape and dtype; what the structure makes zero is exactly 0.
          If :math:`\psi` is not convex, a global minimiser; ties are deterministic.

        Raises:
          TypeError, ValueError: as in `check`; ``step_size`` negative or NaN.
        """
        return self.prox_at(lambda y: y, (jnp.asarray(x),), step_size)

    def prox_at(
        self,
        center: Callable[..., jax.Array],
        operands: tuple[jax.Array, ...],
        step_size: Scalar,
    ) -> jax.Array:
        """Return ``prox(center(*operands), step_size)`` without storing the centre.

        Group norms need the centre twice, once to reduce and once to scale. Given how
        it is computed, the second pass recomputes it from ``operands``, and no
        temporary as large as the array is written.

        Args:
          center: Cheap elementwise function of the operands.
          operands: Arrays from which the centre is computed.
          step_size: As in `prox`.

        Returns:
          As `prox`.

        Raises:
          TypeError, ValueError: as in `prox`.
        """
        spec = jax.eval_shape(center, *operands)
        self.check(spec.shape, spec.dtype)
        wide = wide_dtype(spec.dtype)
        step = _check_step_size(step_size, wide)
        out = self._prox_at(lambda *a: center(*a).astype(wide), operands, step)
        return out.astype(spec.dtype)

    def metric_prox(
        self, x: ArrayLike, step_size: Scalar, metric: ArrayLike
    ) -> jax.Array:
        r"""Return the proximal point of ``x`` in a diagonal metric.

        .. math:: \arg\min_y \tfrac12 \sum_i d_i (y_i - x_i)^2 + t\,\psi(y)

        Args:
          x: Real floating array.
          step_size: :math:`t`, as in `prox`.
          metric: :math:`d`, positive, of ``x``'s shape or broadcastable to it.

        Returns:
          Array of ``x``'s shape and dtype.

        Raises:
          NotImplementedError: no closed form or scalar root is known for this one.
          TypeError, ValueError: as in `prox`; ``metric`` does not broadcast to ``x``.
        """
        x = jnp.asarray(x)
        wide_x = self._enter(x)
        try:
            metric = jnp.broadcast_to(jnp.asarray(metric, wide_x.dtype), x.shape)
        except ValueError as error:
            raise ValueError(
                f"`metric` must broadcast to the array's shape {x.shape}, got shape "
                f"{np.shape(metric)}. Give one positive number per entry."
            ) from error
        step = _check_step_size(step_size, wide_x.dtype)
        return self._metric_prox(wide_x, step, metric).astype(x.dtype)

    def support(self, x: ArrayLike) -> jax.Array:
        """Return which units of ``x`` are active.

        Args:
          x: Real floating array.

        Returns:
          Boolean array with one flag per unit: an entry, a group (shape: the lengths
          of the group axes), a singular value (its number of True is the rank), ...
        """
        return self._support(self._enter(x))

    def prox_support(self, x: ArrayLike, step_size: Scalar) -> jax.Array:
        """Return the support of ``prox(x, step_size)``, from the shrunk magnitudes.

        Unlike ``support(prox(x, t))`` it needs no tolerance: a rank is counted on the
        singular values that the prox itself shrank, not on those of a new SVD.

        Args:
          x: Real floating array.
          step_size: As in `prox`.

        Returns:
          As `support`.
        """
        x = self._enter(x)
        return self._prox_support(x, _check_step_size(step_size, x.dtype))

    def snap(self, x: ArrayLike) -> jax.Array:
        """Return ``x`` with the structure restored that rounding blurred.

        ``p + (q - p)`` is exactly ``q`` only where ``q`` is 0. Sparsity therefore
        survives `optax.apply_updates`; levels, ranks and sets do not, and are put back
        here. Sparse structures return ``x`` itself.

        Args:
          x: Real floating array, structured up to rounding.

        Returns:
          Array of the same shape and dtype, exactly structured.
        """
        x = jnp.asarray(x)
        return self._snap(self._enter(x)).astype(x.dtype)

    def unit_sizes(self, shape: Shape) -> np.ndarray:
        """Return how many entries each unit of `support` has.

        Args:
          shape: Shape of the array.

        Returns:
          Integer array that broadcasts to the support's shape.
        """
        self.check(shape)
        return self._unit_sizes(shape)

    def subgradient_distance(
        self, x: ArrayLike, v: ArrayLike, strength: Scalar
    ) -> jax.Array:
        r"""Return :math:`\operatorname{dist}(v, \lambda\,\partial\psi(x))`.

        Exact for penalties on entries, groups and singular values and for the sparse
        group lasso. Otherwise the prox residual
        :math:`\|x - \operatorname{prox}_{\lambda\psi}(x + v)\|`, which for convex
        :math:`\psi` is a lower bound, zero exactly when the distance is.

        Args:
          x: Real floating array.
          v: Array of the same shape, usually minus a gradient.
          strength: :math:`\lambda`, nonnegative.

        Returns:
          Scalar.
        """
        x = self._enter(x)
        v = jnp.asarray(v, x.dtype)
        return self._subgradient_distance(x, v, _check_step_size(strength, x.dtype))

    def margin(self, x: ArrayLike, v: ArrayLike, strength: Scalar) -> jax.Array:
        r"""Return how safely the zero units of ``x`` stay zero.

        .. math:: \min_{g:\, x_g = 0} 1 - \frac{\|v_g\|}{\lambda w_g \varphi'(0)}

        Positive: nondegenerate, :math:`v \in \operatorname{ri} \lambda\partial\psi(x)`
        there, the condition of the identification theorem.

        Args:
          x: Real floating array.
          v: Array of the same shape, usually minus a gradient.
          strength: :math:`\lambda`, positive.

        Returns:
          Scalar; infinite when no unit is zero.

        Raises:
          NotImplementedError: the regularizer has no notion of a zero unit.
        """
        x = self._enter(x)
        v = jnp.asarray(v, x.dtype)
        return self._margin(x, v, _check_step_size(strength, x.dtype))

    # --- hooks: wide arrays in, wide arrays out ------------------------------------

    @abc.abstractmethod
    def _value(self, x: jax.Array) -> jax.Array: ...

    @abc.abstractmethod
    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array: ...

    def _check(self, shape: Shape) -> None:
        del shape

    def _prox_at(
        self,
        center: Callable[..., jax.Array],
        operands: tuple[jax.Array, ...],
        t: jax.Array,
    ) -> jax.Array:
        return self._prox(center(*operands), t)

    def _metric_prox(self, x: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
        raise NotImplementedError(
            f"{self} has no closed-form prox in a diagonal metric. Use `prox`, or a "
            "separable or group regularizer."
        )

    def _support(self, x: jax.Array) -> jax.Array:
        return x != 0

    def _prox_support(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._support(self._prox(x, t))

    def _snap(self, x: jax.Array) -> jax.Array:
        return self._prox(x, jnp.zeros((), x.dtype)) if self.is_indicator else x

    def _unit_sizes(self, shape: Shape) -> np.ndarray:
        return np.ones((1,) * len(shape), int)

    def _subgradient_distance(
        self, x: jax.Array, v: jax.Array, strength: jax.Array
    ) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(x - self._prox(x + v, strength))))

    def _margin(self, x: jax.Array, v: jax.Array, strength: jax.Array) -> jax.Array:
        raise NotImplementedError(
            f"{self} has no zero units, so it has no nondegeneracy margin. Ask for it "
            "on penalties of entries, groups or singular values."
        )

    def _enter(self, x: ArrayLike) -> jax.Array:
        shape, dtype = spec_of(x)
        self.check(shape, dtype)
        return jnp.asarray(x, wide_dtype(dtype))


def _check_step_size(step_size: Scalar, dtype: Any) -> jax.Array:
    if isinstance(step_size, numbers.Real) and not float(step_size) >= 0:
        raise ValueError(
            f"`step_size` must be nonnegative, got {step_size}. It is the product of "
            "learning rate and strength."
        )
    return jnp.asarray(step_size, dtype)


def check_parameter(
    name: str, value: float, *, above: float | None = None, at_least: float = -math.inf
) -> None:
    """Raise a ValueError unless a structure parameter lies in its domain."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if above is not None and not value > above:
        raise ValueError(f"`{name}` must be greater than {above}, got {value}.")
    if not value >= at_least:
        raise ValueError(f"`{name}` must be at least {at_least}, got {value}.")
