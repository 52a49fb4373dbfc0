"""The transformations under test, one row each, and the problem they are tested on.

A transformation joins by adding a row. What it cannot do, or does in another way, is
a field of its row; the tests ask for fields and know no names.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One transformation in one configuration.

    Args:
      name: Id of the tests.
      factory: Function that makes the transformation.
      arguments: Its keyword arguments, fit for `PARAMS`.
      suite: Those for Optax's own suites: they fit any tree and converge on its
        targets. None if another row already stands for the factory there.
      hyperparameters: Names of the arguments that may be numbers, arrays or schedules.
      exact: Arguments under which the params carry the structured iterate's zeros after
        every update; None if there are none.
      neutral: Arguments under which the regularizer must not matter.
      first_step: The params after the first update of a stage, without averaging:
        ``(regularizer, params, grads, learning_rate, strength) -> params``.
      structured: Whether `structured_params` finds a structured iterate in its state.
      restarts: Whether it takes ``restart_steps``.
      averages_gradients: Whether it is dual averaging with weights that grow like
        sqrt(t): within a stage its state sees gradients alone, and has their
        ``mean_gradient()``.
      refuses_complex: Message of the TypeError on complex params.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    arguments: Mapping[str, Any]
    suite: Mapping[str, Any] | None = None
    hyperparameters: tuple[str, ...] = ("learning_rate", "strength", "averaging")
    exact: Mapping[str, Any] | None = None
    neutral: Mapping[str, Any] | None = None
    first_step: Callable[..., Any] | None = None
    structured: bool = False
    restarts: bool = False
    averages_gradients: bool = False
    refuses_complex: str = "parameters must be real floating"

    @property
    def regularizer(self) -> Any:
        return self.arguments["regularizer"]

    def make(self, **changes: Any) -> optax.GradientTransformation:
        """Build the transformation, with some arguments changed."""
        return self.factory(**{**self.arguments, **changes})

    def make_one_stage(self, **changes: Any) -> optax.GradientTransformation:
        """Build it with constant hyperparameters and, unless asked for, no restart."""
        constants = {name: CONSTANTS[name] for name in self.hyperparameters}
        restarts = {"restart_steps": ()} if self.restarts else {}
        return self.make(**{**constants, **restarts, **changes})

    def __str__(self) -> str:
        return self.name


def rows(*fields: str) -> pytest.MarkDecorator:
    """Parametrize a test over the rows in which all these fields are set."""
    chosen = [row for row in ROWS if all(getattr(row, field) for field in fields)]
    assert chosen, f"no row has {fields}"
    return pytest.mark.parametrize("row", chosen, ids=str)


def factories(*fields: str) -> pytest.MarkDecorator:
    """Parametrize a test over the first such row of every factory.

    For what does not depend on the configuration.
    """
    chosen = {
        row.factory: row
        for row in reversed(ROWS)
        if all(getattr(row, field) for field in fields)
    }
    assert chosen, f"no row has {fields}"
    return pytest.mark.parametrize("row", [*chosen.values()][::-1], ids=str)


def _prox_sgd(regularizer, params, grads, learning_rate, strength):
    """One step of proximal SGD, the first of every dual averaging."""
    forward = jax.tree.map(lambda w, g: w - learning_rate * g, params, grads)
    if isinstance(regularizer, rj.Regularizer):
        step = lambda x: regularizer.prox(x, learning_rate * strength)
        return jax.tree.map(step, forward)
    return regularizer.prox(forward, learning_rate * strength)


GROUPS = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])
MIXED = rj.RegularizerMap(
    [
        ("conv/kernel", rj.sparse_group_lasso(group_axes=-2)),
        ("head/bias", None),
        ("head/*", rj.l1(), 0.5),
    ]
)


def _dual_averaging(name: str, arguments: Mapping[str, Any], **fields: Any) -> Row:
    return Row(
        name,
        rj.rmda,
        arguments,
        exact={"averaging": 1.0},
        neutral={"strength": 0.0},
        first_step=_prox_sgd,
        structured=True,
        restarts=True,
        averages_gradients=True,
        **fields,
    )


ROWS = [
    _dual_averaging(
        "rmda-l1",
        dict(learning_rate=0.1, regularizer=rj.l1(), strength=0.4, averaging=0.3),
        # Far from its target without a restart, the averaged gradient remembers the
        # start: the distance falls like 1/t and is 0.003 after 10,000 steps.
        suite=dict(
            learning_rate=0.1, regularizer=rj.l1(), strength=1e-5, averaging=0.03
        ),
    ),
    _dual_averaging(
        "rmda-groups",
        dict(learning_rate=0.1, regularizer=GROUPS, strength=0.3, averaging=0.3),
    ),
    _dual_averaging(
        "rmda-restarts",
        dict(
            learning_rate=optax.exponential_decay(0.15, 1, 0.97),
            regularizer=MIXED,
            strength=optax.linear_schedule(0.2, 0.4, 6),
            averaging=optax.linear_schedule(0.2, 1.0, 6),
            restart_steps=(2, 5),
        ),
        suite=dict(
            learning_rate=0.01,
            regularizer=rj.RegularizerMap([("*", rj.group_lasso(group_axes=-1))]),
            strength=1e-5,
            averaging=0.1,
            restart_steps=tuple(range(1000, 30_000, 1000)),
        ),
    ),
    _dual_averaging(
        "rmda-unregularized",
        dict(
            learning_rate=0.1,
            regularizer=rj.RegularizerMap([("head/*", rj.l1()), ("*", None)]),
            strength=0.4,
            averaging=0.3,
        ),
    ),
]
SUITE_ROWS = [row for row in ROWS if row.suite is not None]

CONSTANTS = {"learning_rate": 0.1, "strength": 0.3, "averaging": 0.5}

SHAPES = {
    "conv": {"bias": (8,), "kernel": (3, 2, 8, 8)},
    "head": {"bias": (8,), "kernel": (16, 8)},
}
STEPS = 8


@functools.cache
def _numbers(seed: int) -> Any:
    """A tree of `SHAPES`: normal numbers in eighths, smaller for every other channel.

    Few digits and factors that are powers of 2: short sums are exact in every dtype.
    """
    rng = np.random.default_rng(seed)

    def leaf(shape: tuple[int, ...]) -> np.ndarray:
        x = np.round(8 * rng.normal(size=shape)) / 8
        if len(shape) > 1:
            x *= np.exp2(-(np.arange(shape[-2]) % 4))[:, None]
        return x

    return jax.tree.map(leaf, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def start(dtype: Any = np.float32) -> Any:
    """Params of which some units are small enough for the structure to catch them."""
    return jax.tree.map(lambda x: jnp.asarray(x / 2, dtype), _numbers(0))


def gradients(steps: int = STEPS, dtype: Any = np.float32) -> list[Any]:
    """Noise around a drift: the same for every test, whatever the params do."""
    return [
        jax.tree.map(
            lambda drift, noise: jnp.asarray((drift + noise) / 2, dtype),
            _numbers(1),
            _numbers(2 + i),
        )
        for i in range(steps)
    ]


def step_of(tx: optax.GradientTransformation) -> Callable[..., tuple[Any, Any]]:
    """``(params, state, grads) -> (params, state)``."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def run(
    tx: optax.GradientTransformation,
    params: Any,
    grads: list[Any],
    state: Any = None,
    *,
    eager: bool = False,
) -> tuple[Any, Any]:
    """Apply every gradient, and return params and state.

    Eager, every operation is a kernel of its own: what is equal in exact terms is then
    equal to the last bit, whatever the compiler would have fused.
    """
    state = tx.init(params) if state is None else state
    step = step_of(tx) if eager else jax.jit(step_of(tx))
    for g in grads:
        params, state = step(params, state, g)
    return params, state


def assert_equal(actual: Any, desired: Any) -> None:
    """Same structure, same dtypes, same bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def assert_close(actual: Any, desired: Any, ulps: float) -> None:
    """Same structure and dtypes, leaves within so many ulps of their largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a), np.asarray(b)
        if not jnp.issubdtype(b.dtype, jnp.floating):
            np.testing.assert_array_equal(a, b, strict=True)
            continue
        scale = np.abs(b).max(initial=0)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=ulps * jnp.finfo(b.dtype).eps * scale
        )
