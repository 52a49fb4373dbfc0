"""What the scripts share: data of which few inputs matter, start, rules, optimizer."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmda_jax as rj

N_INPUTS, N_HIDDEN, N_OUTPUTS, N_STEPS = 20, 16, 2, 100

# A row of a kernel is an input of its layer: an input of the model, a hidden neuron.
RULES = rj.RegularizerMap([("*kernel", rj.group_lasso(group_axes=-2))])


def optimizer(rules: rj.RegularizerMap = RULES) -> optax.GradientTransformation:
    """Return RMDA in two stages, behind a clipping of the gradients."""
    stages = rj.stages(0.3, milestones=[50], averaging=0.1)
    return optax.chain(
        optax.clip(1.0), rj.rmda(regularizer=rules, strength=0.04, **stages)
    )


def start() -> dict[str, Any]:
    """Return the params to start from, as plain dicts."""
    rng = np.random.default_rng(0)

    def layer(n_in: int, n_out: int) -> dict[str, jax.Array]:
        kernel = rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)
        return {"kernel": jnp.float32(kernel), "bias": jnp.zeros(n_out)}

    return {"hidden": layer(N_INPUTS, N_HIDDEN), "out": layer(N_HIDDEN, N_OUTPUTS)}


def batches(n_steps: int = N_STEPS, size: int = 32) -> Iterator[Any]:
    """Yield inputs and targets; the first 3 inputs make the targets."""
    rng = np.random.default_rng(1)
    mix = np.array([[2.0, 1.0], [-2.0, 1.0], [1.0, -2.0]])
    for _ in range(n_steps):
        x = rng.normal(size=(size, N_INPUTS))
        y = x[:, :3] @ mix + 0.1 * rng.normal(size=(size, N_OUTPUTS))
        yield jnp.float32(x), jnp.float32(y)


def predict(params: Any, x: jax.Array) -> jax.Array:
    """Return the outputs of the model, in plain JAX."""
    h = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return h @ params["out"]["kernel"] + params["out"]["bias"]


def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean squared error."""
    return jnp.mean(jnp.square(outputs - y))


def step_of(
    tx: optax.GradientTransformation, predict: Callable[..., jax.Array] = predict
) -> Callable[..., Any]:
    """Return ``((params, state), x, y) -> (params, state)``, compiled."""

    @jax.jit
    def step(tree: Any, x: jax.Array, y: jax.Array) -> Any:
        params, state = tree
        grads = jax.grad(lambda params: loss(predict(params, x), y))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step
