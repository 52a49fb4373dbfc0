"""How strong a regularizer must be to make each unit zero."""

import jax
import jax.numpy as jnp

from rmda_jax._types import Arrays, Scalar
from rmda_jax.regularizers._checks import check_step_size
from rmda_jax.regularizers._on_leaves import OnLeaves


class CriticalStrengths(OnLeaves):
    """The least strength at which the prox makes each unit zero."""

    def critical_strengths(
        self, center: Arrays, step_size: Scalar, metric: Arrays | None = None
    ) -> jax.Array:
        r"""Return the least strength at which the prox makes each unit zero.

        .. math:: \lambda_u = \min \{\lambda \ge 0 :
            (\operatorname{prox}_{\eta\lambda\psi}(x))_u = 0\},
            \qquad \eta = \text{step\_size}

        From there on the unit stays zero. Sorted, these numbers say which strength
        leaves how many units. Exact up to rounding; in a metric, too, where
        `metric_prox` is.

        Args:
          center: :math:`x`, real floating: what the prox is taken of.
          step_size: :math:`\eta`, the factor in front of strength and :math:`\psi`.
          metric: Positive, as in `metric_prox`; None for the plain `prox`.

        Returns:
          Array of the shape of `support`, float32 or wider. 0 where a unit is zero
          already, infinity where no strength makes it zero, NaN where it holds NaN.

        Raises:
          NotImplementedError: the regularizer makes no units zero as the strength
            grows, or has no closed form in a metric.
          TypeError, ValueError: as in `Regularizer.prox`; ``metric`` does not fit.

        Examples:
          >>> x = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
          >>> rj.group_lasso(0, weighted=False).critical_strengths(x, 0.5)
          Array([10.,  1.,  0.], dtype=float32)
        """
        x = self._checked_wide(center)
        t = check_step_size(step_size, self._wide_dtype(x))
        d = None if metric is None else self._checked_metric(metric, x)
        levels = self._critical_levels(x, d)
        zero = levels == 0
        # Step 0 moves nothing: infinity, but for what is zero already.
        return jnp.where(zero, 0, jnp.where(zero, 1, levels) / jnp.where(zero, 1, t))

    def _critical_levels(self, x: Arrays, d: Arrays | None) -> jax.Array:
        """Return the least step size of the prox per unit; ``d`` None: the plain one.

        Raises:
          NotImplementedError: there is none, or no way to find it.
        """
        del x, d
        raise NotImplementedError(
            f"{self} has no critical strengths: what it makes zero does not depend on "
            "the strength, or there is no formula. Ask for them on penalties of "
            "entries, groups or singular values."
        )
