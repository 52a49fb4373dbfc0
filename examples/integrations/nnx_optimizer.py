"""Flax NNX: `nnx.Optimizer` around the transformation, and nothing else changes."""

import jax
from flax import nnx

import rmda_jax as rj
from examples.integrations._problem import (
    N_HIDDEN,
    N_INPUTS,
    N_OUTPUTS,
    RULES,
    batches,
    loss,
    optimizer,
    start,
)


class Model(nnx.Module):
    """The model of `_problem`."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(N_INPUTS, N_HIDDEN, rngs=rngs)
        self.out = nnx.Linear(N_HIDDEN, N_OUTPUTS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(jax.nn.relu(self.hidden(x)))


def train() -> tuple[nnx.State, nnx.State]:
    """Return the params and their structured iterate."""
    model = Model(nnx.Rngs(0))
    nnx.update(model, start())
    optimize = nnx.Optimizer(model, optimizer(), wrt=nnx.Param)

    @nnx.jit
    def step(model: Model, optimize: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
        grads = nnx.grad(lambda model: loss(model(x), y))(model)
        optimize.update(model, grads)

    for x, y in batches():
        step(model, optimize, x, y)
    return nnx.state(model), rj.structured_params(optimize.opt_state, RULES)


if __name__ == "__main__":
    print(RULES.report(train()[1]))
