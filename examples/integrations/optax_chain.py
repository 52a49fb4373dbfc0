"""Around RMDA in Optax: microbatches and clipping before, monitors before and after.

What changes updates may not stand after it; what looks at them may.
"""

from typing import Any

import jax
import optax

import rmda_jax as rj
from examples.integrations._problem import RULES, batches, loss, predict, start


def optimizer() -> optax.GradientTransformation:
    """Return RMDA with whatever else may stand in its chain."""
    stages = rj.stages(0.3, milestones=[50], averaging=0.1)
    return optax.chain(
        optax.monitor({"gradient_norm": optax.tree.norm}),
        optax.clip_by_global_norm(1.0),
        rj.rmda(regularizer=RULES, strength=0.04, **stages),
        optax.monitor({"update_norm": optax.tree.norm}),
    )


def gradients(params: Any, x: jax.Array, y: jax.Array, size: int = 8) -> Any:
    """Return the mean gradient of a batch, a few examples at a time."""
    gradient = jax.grad(lambda params, x, y: loss(predict(params, x), y))
    mean = optax.microbatching.AccumulationType.MEAN
    return optax.microbatch(gradient, (1, 2), size, mean)(params, x, y)


def train() -> tuple[Any, Any]:
    """Return the params and the state, whose monitors `optax.tree.get` reads."""
    tx, params = optimizer(), start()
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        updates, state = tx.update(gradients(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    for x, y in batches():
        params, state = step(params, state, x, y)
    return params, state


if __name__ == "__main__":
    _, state = train()
    print({key: optax.tree.get(state, key) for key in ("gradient_norm", "update_norm")})
    print(RULES.report(rj.structured_params(state, RULES)))
