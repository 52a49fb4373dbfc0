"""The structure that float32 finds, found in bfloat16 and in float16.

The problem of ``examples.identification``: 8 of 40 rows of the optimum are not zero.
The optimizer's sums are in float32 whatever the params are. The gradient of a scaled
loss is unscaled first; if it is not finite it is rejected, and the scale is halved.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import rmda_jax as rj
from examples.identification.problem import NOISE, STRENGTH, Problem, make_problem

ROWS = rj.group_lasso(group_axes=0, weighted=False)
BATCH_SIZE = 32


# Dtypes of the params and of both passes, and what the loss is multiplied by.
PRECISIONS: dict[str, Any] = {
    "float32": (jnp.float32, jnp.float32, 1.0),
    "bfloat16 compute": (jnp.float32, jnp.bfloat16, 1.0),
    "bfloat16 params": (jnp.bfloat16, jnp.bfloat16, 1.0),
    "float16, scaled loss": (jnp.float32, jnp.float16, 2.0**20),
}


def rows(problem: Problem, precision: Any, n_steps: int = 1500) -> Any:
    """Return which rows of the structured iterate are not zero, and the last state."""
    dtype, compute, loss_scale = precision
    stages = rj.stages(0.1, [n_steps // 3, 2 * n_steps // 3], averaging=0.1)
    tx = rj.rmda(regularizer=ROWS, strength=STRENGTH, **stages)
    tx = optax.apply_if_finite(tx, max_consecutive_errors=20)
    inputs, targets = jnp.float32(problem.inputs), jnp.float32(problem.targets)

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state, scale = carry
        which, noise = jax.random.split(key)
        batch = jax.random.randint(which, (BATCH_SIZE,), 0, len(inputs))
        x = inputs[batch] + NOISE * jax.random.normal(noise, inputs[batch].shape)
        x, y = (a.astype(compute) for a in (x, targets[batch]))

        def scaled_loss(params: jax.Array) -> jax.Array:
            error = x @ params.astype(compute) - y
            return scale * jnp.sum(jnp.square(error)) / (2 * BATCH_SIZE)

        # `apply_if_finite` takes gradients of the params' dtype only.
        grads = (jax.grad(scaled_loss)(params) / scale).astype(params.dtype)
        updates, state = tx.update(grads, state, params)
        scale = jnp.where(state.last_finite, scale, scale / 2)
        return (optax.apply_updates(params, updates), state, scale), None

    params = jnp.zeros(problem.optimum.shape, dtype)
    carry = params, tx.init(params), jnp.float32(loss_scale)
    keys = jax.random.split(jax.random.key(0), n_steps)
    (_, state, _), _ = jax.lax.scan(step, carry, keys)
    return ROWS.support(rj.structured_params(state, ROWS)), state


if __name__ == "__main__":
    for name, precision in PRECISIONS.items():
        found, state = rows(make_problem(), precision)
        print(f"{name}: {found.sum()} rows, {state.total_notfinite} gradients rejected")
