"""The moments of Adam, which ProxGen and ProxSSI share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.specs._resolve import RegularizerSpec
from rmda_jax.transforms._arguments import (
    check_hyperparameter,
    check_params,
    evaluate,
)
from rmda_jax.transforms._state import accumulators
from rmda_jax.transforms._strength import check_strength, initial_strength


class ProxAdamState(NamedTuple):
    """State of `proxgen` and `proxssi`."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    strength: Any  # floating: lambda of the last update; for a budget, one a leaf
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
        check_strength(self.strength)
        for name in ("learning_rate", "weight_decay"):
            check_hyperparameter(name, getattr(self, name))
        for name in ("b1", "b2"):
            check_hyperparameter(name, getattr(self, name), below=1)
        check_hyperparameter("eps", self.eps, positive=True)

    def at(self, count: jax.Array) -> "AdamScalars":
        """Return the hyperparameters of the update that has ``count`` behind it."""
        names = AdamScalars._fields
        return AdamScalars(*(evaluate(getattr(self, name), count) for name in names))

    def init(
        self, regularizer: RegularizerSpec, params: Params, amsgrad: bool
    ) -> ProxAdamState:
        """Return the state before the first update."""
        check_params(params)

        def zeros() -> Params:
            return accumulators(params, self.accumulator_dtype)

        return ProxAdamState(
            count=jnp.zeros((), jnp.int32),
            strength=initial_strength(self.strength, regularizer, params, metric=True),
            mu=zeros(),
            nu=zeros(),
            nu_max=zeros() if amsgrad else (),
        )


class AdamScalars(NamedTuple):
    """The hyperparameters of one update, as arrays of rank 0."""

    learning_rate: jax.Array
    b1: jax.Array
    b2: jax.Array
    eps: jax.Array
    weight_decay: jax.Array

    def moments(
        self, g: list[jax.Array], mu: list[jax.Array], nu: list[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Return the averages of the gradients ``g`` and of their squares."""

        def average(decay: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
            decay = decay.astype(old.dtype)
            return decay * old + (1 - decay) * new

        # m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        mu = jax.tree.map(lambda m, g: average(self.b1, m, g), mu, g)
        # v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        nu = jax.tree.map(lambda v, g: average(self.b2, v, jnp.square(g)), nu, g)
        return mu, nu
