"""Laws of compiled programs: jit, vmap, dtypes, and what a static argument must be."""

import collections
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import wide_dtype
from rmda_jax.regularizers import Regularizer
from rmda_jax.testing._answers import checked
from rmda_jax.testing._numerics import (
    BATCH,
    epsilon,
    noise,
    proxes,
    require,
    require_close,
)


def check_jit(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that compiling changes nothing but the last bits.

    Prox, prox under `jax.jit` and `prox_at` with a centre that is computed from two
    operands have the same zeros, and the same values up to rounding.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.

    Raises:
      AssertionError: they differ.
    """
    x, law = checked(regularizer, x, step_size), "jit"
    eager = np.asarray(regularizer.prox(x, step_size))
    compiled = _prox(regularizer, x, step_size)[0]
    # Half of x is exact, and so is its double: the centre is x, to the bit.
    split = np.asarray(_prox_of_sum(regularizer, x / 2, x / 2, step_size))
    rounding = 16 * epsilon(x) * np.abs(x).max(initial=0)
    for name, other in (("jit", compiled), ("prox_at", split)):
        same = ((other == 0) == (eager == 0)).all()
        require(same, law, regularizer, f"has other zeros under {name}.")
        says = f"differs under {name}"
        require_close(other, eager, rounding, law, regularizer, says)


def check_vmap(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that `jax.vmap` over arrays and step sizes equals a loop.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`, scaled from 0 to 3 along the batch.

    Raises:
      AssertionError: they differ.
    """
    x, law = checked(regularizer, x, step_size), "vmap"
    xs = noise(x, BATCH)
    steps = (step_size * np.linspace(0, 3, BATCH)).astype(x.dtype)
    batch = proxes(regularizer, xs, steps)
    for row in range(0, BATCH, 3):
        alone = _prox(regularizer, xs[row], steps[row])[0]
        same = ((batch[row] == 0) == (alone == 0)).all()
        require(same, law, regularizer, "has other zeros under vmap.")
        rounding = 16 * epsilon(x) * np.abs(xs[row]).max(initial=0)
        says = "differs under vmap"
        require_close(batch[row], alone, rounding, law, regularizer, says)


def check_dtypes(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that dtypes are kept, and half precision is float32 rounded once.

    For bfloat16 and float16 the prox is that of the same numbers in float32, rounded:
    within one unit in the last place, its zeros the same, its value finite.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.

    Raises:
      AssertionError: a dtype changes, or arithmetic is done in half precision.
    """
    x, law = checked(regularizer, x, step_size), "dtypes"
    for half in (jnp.bfloat16, jnp.float16):
        low = x.astype(half)
        got, value = _prox(regularizer, low, step_size)
        name = jnp.dtype(half).name
        require(got.dtype == half, law, regularizer, f"turns {name} into {got.dtype}.")
        wide = _prox(regularizer, low.astype(np.float32), step_size)[0]
        wanted = wide.astype(half)
        same = ((got == 0) == (wanted == 0)).all()
        require(same, law, regularizer, f"has other zeros in {name}.")
        # Two programs may round differently once: by one unit in the last place.
        gap = np.abs(got.astype(np.float32) - wanted.astype(np.float32))
        near = gap <= float(jnp.finfo(half).eps) * np.abs(wide)
        says = f"in {name} is not the float32 prox, rounded: {got[~near][:3]}."
        require(near.all(), law, regularizer, says)
        says = f"has a {value.dtype} value {float(value)} of a {name} prox."
        finite = bool(jnp.isfinite(value)) and value.dtype == jnp.float32
        require(finite, law, regularizer, says)


def check_object(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    """Check that the regularizer is a value: frozen, hashable, equal to its pickle.

    As a static argument of `jax.jit` an equal one and another step size must not
    compile again; and it must not be callable, or Optax would take it for a schedule.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.

    Raises:
      AssertionError: it is not.
    """
    x, law = checked(regularizer, x, step_size), "object"
    require(not callable(regularizer), law, regularizer, "has a `__call__`.")
    try:
        twin = pickle.loads(pickle.dumps(regularizer))
        same = bool(twin == regularizer) and hash(twin) == hash(regularizer)
    except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
        says = f"cannot be pickled and compared: {error}. Let it hold plain data only."
        require(False, law, regularizer, says)
        return
    require(same, law, regularizer, "is not equal to its own pickle.")
    for name in vars(regularizer):
        try:
            setattr(twin, name, None)
        except AttributeError:
            continue
        require(False, law, regularizer, f"lets its attribute {name!r} be changed.")
    traces = collections.Counter()

    @functools.partial(jax.jit, static_argnums=0)
    def traced(regularizer: Regularizer, x: jax.Array, t: ArrayLike) -> jax.Array:
        traces["n"] += 1
        return regularizer.prox(x, t)

    for each, step in ((regularizer, step_size), (twin, 2 * step_size)):
        _ = traced.lower(each, x, step)
    require(
        traces["n"] == 1, law, regularizer, f"is traced {traces['n']} times, not once."
    )


def _prox(
    regularizer: Regularizer, x: np.ndarray, t: float
) -> tuple[np.ndarray, jax.Array]:
    """Return the prox and its value, compiled once for every type of ``t``."""
    wide = wide_dtype(x.dtype)
    p, value = _prox_and_value(regularizer, x, np.asarray(t, wide))
    return np.asarray(p), value


@functools.partial(jax.jit, static_argnums=0)
def _prox_and_value(
    regularizer: Regularizer, x: ArrayLike, t: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    p = regularizer.prox(x, t)
    return p, regularizer.value(p)


@functools.partial(jax.jit, static_argnums=0)
def _prox_of_sum(
    regularizer: Regularizer, a: ArrayLike, b: ArrayLike, t: ArrayLike
) -> jax.Array:
    operands = (jnp.asarray(a), jnp.asarray(b))
    return regularizer.prox_at(lambda a, b: a + b, operands, t)
