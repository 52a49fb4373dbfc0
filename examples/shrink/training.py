"""Train by RMDA until units are zero: what becomes of a model that shrinks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import rmda_jax as rj

Batches = Callable[[np.random.Generator], tuple[Any, Any]]


def train(
    loss: Callable[..., jax.Array],
    params: Any,
    batches: Batches,
    regularizer: Any,
    *,
    learning_rate: float,
    strength: float,
    steps: int,
    seed: int = 0,
) -> Any:
    """Return the structured params after some steps of RMDA.

    The learning rate falls to a tenth after 70 % and after 90 % of the steps, where
    RMDA begins a new stage; within the last one it ceases to average.
    """
    stages = rj.stages(
        learning_rate,
        milestones=[steps * 7 // 10, steps * 9 // 10],
        averaging=0.1,
        ramp="sqrt",
    )
    tx = rj.rmda(regularizer=regularizer, strength=strength, **stages)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, *batch: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(loss)(params, *batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(seed)
    state = jax.jit(tx.init)(params)
    params = jax.tree.map(lambda x: x.copy(), params)
    for _ in range(steps):
        params, state = step(params, state, *batches(rng))
    return rj.structured_params(state, regularizer)
