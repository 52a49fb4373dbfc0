"""Haiku: params are dicts, a kernel is called ``w``."""

from typing import Any

import haiku as hk
import jax
import optax

import rmda_jax as rj
from examples.integrations._problem import (
    N_HIDDEN,
    N_OUTPUTS,
    batches,
    loss,
    optimizer,
    start,
)

RULES = rj.RegularizerMap([("*/w", rj.group_lasso(group_axes=-2))])


@hk.without_apply_rng
@hk.transform
def model(x: jax.Array) -> jax.Array:
    """Return the outputs of the model of `_problem`."""
    h = jax.nn.relu(hk.Linear(N_HIDDEN, name="hidden")(x))
    return hk.Linear(N_OUTPUTS, name="out")(h)


def train() -> tuple[Any, Any]:
    """Return the params and their structured iterate."""
    params = {
        name: {"w": layer["kernel"], "b": layer["bias"]}
        for name, layer in start().items()
    }
    tx = optimizer(RULES)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(lambda params: loss(model.apply(params, x), y))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for x, y in batches():
        params, state = step(params, state, x, y)
    return params, rj.structured_params(state, RULES)


if __name__ == "__main__":
    print(RULES.report(train()[1]))
