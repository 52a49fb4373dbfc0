"""The moments of Adam, which ProxGen and ProxSSI share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._common import (
    accumulators,
    check_hyperparameter,
    check_params,
    evaluate,
)


class AdamState(NamedTuple):
    """State of `proxgen` and `proxssi`."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    mu: Params  # accumulator dtype: average of the gradients
    nu: Params  # accumulator dtype: average of their squares
    nu_max: Params  # accumulator dtype: largest so far; () without amsgrad


class AdamOptions(NamedTuple):
    """What both take beside a regularizer."""

    learning_rate: ScalarOrSchedule
    strength: ScalarOrSchedule
    b1: ScalarOrSchedule
    b2: ScalarOrSchedule
    eps: ScalarOrSchedule
    weight_decay: ScalarOrSchedule
    accumulator_dtype: Any

    def check(self) -> None:
        """Raise if a number lies outside its domain."""
        for name in ("learning_rate", "strength", "weight_decay"):
            check_hyperparameter(name, getattr(self, name))
        for name in ("b1", "b2"):
            check_hyperparameter(name, getattr(self, name), below=1)
        check_hyperparameter("eps", self.eps, positive=True)

    def at(self, count: jax.Array) -> "AdamScalars":
        """Return the hyperparameters of the update that has ``count`` behind it."""
        numbers = (evaluate(value, count) for value in self[:-1])
        return AdamScalars(*numbers)

    def init(
        self, regularizer: RegularizerSpec, params: Params, amsgrad: bool
    ) -> AdamState:
        """Return the state before the first update."""
        check_params(params)
        _ = resolve(regularizer, params)

        def zeros() -> Params:
            return accumulators(params, self.accumulator_dtype)

        return AdamState(
            count=jnp.zeros((), jnp.int32),
            mu=zeros(),
            nu=zeros(),
            nu_max=zeros() if amsgrad else (),
        )


class AdamScalars(NamedTuple):
    """The hyperparameters of one update, as arrays of rank 0."""

    learning_rate: jax.Array
    strength: jax.Array
    b1: jax.Array
    b2: jax.Array
    eps: jax.Array
    weight_decay: jax.Array

    def moments(
        self, g: jax.Array, mu: jax.Array, nu: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return both moments after the gradient ``g``."""
        b1, b2 = self.b1.astype(mu.dtype), self.b2.astype(nu.dtype)
        return b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * jnp.square(g)
