"""Laws of a transformation's programs: pure, compiled, scanned, batched."""

import jax
import jax.numpy as jnp

from rmda_jax.testing._trial import (
    Trial,
    copied,
    fail,
    numbers,
    require_near,
    require_same,
    scanned,
    stacked,
    step_of,
    train,
)


def check_pure(trial: Trial) -> None:
    """Check that the same arguments give the same update, and are left alone.

    Two calls of one ``update``, and those of two transformations made alike, return the
    same bits: nothing is remembered outside the state. Containers of the arguments are
    not changed in place.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: something is remembered, or changed.
    """
    law, gradient = "purity", trial.gradients[0]
    params, state = copied((trial.params, trial.tx.init(trial.params)))
    first = trial.tx.update(gradient, state, params)
    require_same(params, trial.params, law, "changes params in place")
    require_same(state, trial.tx.init(trial.params), law, "changes its state in place")
    require_same(
        trial.tx.update(copied(trial.gradients[0]), state, params), first, law,
        "gives another update when called again",
    )  # fmt: skip
    other = trial.make()
    require_same(other.init(params), state, law, "inits another state when made again")
    says = "gives another update when made again"
    require_same(other.update(gradient, state, params), first, law, says)


def check_compiled(trial: Trial) -> None:
    """Check that compiled steps equal eager ones, and are compiled once.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: they differ by more than rounding, or every step is traced.
    """
    law, traces = "compiled", 0

    def counted(*arguments):
        nonlocal traces
        traces += 1
        return step_of(trial.tx)(*arguments)

    start = trial.params, trial.tx.init(trial.params)
    compiled = train(jax.jit(counted), *start, trial.gradients)[-1]
    if traces > 1:
        fail(
            law,
            f"is traced {traces} times in {len(trial.gradients)} steps. Keep shapes, "
            "dtypes and weak types of the state, and branch on no number.",
        )
    eager = train(step_of(trial.tx), *start, trial.gradients)[-1]
    require_near(compiled, eager, trial.rounding, law, "differs when compiled")


def check_scan(trial: Trial) -> None:
    """Check that `jax.lax.scan` over the gradients equals the loop over them.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: they differ by more than rounding, or cannot be scanned.
    """
    law = "scan"
    program = jax.jit(lambda params, gs: scanned(trial.tx, params, gs))
    try:
        found = program(trial.params, stacked(trial.gradients))
    except TypeError as error:
        fail(law, f"cannot be the body of a scan: {error}", error)
    require_near(found, trial.history[-1], trial.rounding, law, "differs in a scan")


def check_batches(trial: Trial) -> None:
    """Check that `jax.vmap` over params, and over strength, equals a loop.

    The params are scaled by a half, 1 and 2. If ``make`` has a parameter ``strength``,
    it is traced: 0, half, once and twice its value. Zeros of the params must be the
    same.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: they differ by more than rounding.
    """
    law = "batches"
    scales = jnp.array([1.0, 0.5, 1.0, 2.0])
    base = trial.default("strength") if trial.takes("strength") else None
    base = base if isinstance(base, int | float) else 0.1
    strengths = base * jnp.array([0.0, 0.5, 1.0, 2.0])

    def alone(strength, scale):
        named = {"strength": strength} if trial.takes("strength") else {}
        params = jax.tree.map(lambda w: (scale * w).astype(w.dtype), trial.params)
        return scanned(trial.make(**named), params, gradients)

    gradients = stacked(trial.gradients)
    batch = jax.jit(jax.vmap(alone))(strengths, scales)
    compiled = jax.jit(alone)
    for lane, arguments in enumerate(zip(strengths, scales, strict=True)):
        wanted = compiled(*arguments)
        got = jax.tree.map(lambda x, lane=lane: x[lane], batch)
        says = f"differs under vmap in lane {lane}"
        require_near(got, wanted, trial.rounding, law, says)
        pairs = zip(*map(jax.tree.leaves, (got[0], wanted[0])), strict=True)
        if any(((numbers(x) == 0) != (numbers(y) == 0)).any() for x, y in pairs):
            fail(law, f"has other zeros under vmap in lane {lane}.")
