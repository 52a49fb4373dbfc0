"""Inside `shard_map`: average the loss, and keep groups in one piece.

Data parallel, a user owes one thing: the mean over the named axis. Taken of the loss,
gradients are those of the whole batch and the same on every device; then the update is.

What is sharded arrives in pieces, and a transformation sees no more than its piece:
**a group that lies across devices falls into several**, and nothing can tell. Compute
gradients inside, and update outside, where arrays are whole and `jax.jit` sees to it.
"""

from typing import Any

import jax
import optax
from jax.sharding import AxisType, Mesh, PartitionSpec as P

import rmda_jax as rj
from examples.integrations._problem import (
    RULES,
    batches,
    loss,
    optimizer,
    predict,
    start,
)


def train(mesh: Mesh) -> tuple[Any, Any]:
    """Return params and state of data parallel training."""
    tx, params = optimizer(), start()
    tree = params, tx.init(params)

    def step(tree: Any, x: jax.Array, y: jax.Array) -> Any:
        params, state = tree
        mean_loss = lambda params: jax.lax.pmean(loss(predict(params, x), y), "data")
        updates, state = tx.update(jax.grad(mean_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    specs = dict(in_specs=(P(), P("data"), P("data")), out_specs=P())
    step = jax.jit(jax.shard_map(step, mesh=mesh, **specs))
    for x, y in batches():
        tree = step(tree, x, y)
    return tree


if __name__ == "__main__":
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    print(RULES.report(rj.structured_params(train(mesh)[1], RULES)))
