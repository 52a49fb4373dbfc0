r"""Laws of what the prox minimises, and of how it moves with its arguments."""

import jax
import numpy as np
from jax.typing import ArrayLike

from rmda_jax.regularizers import Regularizer
from rmda_jax.testing._answers import checked
from rmda_jax.testing._numerics import (
    BATCH,
    competitors,
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


def check_minimizes(
    regularizer: Regularizer, x: ArrayLike, step_size: float, *, slack: float = 16
) -> None:
    r"""Check that the prox beats 32 competitors, by as much as convexity promises.

    With :math:`p = \operatorname{prox}_{t\psi}(x)`, for every :math:`y`

    .. math:: t\psi(p) + \tfrac12\|p - x\|^2 \le t\psi(y) + \tfrac12\|y - x\|^2
        - \tfrac12\|y - p\|^2

    (the three-point inequality); without the last term if :math:`\psi` is not convex.
    Ties prox and value to each other: a wrong sign, weight, threshold or factor in
    either one fails. In float64 an error of 1e-6 in the prox is found.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`, not negative.
      slack: How many roundings of the quantities compared to forgive.

    Raises:
      AssertionError: a competitor is better.
    """
    x = checked(regularizer, x, step_size)
    p = prox(regularizer, x, step_size)
    _require_least(regularizer, x, p, step_size, "minimality", slack=slack)


def _require_least(
    regularizer: Regularizer,
    x: np.ndarray,
    p: np.ndarray,
    step_size: float,
    law: str,
    *,
    metric: ArrayLike = 1.0,
    slack: float = 16,
    residual: float = 0.0,
) -> None:
    """Require that ``p`` beats other points, up to rounding and a known subgradient."""
    ys = competitors(regularizer, x, p, step_size)
    theirs = np.concatenate([values(regularizer, h) for h in (ys[:BATCH], ys[BATCH:])])
    mine = value(regularizer, p)
    require(np.isfinite(mine), law, regularizer, f"has prox value {mine}.")
    d, ends = (
        np.asarray(metric, np.float64),
        (x.astype(np.float64), p.astype(np.float64)),
    )
    away = ys.astype(np.float64) - ends[1]
    axes = tuple(range(1, ys.ndim))
    ahead = step_size * (theirs - mine) + np.sum(d * away * (ends[1] - ends[0]), axes)
    if not regularizer.is_convex:
        ahead += np.sum(d * np.square(away), axes) / 2
    # Rounding moves p by eps |x|, which the objective feels in proportion to the
    # distance of y, and loses eps of either value (sqrt n times, being a sum).
    distance = np.sqrt(np.sum(np.square(away), axes))
    pull = norm(d * (ends[0] - ends[1]))
    rounding = (
        float(d.max()) * (norm(x) + norm(p)) * distance + (norm(x) + norm(p)) * pull
    )
    rounding += np.sqrt(x.size) * step_size * (abs(mine) + np.abs(theirs))
    lost = np.where(
        np.isinf(theirs), 0, ahead + slack * epsilon(x) * rounding + residual * distance
    )
    worst = int(np.argmin(np.where(np.isnan(lost), -np.inf, lost)))
    require(
        lost[worst] >= 0,
        law,
        regularizer,
        _comparison(
            step_size,
            (mine, float(np.sum(d * np.square(ends[1] - ends[0]))) / 2),
            (theirs[worst], float(np.sum(d * np.square(ys[worst] - ends[0]))) / 2),
            regularizer.is_convex * float(np.sum(d * np.square(away[worst]))) / 2,
        ),
    )


def _comparison(
    step_size: float,
    prox: tuple[float, float],
    competitor: tuple[float, float],
    promised: float,
) -> str:
    """Return both objectives with their parts, psi and half the squared distance."""
    ours, theirs = (step_size * psi + half for psi, half in (prox, competitor))
    rise = f" + {promised:.9g} (half their squared distance)" if promised else ""
    return (
        f"at step size {step_size:g} has a prox that is not the least: "
        f"t psi(p) + |p - x|^2/2 = {ours:.9g} (psi {prox[0]:.9g}, rest {prox[1]:.9g}), "
        f"and another point y has {theirs:.9g} (psi {competitor[0]:.9g}, rest "
        f"{competitor[1]:.9g}) where at least {ours:.9g}{rise} must be."
    )


def check_firmly_nonexpansive(
    regularizer: Regularizer, x: ArrayLike, step_size: float
) -> None:
    r"""Check that a convex prox is firmly nonexpansive.

    .. math:: \|p - q\|^2 \le \langle p - q, x - y\rangle, \qquad
        p = \operatorname{prox}_{t\psi}(x),\ q = \operatorname{prox}_{t\psi}(y)

    Holds trivially where ``is_convex`` is False.

    Args:
      regularizer: The regularizer.
      x: Real floating array; 16 points :math:`y` near and far are compared with it.
      step_size: :math:`t`.

    Raises:
      AssertionError: two points are moved apart.
    """
    x = checked(regularizer, x, step_size)
    if not regularizer.is_convex:
        return
    size = np.abs(x).max(initial=0) or 1.0
    scales = np.geomspace(1e-3, 3, BATCH).reshape(-1, *(1,) * x.ndim)
    ys = (x + size * scales * noise(x, BATCH)).astype(x.dtype)
    ys[0] = 0
    p = prox(regularizer, x, step_size).astype(np.float64)
    qs = proxes(regularizer, ys, step_size).astype(np.float64)
    for y, q in zip(ys.astype(np.float64), qs, strict=True):
        gap = float(np.sum((p - q) * (x - y)) - np.sum(np.square(p - q)))
        # Each point is off by a rounding of its own size.
        rounding = epsilon(x) * (norm(x) + norm(y)) * (norm(x - y) + norm(p - q))
        require(
            gap >= -16 * rounding,
            "firm nonexpansiveness",
            regularizer,
            f"at step size {step_size:g} has |p - q|^2 = {norm(p - q) ** 2:.9g} above "
            f"<p - q, x - y> = {norm(p - q) ** 2 + gap:.9g}.",
        )


def check_zero_step(
    regularizer: Regularizer, x: ArrayLike, step_size: float = 0.0
) -> None:
    r"""Check that step 0 returns ``x``, or its projection onto where psi is finite.

    Where :math:`\psi(x)` is finite, the very bits of ``x`` come back (indicators may
    round); elsewhere, a point of finite value that step 0 then leaves alone.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: Ignored; laws have one signature.

    Raises:
      AssertionError: step 0 changes ``x``.
    """
    del step_size
    x = checked(regularizer, x, None)
    inside = prox(regularizer, x, 0.0)
    tolerance = (
        16 * epsilon(x) * (np.abs(x).max(initial=0) + np.abs(inside).max(initial=0))
    )
    is_finite = np.isfinite(value(regularizer, x))
    law = "zero step"
    if is_finite and not regularizer.is_indicator:
        require_close(inside, x, 0, law, regularizer, "changes its argument")
    elif is_finite:
        require_close(inside, x, tolerance, law, regularizer, "moves a feasible point")
    else:
        found = value(regularizer, inside)
        require(
            np.isfinite(found), law, regularizer, f"gives a point of value {found}."
        )
    again = prox(regularizer, inside, 0.0)
    require_close(again, inside, tolerance, law, regularizer, "is not idempotent")


def check_huge_step(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that a huge step leaves no more :math:`\psi` than any other point has.

    .. math:: \psi(p) \le \psi(y) + \frac{\|y - x\|^2}{2t}, \qquad t = 10^6 t_0

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t_0`, positive.

    Raises:
      AssertionError: some point has less.
    """
    x = checked(regularizer, x, step_size)
    huge = 1e6 * (step_size or 1.0)
    p = prox(regularizer, x, huge)
    require(np.isfinite(p).all(), "huge step", regularizer, "overflows.")
    ys = competitors(regularizer, x, p, huge)
    theirs = np.concatenate([values(regularizer, h) for h in (ys[:BATCH], ys[BATCH:])])
    mine = value(regularizer, p)
    distance = np.array([norm(y - x) ** 2 for y in ys.astype(np.float64)])
    best = int(np.argmin(theirs + distance / (2 * huge)))
    least = float(theirs[best] + distance[best] / (2 * huge))
    rounding = 16 * epsilon(x) * np.sqrt(x.size) * abs(mine)
    require(
        mine <= least + rounding,
        "huge step",
        regularizer,
        f"keeps psi(p) = {mine:.9g} at step size {huge:g}, where another point has "
        f"psi(y) + |y - x|^2/(2t) = {least:.9g} (psi {theirs[best]:.9g}).",
    )


def check_homogeneous(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that a homogeneous :math:`\psi` commutes with scaling.

    .. math:: \psi(c x) = c\,\psi(x), \qquad
        \operatorname{prox}_{c t\psi}(c x) = c\operatorname{prox}_{t\psi}(x)

    for c from 1e-6 to 1e6. Holds trivially where ``is_homogeneous`` is False.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.

    Raises:
      AssertionError: it depends on the scale.
    """
    x = checked(regularizer, x, step_size)
    if not regularizer.is_homogeneous:
        return
    scales = np.geomspace(1e-6, 1e6, BATCH).astype(x.dtype)
    factors = scales.reshape(-1, *(1,) * x.ndim)
    scaled = proxes(regularizer, factors * x, scales * step_size) / factors
    p = prox(regularizer, x, step_size)
    law = "homogeneity"
    # Scaling rounds x and t once each, and t enters with the weight of a group.
    largest = np.abs(x).max(initial=0) + step_size
    rounding = 16 * epsilon(x) * largest * np.sqrt(x.size)
    require_close(
        scaled, np.broadcast_to(p, scaled.shape), rounding, law, regularizer,
        "has a prox that does not scale",
    )  # fmt: skip
    mine = value(regularizer, p)
    found = values(regularizer, factors * p) / scales
    rounding = 16 * epsilon(x) * abs(mine) * np.sqrt(x.size)
    require_close(
        found, np.full(BATCH, mine), rounding, law, regularizer,
        "has a value that does not scale",
    )  # fmt: skip


def check_projection(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that the prox of an indicator projects.

    It lands where :math:`\psi = 0`, stays there when repeated, and does not depend on
    the step size. Holds trivially where ``is_indicator`` is False.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: Any step size.

    Raises:
      AssertionError: it is no projection.
    """
    x, law = checked(regularizer, x, step_size), "projection"
    if not regularizer.is_indicator:
        return
    p = prox(regularizer, x, step_size)
    found = value(regularizer, p)
    require(found == 0, law, regularizer, f"has a prox of value {found}.")
    other = prox(regularizer, x, 2 * step_size + 1)
    require_close(other, p, 0, law, regularizer, "depends on the step size")
    again = prox(regularizer, p, step_size)
    rounding = 16 * epsilon(x) * (np.abs(x).max(initial=0) + np.abs(p).max(initial=0))
    require_close(again, p, rounding, law, regularizer, "moves what it projected")


def check_separable(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that a separable :math:`\psi` treats every entry by itself.

    The prox of the entries in another order is the prox, reordered; parts of two arrays
    can be exchanged without changing the sum of their values. Holds trivially where
    ``is_separable`` is False.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.

    Raises:
      AssertionError: an entry's prox depends on its neighbours or its place.
    """
    x, law = checked(regularizer, x, step_size), "separability"
    if not regularizer.is_separable:
        return
    order = np.random.default_rng(0).permutation(x.size)
    mixed = x.ravel()[order].reshape(x.shape)
    p, q = (prox(regularizer, y, step_size) for y in (x, mixed))
    # Compiled powers and logarithms differ by an ulp between lanes of a vector.
    rounding = 4 * epsilon(x) * np.abs(x).max(initial=0)
    says = "has another prox when the entries change places"
    require_close(q.ravel(), p.ravel()[order], rounding, law, regularizer, says)
    # Exchange parts of the two: a sum over entries does not notice.
    head = (np.arange(x.size) < x.size // 2).reshape(x.shape)
    ends = value(regularizer, p) + value(regularizer, q)
    crossed = [np.where(head, *pair) for pair in ((p, q), (q, p))]
    total = sum(value(regularizer, y) for y in crossed)
    rounding = 8 * epsilon(x) * np.sqrt(x.size) * abs(ends)
    require_close(total, ends, rounding, law, regularizer, "is no sum over entries")


def check_metric_prox(
    regularizer: Regularizer, x: ArrayLike, step_size: float, *, rtol: float = 1e-5
) -> None:
    r"""Check the prox in a diagonal metric.

    With the metric 1 it is the prox, with the metric :math:`c` the prox at :math:`t/c`;
    with any metric d it beats the competitors of `check_minimizes` in

    .. math:: t\psi(y) + \tfrac12\sum_i d_i (y_i - x_i)^2

    Holds trivially where :math:`\psi` is not convex and the solution iterates: only
    a stationary point is promised there.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`.
      rtol: Accuracy asked of `metric_prox` where it iterates.

    Raises:
      AssertionError: it is another point.
    """
    x, law = checked(regularizer, x, step_size), "metric prox"
    hook = regularizer._counted_metric_prox
    iterates = jax.eval_shape(hook, x, x.dtype.type(1), x) is None
    if iterates and not regularizer.is_convex:
        return
    inexact = rtol if iterates else 0.0

    @jax.jit
    def solve(step_size: ArrayLike, metric: ArrayLike) -> jax.Array:
        return regularizer.metric_prox(
            x, step_size, metric, rtol=rtol, max_iters=10_000
        )

    for scale in (1.0, 2.5):
        wanted = prox(regularizer, x, step_size / scale)
        # Strong convexity turns the subgradient that is left into a distance.
        tolerance = inexact * norm(x - wanted) + 32 * epsilon(x) * norm(x)
        got = solve(step_size, np.full_like(x, scale))
        says = f"is not the prox in the metric {scale:g}"
        require_close(got, wanted, tolerance, law, regularizer, says)
    metric = np.exp(noise(x, 1)[0])
    p = np.asarray(solve(step_size, metric))
    require(np.isfinite(p).all(), law, regularizer, "is not finite.")
    residual = inexact * norm(metric * (x - p))
    _require_least(regularizer, x, p, step_size, law, metric=metric, residual=residual)
