"""An average of the params that keeps the zeros, beside one that does not.

An average of params is never zero where one of them was not. RMDA's params are such an
average already. If you keep another, take the values from it and the zeros from the
structured iterate. This is right for zeros; ranks and levels do not survive averages.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import rmda_jax as rj
from examples.integrations._problem import RULES, batches, optimizer, start, step_of


def with_zeros_of(structured: Any, average: Any) -> Any:
    """Return the average with the zeros of the structured iterate."""
    keep = lambda s, a: jnp.where(s == 0, 0, a)
    return jax.tree.map(keep, structured, average)


def train(decay: float = 0.9) -> tuple[Any, Any, Any]:
    """Return the average of the params, the same with zeros, and their source."""
    tx, params = optimizer(), start()
    average, step = params, step_of(tx)
    tree = params, tx.init(params)
    for x, y in batches():
        tree = step(tree, x, y)
        average = optax.incremental_update(tree[0], average, 1 - decay)
    structured = rj.structured_params(tree[1], RULES)
    return average, with_zeros_of(structured, average), structured


if __name__ == "__main__":
    for tree in train():
        print(RULES.report(tree))
