"""What a regularizer is: one structure on one array, without its strength.

Every regularizer answers the same questions about an array ``x``: how far is it from
the structure (`value`), what is the nearest structured point (`prox`), which of its
units are alive (`support`), and is a vector a subgradient (`subgradient_distance`).
Groups, singular values, levels and sets differ only in how they answer.

The public methods here do once what every answer needs: they check shape and dtype,
widen bfloat16 and float16 to float32, and cast the result back. A concrete regularizer
implements the underscored hooks on wide arrays, and nothing else. In all of them ``t``
is the step size, an array of rank 0; ``d`` a positive diagonal metric, or
preconditioner, of the array's shape; ``eps`` the rounding unit before widening.

Groups that span leaves act on a tuple of arrays. Then `n_leaves` says of how many, and
methods and hooks take and return tuples wherever they say ``Arrays``.
"""

from __future__ import annotations  # so that `help` shows ArrayLike by its name

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Arrays, Scalar, Shapes
from rmda_jax.regularizers._checks import check_step_size
from rmda_jax.regularizers._critical_strengths import CriticalStrengths
from rmda_jax.regularizers._hooks import array_from, scalar_from
from rmda_jax.regularizers._posed import Posed
from rmda_jax.regularizers._support_mask import SupportMask
from rmda_jax.regularizers.solvers._proximal_gradient import Solution, proximal_gradient


class Regularizer(CriticalStrengths, SupportMask, Posed, abc.ABC):
    r"""A structure-inducing function :math:`\psi` of one real array.

    Instances are frozen, hashable and picklable and hold structure only: the strength
    :math:`\lambda` and the step :math:`\eta` enter as the argument ``step_size``, so
    sweeping them never recompiles. With a ``__call__`` Optax would see a schedule.
    """

    def __repr__(self) -> str:
        has_text = type(self).__str__ is not object.__str__
        return str(self) if has_text else object.__repr__(self)

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

    def check(self, shape: Shapes, dtype: Any = jnp.float32) -> None:
        """Raise if arrays of this shape and dtype cannot carry the structure.

        Args:
          shape: Shape of the array; a tuple of shapes if it acts on several.
          dtype: Its dtype, or a tuple of dtypes.

        Raises:
          TypeError: ``dtype`` is not real floating.
          ValueError: ``shape`` does not fit (an axis that does not exist, ...).
        """
        self._check_dtypes(shape, dtype)
        self._check(shape)

    def value(self, x: Arrays) -> jax.Array:
        r"""Return :math:`\psi(x)`.

        Args:
          x: Real floating array.

        Returns:
          Scalar, float32 or wider. Indicators give 0 or infinity, and forgive rounding.

        Raises:
          TypeError, ValueError: as in `check`.
        """
        wide = self._checked_wide(x)
        inside = self._contains(wide, self._rounding_unit(x))
        return jnp.where(inside, scalar_from(self._value, wide), jnp.inf)

    def prox(self, x: Arrays, step_size: Scalar) -> Arrays:
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
        operands = self._each(lambda y: (jnp.asarray(y),), x)
        return self.prox_at(lambda y: y, operands, step_size)

    def prox_at(
        self,
        center: Callable[..., jax.Array],
        operands: tuple[Any, ...],
        step_size: Scalar,
    ) -> Arrays:
        """Return ``prox(center(*operands), step_size)`` without storing the centre.

        Group norms need the centre twice, to reduce and to scale. Computed again from
        ``operands``, it is never written out (docs/performance.md).

        Args:
          center: Cheap elementwise function of the operands.
          operands: Arrays from which the centre is computed, or a tuple per leaf.
          step_size: As in `prox`.

        Returns:
          As `prox`, which also says what is raised.
        """
        like = self._each(lambda row: jax.eval_shape(center, *row), operands)
        self._check_like(like)
        step = check_step_size(step_size, self._wide_dtype(like))
        out = self._prox_at(lambda *a: center(*a).astype(step.dtype), operands, step)
        return self._each(lambda y, x: y.astype(x.dtype), out, like)

    def metric_prox(
        self,
        x: Arrays,
        step_size: Scalar,
        metric: Arrays,
        *,
        start: Arrays | None = None,
        rtol: float | None = None,
        max_iters: int = 100,
    ) -> Arrays:
        r"""Return the proximal point of ``x`` in a diagonal metric.

        .. math:: \arg\min_y \tfrac12 \sum_i d_i (y_i - x_i)^2 + t\,\psi(y)

        Exact for entries, levels, boxes, counts, and on groups for the (sparse) lasso,
        elastic net, MCP, l0; else by `solve_metric_prox`: a stationary point, at least.

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
        self, x: Arrays, step_size: Scalar, metric: Arrays, **options: Any
    ) -> tuple[Arrays, jax.Array | None]:
        """Return `metric_prox`, and how many steps it took; it takes what that does.

        The steps are an int32 scalar; None where their number is fixed.
        """
        x = self._each(jnp.asarray, x)
        wide = self._checked_wide(x)
        t = check_step_size(step_size, self._wide_dtype(wide))
        d = self._checked_metric(metric, wide)
        found = self._counted_metric_prox(wide, t, d)
        if found is None:
            solution = self.solve_metric_prox(wide, t, d, **options)
            found = solution.x, solution.iterations
        return self._each(lambda y, x: y.astype(x.dtype), found[0], x), found[1]

    def solve_metric_prox(
        self,
        x: Arrays,
        step_size: Scalar,
        metric: Arrays,
        *,
        start: Arrays | None = None,
        rtol: float | None = None,
        max_iters: int = 100,
    ) -> Solution:
        r"""Solve `metric_prox` by proximal gradient, and report convergence.

        It stops by condition (7) of the RAMDA paper: some subgradient of the objective
        is small, and the objective no higher than at ``start``. For every regularizer.

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
        wide = self._checked_wide(x)
        dtype = self._wide_dtype(wide)
        first = wide if start is None else start
        return proximal_gradient(
            self._prox,
            self.value,
            wide,
            check_step_size(step_size, dtype),
            self._checked_metric(metric, wide),
            start=self._each(lambda y: jnp.asarray(y, dtype), first),
            convex=self.is_convex,
            rtol=self._rounding_unit(wide) ** 0.75 if rtol is None else rtol,
            max_iters=max_iters,
        )

    def support(self, x: Arrays) -> jax.Array:
        """Return which units of ``x`` are active.

        Args:
          x: Real floating array.

        Returns:
          Boolean array, one flag per unit: an entry, a group (shape: the lengths of the
          group axes), a singular value (the number of True is the rank), ...
        """
        return self._support(self._checked_wide(x), self._rounding_unit(x))

    def prox_support(self, x: Arrays, step_size: Scalar) -> jax.Array:
        """Return the support of ``prox(x, step_size)``, from the shrunk magnitudes.

        It needs no tolerance: a rank is counted on the singular values that the prox
        itself shrank, not on those of a new SVD.

        Args:
          x: Real floating array.
          step_size: As in `prox`.

        Returns:
          As `support`.
        """
        x = self._checked_wide(x)
        return self._prox_support(x, check_step_size(step_size, self._wide_dtype(x)))

    def snap(self, x: Arrays) -> Arrays:
        """Return ``x`` with the structure restored that rounding blurred.

        ``p + (q - p)`` is exactly ``q`` only where ``q`` is 0: sparsity survives
        `optax.apply_updates`; levels, ranks and sets do not, and are put back here.

        Args:
          x: Real floating array, structured up to rounding.

        Returns:
          Array of the same shape and dtype, exactly structured.
        """
        x = self._each(jnp.asarray, x)
        out = array_from(self._snap, self._checked_wide(x), self._rounding_unit(x))
        return self._each(lambda y, x: y.astype(x.dtype), out, x)

    def unit_sizes(self, shape: Shapes) -> np.ndarray:
        """Return how many entries each unit of `support` has.

        Args:
          shape: Shape of the array; a tuple of shapes if it acts on several.

        Returns:
          Integer array that broadcasts to the support's shape.
        """
        self.check(shape)
        return self._unit_sizes(shape)

    def subgradient_distance(self, x: Arrays, v: Arrays, strength: Scalar) -> jax.Array:
        r"""Return :math:`\operatorname{dist}(v, \lambda\,\partial\psi(x))`.

        Exact for penalties of magnitudes and the sparse group lasso. Else the residual
        :math:`\|x - \operatorname{prox}_{\lambda\psi}(x + v)\|`, which for convex
        :math:`\psi` is a lower bound, zero exactly when the distance is.

        Args:
          x: Real floating array.
          v: Array of the same shape, usually minus a gradient.
          strength: :math:`\lambda`, nonnegative.

        Returns:
          Scalar.
        """
        x, v, level = self._checked_pair(x, v, strength)
        return self._subgradient_distance(x, v, level)

    def margin(self, x: Arrays, v: Arrays, strength: Scalar) -> jax.Array:
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
        x, v, level = self._checked_pair(x, v, strength)
        return self._margin(x, v, level)

    # --- hooks: wide arrays in, wide arrays out ------------------------------------

    @abc.abstractmethod
    def _value(self, x: Arrays) -> jax.Array: ...

    @abc.abstractmethod
    def _prox(self, x: Arrays, t: jax.Array) -> Arrays: ...

    def _check(self, shape: Shapes) -> None:
        del shape

    def _prox_at(
        self,
        center: Callable[..., jax.Array],
        operands: tuple[Any, ...],
        t: jax.Array,
    ) -> Arrays:
        x = self._each(lambda row: center(*row), operands)
        return array_from(self._prox, x, t)

    def _metric_prox(self, x: Arrays, t: jax.Array, d: Arrays) -> Arrays | None:
        """Return the exact solution; None where it takes iterations."""
        del x, t, d
        return None

    def _counted_metric_prox(
        self, x: Arrays, t: jax.Array, d: Arrays
    ) -> tuple[Arrays, jax.Array | None] | None:
        """Return the exact solution, and how many steps it took if that varies."""
        y = array_from(self._metric_prox, x, t, d)
        return None if y is None else (y, None)

    def _contains(self, x: Arrays, eps: float) -> ArrayLike:
        """Return whether ``psi(x)`` is finite, up to rounding in units of ``eps``."""
        del x, eps
        return True

    def _support(self, x: Arrays, eps: float) -> jax.Array:
        del eps
        return x != 0

    def _prox_support(self, x: Arrays, t: jax.Array) -> jax.Array:
        return self._support(self._prox(x, t), self._rounding_unit(x))

    def _snap(self, x: Arrays, eps: float) -> Arrays:
        del eps
        return x

    def _unit_sizes(self, shape: Shapes) -> np.ndarray:
        return np.ones((1,) * len(shape), int)

    def _subgradient_distance(
        self, x: Arrays, v: Arrays, strength: jax.Array
    ) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(x - self._prox(x + v, strength))))

    def _margin(self, x: Arrays, v: Arrays, strength: jax.Array) -> jax.Array:
        raise NotImplementedError(
            f"{self} has no zero units, so it has no nondegeneracy margin. Ask for it "
            "on penalties of entries, groups or singular values."
        )
