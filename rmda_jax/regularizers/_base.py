"""What a regularizer is: one structure on one array, without its strength.

Every regularizer answers the same questions about an array ``x``: how far is it from
the structure (`value`), what is the nearest structured point (`prox`), which of its
units are alive (`support`), and is a vector a subgradient (`subgradient_distance`).
Groups, singular values, levels and sets differ only in how they answer.

The public methods here do once what every answer needs: they check shape and dtype,
widen bfloat16 and float16 to float32, and cast the result back. A concrete regularizer
implements the underscored hooks on wide arrays, and nothing else.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Scalar, Shape, spec_of, wide_dtype
from rmda_jax.regularizers._checks import check_metric, check_step_size, rounding_unit
from rmda_jax.regularizers._hooks import array_from, scalar_from
from rmda_jax.regularizers._proximal_gradient import Solution, proximal_gradient


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
        wide = self._enter(x)
        inside = self._contains(wide, rounding_unit(x))
        return jnp.where(inside, scalar_from(self._value, wide), jnp.inf)

    def prox(self, x: ArrayLike, step_size: Scalar) -> jax.Array:
        r"""Return the proximal point of ``x``.

        .. math:: \operatorname{prox}_{t\psi}(x) =
            \arg\min_y \tfrac12 \|y - x\|^2 + t\,\psi(y), \qquad t = \text{step_size}

        Args:
          x: Real floating array.
          step_size: The whole factor in front of :math:`\psi` (learning rate times
            strength), nonnegative; a number or a traced scalar. 0 returns ``x``, or
            its projection onto where :math:`\psi` is finite.

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
          As `prox`, which also says what is raised.
        """
        spec = jax.eval_shape(center, *operands)
        self.check(spec.shape, spec.dtype)
        step = check_step_size(step_size, wide_dtype(spec.dtype))
        out = self._prox_at(lambda *a: center(*a).astype(step.dtype), operands, step)
        return out.astype(spec.dtype)

    def metric_prox(
        self,
        x: ArrayLike,
        step_size: Scalar,
        metric: ArrayLike,
        *,
        start: ArrayLike | None = None,
        rtol: float | None = None,
        max_iters: int = 100,
    ) -> jax.Array:
        r"""Return the proximal point of ``x`` in a diagonal metric.

        .. math:: \arg\min_y \tfrac12 \sum_i d_i (y_i - x_i)^2 + t\,\psi(y)

        Exact for entries, levels, boxes, counts, (sparse) group lasso and group MCP;
        else as `solve_metric_prox`, if nonconvex to a stationary point only.

        Args:
          x: Real floating array.
          step_size: :math:`t`, as in `prox`.
          metric: :math:`d`, positive, of ``x``'s shape or broadcastable to it.
          start: First iterate, where there are any; ``x`` by default.
          rtol: Iterate to this certificate, see `solve_metric_prox`.
          max_iters: Iterate no longer than this.

        Returns:
          Array of ``x``'s shape and dtype.

        Raises:
          TypeError, ValueError: as in `prox`; ``metric`` does not fit ``x``.
        """
        options = {"start": start, "rtol": rtol, "max_iters": max_iters}
        return self.counted_metric_prox(x, step_size, metric, **options)[0]

    def counted_metric_prox(
        self, x: ArrayLike, step_size: Scalar, metric: ArrayLike, **options: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return `metric_prox`, and how many steps it took.

        Takes and raises what `metric_prox` does. The steps are an int32 scalar; None
        where they are a fixed number, as for closed forms.
        """
        x = jnp.asarray(x)
        wide = self._enter(x)
        t, d = check_step_size(step_size, wide.dtype), check_metric(metric, wide)
        found = self._counted_metric_prox(wide, t, d)
        if found is None:
            solution = self.solve_metric_prox(wide, t, d, **options)
            found = solution.x, solution.iterations
        return found[0].astype(x.dtype), found[1]

    def solve_metric_prox(
        self,
        x: ArrayLike,
        step_size: Scalar,
        metric: ArrayLike,
        *,
        start: ArrayLike | None = None,
        rtol: float | None = None,
        max_iters: int = 100,
    ) -> Solution:
        r"""Solve `metric_prox` by proximal gradient, and tell what was reached.

        It stops by condition (7) of the RAMDA paper: some subgradient of the objective
        is small, and the objective no higher than at ``start``. Works for every
        regularizer, also where `metric_prox` has a closed form.

        Args:
          x: As in `metric_prox`, as are the next two.
          step_size: :math:`t`.
          metric: :math:`d`.
          start: First iterate; ``x`` by default.
          rtol: How small, relative to :math:`\|d(x - y)\|`; by default the
            rounding unit of the dtype to the power 3/4.
          max_iters: Iterate no longer than this.

        Returns:
          A named tuple: ``x``, float32 or wider; ``residual``, the norm of that
          subgradient; ``iterations``; ``converged``.

        References:
          Huang, Lee & Lee, `RAMDA <https://arxiv.org/abs/2403.14398>`_, 2024.
        """
        wide = self._enter(x)
        return proximal_gradient(
            self._prox,
            self.value,
            wide,
            check_step_size(step_size, wide.dtype),
            check_metric(metric, wide),
            start=wide if start is None else jnp.asarray(start, wide.dtype),
            convex=self.is_convex,
            rtol=rounding_unit(wide) ** 0.75 if rtol is None else rtol,
            max_iters=max_iters,
        )

    def support(self, x: ArrayLike) -> jax.Array:
        """Return which units of ``x`` are active.

        Args:
          x: Real floating array.

        Returns:
          Boolean array, one flag per unit: an entry, a group (shape: the lengths of the
          group axes), a singular value (the number of True is the rank), ...
        """
        return self._support(self._enter(x), rounding_unit(x))

    def prox_support(self, x: ArrayLike, step_size: Scalar) -> jax.Array:
        """Return the support of ``prox(x, step_size)``, from the shrunk magnitudes.

        It needs no tolerance: a rank is counted on the singular values that the prox
        itself shrank, not on those of a new SVD.

        Args:
          x: Real floating array.
          step_size: As in `prox`.

        Returns:
          As `support`.
        """
        x = self._enter(x)
        return self._prox_support(x, check_step_size(step_size, x.dtype))

    def snap(self, x: ArrayLike) -> jax.Array:
        """Return ``x`` with the structure restored that rounding blurred.

        ``p + (q - p)`` is exactly ``q`` only where ``q`` is 0: sparsity survives
        `optax.apply_updates`; levels, ranks and sets do not, and are put back here.

        Args:
          x: Real floating array, structured up to rounding.

        Returns:
          Array of the same shape and dtype, exactly structured.
        """
        snapped = array_from(self._snap, self._enter(x), rounding_unit(x))
        return snapped.astype(spec_of(x)[1])

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
        return self._subgradient_distance(x, v, check_step_size(strength, x.dtype))

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
        return self._margin(x, v, check_step_size(strength, x.dtype))

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
        return array_from(self._prox, center(*operands), t)

    def _metric_prox(
        self, x: jax.Array, t: jax.Array, d: jax.Array
    ) -> jax.Array | None:
        """Return the exact solution; None where it takes iterations."""
        del x, t, d
        return None

    def _counted_metric_prox(
        self, x: jax.Array, t: jax.Array, d: jax.Array
    ) -> tuple[jax.Array, jax.Array | None] | None:
        """Return the exact solution, and how many steps it took if that varies."""
        y = array_from(self._metric_prox, x, t, d)
        return None if y is None else (y, None)

    def _contains(self, x: jax.Array, eps: float) -> ArrayLike:
        """Return whether ``psi(x)`` is finite, up to rounding in units of ``eps``."""
        del x, eps
        return True

    def _support(self, x: jax.Array, eps: float) -> jax.Array:
        del eps
        return x != 0

    def _prox_support(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self._support(self._prox(x, t), rounding_unit(x))

    def _snap(self, x: jax.Array, eps: float) -> jax.Array:
        del eps
        return x

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
        self.check(*spec_of(x))
        return jnp.asarray(x, wide_dtype(spec_of(x)[1]))
