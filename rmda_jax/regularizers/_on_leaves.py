"""What lets one regularizer act on one array, and another on several together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax._types import (
    Arrays,
    Scalar,
    Shapes,
    dtype_name,
    shape_dtype_of,
    wide_dtype,
)
from rmda_jax.regularizers._checks import check_metric, check_step_size, rounding_unit


class OnLeaves:
    """One array, as it is, or several as a tuple: checked and widened alike.

    Several arrays are widened to one dtype, and the results go back to the dtype of
    each.
    """

    @property
    def n_leaves(self) -> int | None:
        """How many arrays it acts on together, as a tuple; None if on one array."""
        return None

    def _each(self, fn: Callable[..., Any], *operands: Any) -> Any:
        """Call ``fn`` on the operands, leaf by leaf if they are tuples of arrays."""
        if self.n_leaves is None:
            return fn(*operands)
        return tuple(fn(*row) for row in zip(*operands, strict=True))

    def _leaves(self, x: Arrays) -> tuple[Any, ...]:
        return (x,) if self.n_leaves is None else tuple(x)

    def _check_dtypes(self, shape: Shapes, dtype: Any) -> None:
        """Raise unless there are as many arrays as it acts on, all real floating."""
        n = self.n_leaves
        shapes = (shape,) if n is None else tuple(shape)
        if n is not None and len(shapes) != n:
            raise ValueError(
                f"{self} acts on {n} arrays together, one per tied axis, got shapes "
                f"{shapes}. Give a tuple of as many arrays."
            )
        dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(shapes)
        for one, its_dtype in zip(shapes, dtypes, strict=True):
            if not jnp.issubdtype(its_dtype, jnp.floating):
                raise TypeError(
                    "a regularizer needs a real floating array, got dtype "
                    f"{dtype_name(its_dtype)} and shape {one}. Leave it out of the "
                    "rules."
                )

    def _check_like(self, x: Arrays) -> None:
        """Check arrays, or what has their shapes and dtypes."""
        leaves = x if self.n_leaves is not None else (x,)
        shapes, dtypes = zip(*map(shape_dtype_of, leaves), strict=True)
        if self.n_leaves is None:
            self.check(shapes[0], dtypes[0])
        else:
            self.check(shapes, dtypes)

    def check(self, shape: Shapes, dtype: Any = jnp.float32) -> None:
        """Raise if arrays of this shape and dtype cannot carry the structure."""
        raise NotImplementedError

    def _checked_wide(self, x: Arrays) -> Arrays:
        """Check an array and widen it; several, to one dtype."""
        self._check_like(x)
        dtype = self._wide_dtype(x)
        return self._each(lambda y: jnp.asarray(y, dtype), x)

    def _checked_metric(self, metric: Arrays, x: Arrays) -> Arrays:
        if self.n_leaves is not None and not isinstance(metric, tuple | list):
            metric = (metric,) * self.n_leaves
        return self._each(check_metric, metric, x)

    def _checked_pair(
        self, x: Arrays, v: Arrays, strength: Scalar
    ) -> tuple[Arrays, Arrays, jax.Array]:
        x = self._checked_wide(x)
        dtype = self._wide_dtype(x)
        v = self._each(lambda y: jnp.asarray(y, dtype), v)
        return x, v, check_step_size(strength, dtype)

    def _wide_dtype(self, x: Arrays) -> Any:
        return wide_dtype(*(shape_dtype_of(y)[1] for y in self._leaves(x)))

    def _rounding_unit(self, x: Arrays) -> float:
        return max(map(rounding_unit, self._leaves(x)))
