"""Methods and optimizers for the tests of sparse training, and runs of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmda_jax.transforms._rigl import rigl
from rmda_jax.transforms._rigl_params import rigl_params

SHAPES = {"conv": {"kernel": (3, 3, 4, 8), "bias": (8,)}, "head": {"kernel": (16, 10)}}
METHODS = {
    "rigl": {},
    "set": {"grow": "random"},
    "static": {"grow": None},
    "pruning": {"grow": None, "gradual": True},
    "granet": {"gradual": True},
}
STEPS = 9
ADAM = optax.adam(0.05)
# An optimizer that moves even what has neither gradient nor value.
EVERYWHERE = optax.stateless(
    lambda updates, params: jax.tree.map(lambda u: u + 1.0, updates)
)
LABELS = {"conv": {"kernel": "a", "bias": "b"}, "head": {"kernel": "a"}}
INNERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": ADAM,
    "adamw": optax.adamw(0.05, weight_decay=0.1),
    "adagrad": optax.adagrad(0.1, initial_accumulator_value=0.3),
    "rprop": optax.rprop(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=8),
    "noisy": optax.noisy_sgd(0.1, key=jax.random.key(1)),
    "everywhere": optax.chain(optax.scale(-0.1), EVERYWHERE),
    "injected": optax.inject_hyperparams(optax.adam)(
        optax.linear_schedule(0.1, 0.01, STEPS)
    ),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), ADAM),
    "partition": optax.partition({"a": ADAM, "b": optax.sgd(0.1, 0.9)}, LABELS),
    "masked": optax.chain(
        optax.masked(optax.trace(0.9), lambda p: jax.tree.map(lambda x: x.ndim > 2, p)),
        optax.scale(-0.1),
    ),
    "accumulating": optax.MultiSteps(ADAM, 2),
    "schedule-free": optax.contrib.schedule_free_adamw(0.1),
}


def make(inner=ADAM, sparsity=0.8, **changes):
    """Rewires at counts 2, 4 and 6."""
    arguments = {"update_every": 2, "end_step": 6, "drop_fraction": 0.5, **changes}
    return rigl(inner, sparsity, **arguments)


def tree(seed: int, dtype=np.float32):
    """Params or gradients: normal entries in `SHAPES`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def gradients(steps: int = STEPS, dtype=np.float32):
    """The same for every test, whatever the params do."""
    return [tree(10 + i, dtype) for i in range(steps)]


def step_of(tx):
    """``(grads, state, params) -> (params, state)``."""

    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


jitted = functools.cache(lambda tx: jax.jit(step_of(tx)))


def run(tx, params=None, grads=None, step=None):
    """Every (params, state) from the first on, which are masked."""
    params = tree(0) if params is None else params
    state = tx.init(params)
    history = [(rigl_params(state, params), state)]
    for g in gradients() if grads is None else grads:
        params, state = history[-1]
        history.append((step or jitted(tx))(g, state, params))
    return jax.device_get(history)


@functools.cache
def history_of(inner: str = "adam", method: str = "rigl"):
    """The run with one of `INNERS`, by one of `METHODS`."""
    return run(make(INNERS[inner], **METHODS[method]))


def assert_equal(actual, desired):
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in leaves(actual, desired):
        np.testing.assert_array_equal(a, b, strict=True)


def assert_close(actual, desired):
    """Up to the rounding of `STEPS` float32 steps."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in leaves(actual, desired):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def leaves(*trees):
    """The leaves of all the trees, side by side."""
    return zip(*map(jax.tree.leaves, trees), strict=True)


def counts(masks) -> list[int]:
    """How many flags are set, leaf by leaf."""
    return [int(np.sum(mask)) for mask in jax.tree.leaves(masks)]
