"""Flax NNX by hand: split the model, train its params as a pytree, merge again."""

from typing import Any

import jax
import optax
from flax import nnx

import rmda_jax as rj
from examples.integrations._problem import RULES, batches, loss, optimizer, start
from examples.integrations.nnx_optimizer import Model


def train() -> tuple[nnx.State, nnx.State]:
    """Return the params and their structured iterate."""
    model = Model(nnx.Rngs(0))
    nnx.update(model, start())
    graph, params = nnx.split(model)
    tx = optimizer()
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        predict = lambda params: nnx.merge(graph, params)(x)
        grads = jax.grad(lambda params: loss(predict(params), y))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for x, y in batches():
        params, state = step(params, state, x, y)
    return params, rj.structured_params(state, RULES)


if __name__ == "__main__":
    print(RULES.report(train()[1]))
