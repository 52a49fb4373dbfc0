"""How much noise is left in the gradients that RMDA and ProxSGD follow."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rmda_jax as rj
from examples.identification.methods import METHODS, MOMENTUM, REGULARIZER
from examples.identification.problem import STRENGTH


def laws(t: np.ndarray) -> dict[str, np.ndarray]:
    """Return the noise left, of 1, in the gradient that a method follows at step t."""
    rho = 1 - MOMENTUM
    return {
        "RMDA": np.sqrt(9 / (8 * t)),
        "ProxSGD": np.full(len(t), np.sqrt(rho / (2 - rho))),
    }


@functools.partial(jax.jit, static_argnames=("n_steps", "n_entries"))
def variance_law(n_steps: int = 1000, n_entries: int = 10_000) -> dict[str, jax.Array]:
    """Return the noise left in the gradients that RMDA and ProxSGD follow, by step.

    The params stay where they are, and the gradient of every entry is 1 + z with a new
    standard normal z at each step. Over the entries, the deviation of RMDA's averaged
    gradient should be sqrt(9 / (8 t)), that of ProxSGD's momentum stay above
    sqrt(rho / (2 - rho)).
    """
    params = jnp.zeros(n_entries)
    rmda = rj.rmda(METHODS["RMDA"].learning_rate, REGULARIZER, STRENGTH)
    proxsgd = rj.proxsgd(1.0, REGULARIZER, STRENGTH, averaging=1 - MOMENTUM)

    def step(states: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        grads = 1 + jax.random.normal(key, params.shape)
        _, dual = rmda.update(grads, states[0], params)
        _, primal = proxsgd.update(grads, states[1], params)
        noise = {"RMDA": jnp.std(dual.mean_gradient()), "ProxSGD": jnp.std(primal.mu)}
        return (dual, primal), noise

    keys = jax.random.split(jax.random.key(0), n_steps)
    return jax.lax.scan(step, (rmda.init(params), proxsgd.init(params)), keys)[1]
