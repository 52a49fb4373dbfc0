"""Feeding recorded gradients to a transformation, and comparing where it goes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.fixtures.trajectories import Trajectory


def replay(tx, trajectory: Trajectory, dtype=np.float64):
    """Feed the recorded gradients; return the final state and all params."""
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), trajectory.init)
    grads = jax.tree.map(lambda x: jnp.asarray(x, dtype), trajectory.grads)

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), history = jax.lax.scan(step, (params, tx.init(params)), grads)
    return state, history


def assert_same(history, trajectory: Trajectory, tolerance: float, zeros: bool = True):
    """Relative to each leaf's largest value; and, unless told, with the same zeros."""
    for name, expected in trajectory.params.items():
        actual = np.asarray(history[name])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=tolerance * scale, err_msg=name
        )
        if zeros:
            np.testing.assert_array_equal(actual == 0, expected == 0, err_msg=name)


def deviation(history, trajectory: Trajectory) -> float:
    """The largest absolute difference from the recorded params."""
    return max(
        np.abs(np.asarray(history[name]) - expected).max()
        for name, expected in trajectory.params.items()
    )
