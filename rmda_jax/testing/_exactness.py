"""Laws of what must be exact: zeros, structure, certificates, and where NaN goes."""

import functools

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
    norm,
    prox,
    proxes,
    require,
    require_close,
    value,
    values,
)


def check_exact_zeros(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that zeros are exactly 0, and that `support` and `prox_support` see them.

    `prox_support` counts on shrunk magnitudes what `support` counts on the prox: they
    must agree. Where :math:`\psi` is sharp at 0 (:math:`\psi(h x)/h` does not vanish
    with :math:`h`) and a huge step brings the prox near 0, it must be 0 to the bit.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.

    Raises:
      AssertionError: a zero is not exact, or a support is wrong.
    """
    x, law = checked(regularizer, x, step_size), "exact zeros"
    supports = _supports(regularizer, x, step_size)
    found, counted = (np.asarray(support) for support in supports)
    require(
        (found == counted).all(),
        law,
        regularizer,
        f"at step size {step_size:g} says {int(counted.sum())} units survive, but "
        f"{int(found.sum())} of {found.size} are alive in the prox.",
    )
    h = 1e-3 if epsilon(x) > 1e-10 else 1e-6
    slopes = [value(regularizer, k * x) / k for k in (h, h * h)]
    sharp = slopes[1] > 0.5 * slopes[0] > 0 and np.isfinite(slopes[0])
    huge = prox(regularizer, x, 1e6 * (step_size or 1.0))
    near = np.abs(huge).max(initial=0)
    if sharp and near < np.sqrt(epsilon(x)) * np.abs(x).max(initial=0):
        require(near == 0, law, regularizer, f"leaves {near:.3g} where 0 is meant.")


def check_finite(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that value and prox are finite where groups, slices or everything are 0.

    Args:
      regularizer: The regularizer.
      x: Real floating array; slices of it, and all of it, are set to 0.
      step_size: :math:`t`; 0 is tried, too.

    Raises:
      AssertionError: something is NaN or infinite.
    """
    xs = _with_zeros(checked(regularizer, x, step_size))
    steps = np.where(np.arange(BATCH) % 2 == 0, step_size, 0)
    ps = proxes(regularizer, xs, steps)
    law = "finiteness"
    require(np.isfinite(ps).all(), law, regularizer, "has a prox that is not finite.")
    found = values(regularizer, ps)
    require(np.isfinite(found).all(), law, regularizer, f"has a prox of value {found}.")
    found = values(regularizer, xs)
    require(not np.isnan(found).any(), law, regularizer, "has a value that is NaN.")


def check_finite_gradients(
    regularizer: Regularizer, x: ArrayLike, step_size: float
) -> None:
    r"""Check that derivatives are finite where groups, slices or everything are 0.

    Differentiates :math:`\psi(x)` and :math:`\langle c,
    \operatorname{prox}_{t\psi}(x)\rangle` in reverse, by x and by t. Where the prox has
    no such derivative (an SVD with equal singular values, a loop of unknown length)
    exempt the regularizer from this law, and say so in its docstring.

    Args:
      regularizer: The regularizer.
      x: Real floating array; slices of it, and all of it, are set to 0.
      step_size: :math:`t`; 0 is tried, too.

    Raises:
      AssertionError: a derivative is NaN or infinite.
    """
    x = checked(regularizer, x, step_size)
    xs = _with_zeros(x)
    steps = np.where(np.arange(BATCH) % 2 == 0, step_size, 0).astype(x.dtype)
    wide = wide_dtype(x.dtype)
    gradients = _gradients(regularizer, xs.astype(wide), steps.astype(wide))
    names = ("value by x", "prox by x", "prox by the step size")
    for name, gradient in zip(names, gradients, strict=True):
        finite = np.isfinite(np.asarray(gradient))
        require(
            finite.all(),
            "finite gradients",
            regularizer,
            f"has {finite.size - finite.sum()} derivatives of its {name} that are not.",
        )


def check_nan(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that NaN stays NaN: a NaN weight must never become 0.

    With one entry NaN, that entry of the prox is NaN and the value is not finite.

    Args:
      regularizer: The regularizer.
      x: Real floating array of at least one entry.
      step_size: :math:`t`; 0 and a large step are tried, too.

    Raises:
      AssertionError: a NaN disappears.
    """
    x, law = checked(regularizer, x, step_size), "NaN"
    if not x.size:
        return
    xs = np.stack([x] * BATCH)
    places = np.random.default_rng(0).integers(x.size, size=BATCH)
    xs.reshape(BATCH, -1)[np.arange(BATCH), places] = np.nan
    steps = np.resize([step_size, 0, 100 * step_size + 100], BATCH)
    ps = proxes(regularizer, xs, steps).reshape(BATCH, -1)
    kept = np.isnan(ps[np.arange(BATCH), places])
    says = f"turns NaN into {ps[np.arange(BATCH), places][~kept][:1]}."
    require(kept.all(), law, regularizer, says)
    found = values(regularizer, xs)
    says = f"gives a poisoned array the value {found[np.isfinite(found)][:1]}."
    require(not np.isfinite(found).any(), law, regularizer, says)


def check_snap(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that `snap` restores structure and leaves structured arrays alone.

    With :math:`p` the prox, snap(p) = p. For any y of its size, ``y + (p - y)`` is
    blurred by rounding; snap makes it p up to that rounding, and of finite value.
    Snapping twice is snapping once, and no zero wakes up.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.

    Raises:
      AssertionError: snap moves what it should not, or leaves what it should move.
    """
    x, law = checked(regularizer, x, step_size), "snap"
    p = prox(regularizer, x, step_size)
    kept = np.asarray(_snap(regularizer, p))
    largest = np.abs(p).max(initial=0)
    rounding = 32 * float(jnp.finfo(x.dtype).eps) * largest
    require_close(kept, p, rounding, law, regularizer, "moves a structured array")
    require(
        ((kept == 0) >= (p == 0)).all(), law, regularizer, "makes a zero entry nonzero."
    )
    for y in np.tanh(noise(x, 4)) * largest:
        sharp = np.asarray(_snap(regularizer, y + (p - y)))
        says = "does not restore the prox"
        require_close(sharp, p, rounding, law, regularizer, says)
        found = value(regularizer, sharp)
        says = f"gives a point of value {found}."
        require(np.isfinite(found), law, regularizer, says)
        again = _snap(regularizer, sharp)
        require_close(again, sharp, rounding, law, regularizer, "is not idempotent")


def check_units(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that `unit_sizes` says how many entries the units of `support` have.

    It broadcasts to the support. If the units are entries or groups, which partition
    the array, the sizes add up to its size. (Ranks and jumps are units of size 1.)

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: Ignored; laws have one signature.

    Raises:
      AssertionError: sizes and support do not fit.
    """
    del step_size
    x, law = checked(regularizer, x, None), "unit sizes"
    shape = jax.eval_shape(regularizer.support, x).shape
    sizes = np.asarray(regularizer.unit_sizes(x.shape))
    whole = np.issubdtype(sizes.dtype, np.integer) and (sizes >= 0).all()
    require(whole, law, regularizer, f"has sizes {sizes}, which count nothing.")
    try:
        sizes = np.broadcast_to(sizes, shape)
    except ValueError:
        says = f"has sizes of shape {sizes.shape} for a support of shape {shape}."
        require(False, law, regularizer, says)
    if shape == x.shape or (sizes > 1).any():
        says = f"has units of {sizes.sum()} entries in an array of {x.size}."
        require(sizes.sum() == x.size, law, regularizer, says)


def check_certificate(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check `subgradient_distance` and `margin` where the answer is known.

    At :math:`p = \operatorname{prox}_{t\psi}(x)` the residual :math:`v = (x - p)/t` is
    a subgradient: the distance is 0 and no zero unit has a negative margin. If
    :math:`\psi` is convex and :math:`q` the prox of another point, monotonicity forbids
    :math:`v + s(q - p)` for a large :math:`s`: the distance is positive. Not asked of
    nonconvex regularizers that only have the distance of the base class.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`, positive.

    Raises:
      AssertionError: a certificate is wrong.
    """
    x, law = checked(regularizer, x, step_size), "certificate"
    inherited = (
        type(regularizer)._subgradient_distance is Regularizer._subgradient_distance
    )
    if step_size == 0 or (inherited and not regularizer.is_convex):
        return
    p = prox(regularizer, x, step_size)
    v = (x - p) / np.asarray(step_size, x.dtype)
    # p is off by a rounding of x, v by 1/t times as much.
    rounding = 32 * epsilon(x) * (norm(x) + norm(p)) * (1 + 1 / step_size)
    found, margin, active = _certificates(regularizer, p, v)
    says = f"is {found:.3g} from its own subgradient; rounding explains {rounding:.3g}."
    require(found <= rounding, law, regularizer, says)
    if margin is not None:
        wanted = np.inf if np.asarray(active).all() else 1.0
        free = _certificates(regularizer, p, np.zeros_like(v))[1]
        says = f"has the margin {free} under no pull at all, not {wanted}."
        require(free == wanted, law, regularizer, says)
        says = f"has the negative margin {margin:.3g} at its own prox."
        least = -64 * epsilon(x) * np.sqrt(x.size)
        require(margin >= least, law, regularizer, says)
    q = prox(regularizer, noise(x, 1)[0] * np.abs(x).max(initial=0), step_size)
    if regularizer.is_convex and norm(p - q) > 1e-3 * norm(x) + 8 * rounding:
        far = 1 + 4 * (norm(x) + norm(p)) / step_size / norm(p - q)
        away = (v + far * (q - p)).astype(x.dtype)
        found = _certificates(regularizer, p, away)[0]
        says = f"reports distance {found:.3g} for what is no subgradient."
        require(found > 2 * rounding, law, regularizer, says)


def _with_zeros(x: np.ndarray) -> np.ndarray:
    """Return BATCH copies of ``x``: all zero, one slice zero per axis, zeros strewn."""
    xs = np.stack([x] * BATCH)
    xs[:2] = 0
    generator = np.random.default_rng(0)
    for row in range(2, BATCH):
        if x.ndim and row < BATCH - 4:
            axis = row // 2 % x.ndim
            length = x.shape[axis]
            place = generator.integers(length) if length else slice(None)
            xs[row][(slice(None),) * axis + (place,)] = 0
        else:
            xs[row] *= generator.random(x.shape) < 0.5
    return xs


@functools.partial(jax.jit, static_argnums=0)
def _supports(
    regularizer: Regularizer, x: ArrayLike, t: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    p = regularizer.prox(x, t)
    return regularizer.support(p), regularizer.prox_support(x, t)


@functools.partial(jax.jit, static_argnums=0)
def _snap(regularizer: Regularizer, x: ArrayLike) -> jax.Array:
    return regularizer.snap(x)


@functools.partial(jax.jit, static_argnums=0)
def _certificates(
    regularizer: Regularizer, x: ArrayLike, v: ArrayLike
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """Return distance, margin (None where there is no such notion) and support."""
    try:
        margin = regularizer.margin(x, v, 1.0)
    except NotImplementedError:
        margin = None
    return regularizer.subgradient_distance(x, v, 1.0), margin, regularizer.support(x)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(
    regularizer: Regularizer, xs: jax.Array, steps: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def pulled(x: jax.Array, t: jax.Array) -> jax.Array:
        weights = jnp.linspace(1.0, 2.0, x.size, dtype=x.dtype).reshape(x.shape)
        return jnp.sum(weights * regularizer.prox(x, t))

    by_x, by_t = jax.vmap(jax.grad(pulled, argnums=(0, 1)))(xs, steps)
    return jax.vmap(jax.grad(regularizer.value))(xs), by_x, by_t
