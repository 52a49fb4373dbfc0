"""Plain JAX: params are a dict, the loop is yours."""

from typing import Any

import jax
import optax

import rmda_jax as rj
from examples.integrations._problem import (
    RULES,
    batches,
    loss,
    optimizer,
    predict,
    start,
)


def train() -> tuple[Any, Any]:
    """Return the params and their structured iterate."""
    tx, params = optimizer(), start()
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(lambda params: loss(predict(params, x), y))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for x, y in batches():
        params, state = step(params, state, x, y)
    return params, rj.structured_params(state, RULES)


if __name__ == "__main__":
    print(RULES.report(train()[1]))
