"""Flax linen: the transformation inside a `TrainState`."""

from typing import Any

import jax
from flax import linen
from flax.training.train_state import TrainState

import rmda_jax as rj
from examples.integrations._problem import (
    N_HIDDEN,
    N_OUTPUTS,
    RULES,
    batches,
    loss,
    optimizer,
    start,
)


class Model(linen.Module):
    """The model of `_problem`."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = jax.nn.relu(linen.Dense(N_HIDDEN, name="hidden")(x))
        return linen.Dense(N_OUTPUTS, name="out")(h)


def train() -> tuple[Any, Any]:
    """Return the params and their structured iterate."""
    state = TrainState.create(apply_fn=Model().apply, params=start(), tx=optimizer())

    @jax.jit
    def step(state: TrainState, x: jax.Array, y: jax.Array) -> TrainState:
        predict = lambda params: state.apply_fn({"params": params}, x)
        grads = jax.grad(lambda params: loss(predict(params), y))(state.params)
        return state.apply_gradients(grads=grads)

    for x, y in batches():
        state = step(state, x, y)
    return state.params, rj.structured_params(state.opt_state, RULES)


if __name__ == "__main__":
    print(RULES.report(train()[1]))
