"""A metric prox as a group lasso, whose norms somebody else finds: for all leaves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rmda_jax._types import Arrays, Scalar
from rmda_jax.regularizers._checks import check_step_size
from rmda_jax.regularizers._on_leaves import OnLeaves
from rmda_jax.regularizers.solvers._metric_prox import minimiser
from rmda_jax.regularizers.solvers._together import GroupLasso


class Posed(OnLeaves):
    """The metric prox where it is that of a group lasso."""

    def posed_metric_prox(
        self, x: Arrays, step_size: Scalar, metric: Arrays
    ) -> tuple[GroupLasso, Callable[[jax.Array], Arrays]] | None:
        """Return the group lasso of `metric_prox`, and how its norms give the prox.

        Takes and raises what `Regularizer.metric_prox` does. None where it is none.
        """
        x = self._each(jnp.asarray, x)
        wide = self._checked_wide(x)
        t = check_step_size(step_size, self._wide_dtype(wide))
        problem = self._as_group_lasso(wide, t, self._checked_metric(metric, wide))
        if problem is None:
            return None

        def finish(r: jax.Array) -> Arrays:
            y = minimiser(problem, r)
            y = self._each(lambda x, y: jnp.where(t == 0, x, y), wide, y)
            return self._each(lambda y, x: y.astype(x.dtype), y, x)

        return problem, finish

    def _as_group_lasso(self, x: Arrays, t: jax.Array, d: Arrays) -> GroupLasso | None:
        """Return the group lasso with the same minimiser, unless ``t`` is 0."""
        del x, t, d
        return None
