"""Equinox: train the arrays of a module, and leave the rest of it where it is.

The layer is written by hand, for the sake of the same bits as everywhere. For
`eqx.nn.Linear`, whose weights are (out, in), the rule of an input is
``("*weight", rj.group_lasso(group_axes=-1))``.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

import rmda_jax as rj
from examples.integrations._problem import RULES, batches, loss, optimizer, start


class Linear(eqx.Module):
    """A layer whose kernel is (in, out)."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel + self.bias


class Model(eqx.Module):
    """The model of `_problem`, with a leaf that is no array."""

    hidden: Linear
    out: Linear
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.activation(self.hidden(x)))


def train() -> tuple[Model, Model]:
    """Return the params and their structured iterate."""
    model = Model(**{name: Linear(**layer) for name, layer in start().items()})
    tx = optimizer()
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Model, state: Any, x: jax.Array, y: jax.Array) -> tuple[Model, Any]:
        grads = eqx.filter_grad(lambda model: loss(model(x), y))(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state

    for x, y in batches():
        model, state = step(model, state, x, y)
    return model, rj.structured_params(state, RULES)


if __name__ == "__main__":
    print(RULES.report(train()[1]))
