"""The law of zeros that are almost zero, which needs to know no structure."""

import numpy as np
from jax.typing import ArrayLike

from rmda_jax.regularizers import Regularizer
from rmda_jax.testing._answers import checked
from rmda_jax.testing._numerics import (
    BATCH,
    epsilon,
    noise,
    proxes,
    require,
    value,
    values,
)

# Entries of the prox below this share of its largest one are asked what they are.
_TINY = 1e-4
_SCALES = np.array([1.0, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.2, 1.25])


def check_tiny_entries(
    regularizer: Regularizer, x: ArrayLike, step_size: float
) -> None:
    r"""Check that no tiny entry of the prox stands where its exact value is 0.

    An entry :math:`p_i` that is not 0 but below 1e-4 of the largest is a zero that is
    not exact if all of this holds:

    - it stays as small when :math:`x` is perturbed by 5 % of its largest entry, and by
      factors from 0.8 to 1.25;
    - by these factors it is not moved, or moved in proportion, or up and down at
      random, as rounding is: a small entry that is meant moves otherwise;
    - in place of it, 0 does not raise :math:`t\psi(p) + \tfrac12\|p - x\|^2`, and
      there :math:`\psi` has a kink, a jump or an edge.

    Holds trivially where the prox has no tiny entries. A bound or level that is meant,
    but lies within rounding of 0, is taken for a zero, too.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`; three times as much is tried, too.

    Raises:
      AssertionError: an entry should be exactly 0.
    """
    x = checked(regularizer, x, step_size)
    for step in (step_size, 3 * step_size):
        factors = _SCALES.reshape(-1, *(1,) * x.ndim)
        size = np.abs(x).max(initial=0)
        noisy = x + 0.05 * size * noise(x, BATCH - len(_SCALES))
        xs = np.concatenate([factors * x, noisy]).astype(x.dtype)
        ps = proxes(regularizer, xs, step)
        p, law = ps[0], "tiny entries"
        tiny = np.abs(p).max(initial=0) * _TINY
        suspects = (p != 0) & (np.abs(ps) <= tiny).all(0)
        suspects &= _idle(ps[: len(_SCALES)], 64 * epsilon(x) * size)
        for place in np.argwhere(suspects)[:3]:
            index = tuple(place)
            if _is_zero(regularizer, x, p, index, step):
                says = (
                    f"at step size {step:g} has a prox with the entry {p[index]:.3g} "
                    f"at {tuple(map(int, index))}, where the exact value is 0. Choose "
                    "zeros with `jnp.where`, do not compute them."
                )
                require(False, law, regularizer, says)


def _idle(ps: np.ndarray, rounding: float) -> np.ndarray:
    """Flag entries that factors of x move at most in proportion, or at random."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.abs(ps / ps[0])
    order = np.argsort(_SCALES)
    factors = _SCALES.reshape(-1, *(1,) * (ps.ndim - 1))
    most = np.maximum(factors, 1 / factors) * 1.001
    proportional = ((ratios <= most) & (ratios >= 1 / most)).all(0)
    rises = np.diff(np.abs(ps[order]), axis=0)
    erratic = (rises > 0).any(0) & (rises < 0).any(0)
    return proportional | (erratic & (np.abs(ps) <= rounding).all(0))


def _is_zero(
    regularizer: Regularizer,
    x: np.ndarray,
    p: np.ndarray,
    index: tuple[int, ...],
    step: float,
) -> bool:
    """Return whether the objective says that an entry of the prox is 0, not just small.

    By how much the objective grows a distance h away from 0, and h/4: by a sixteenth if
    it is smooth there, by a fourth at a kink, and as much at a jump.
    """
    h = 0.5 * float(np.abs(p).max())
    places = np.array([0, h, -h, h / 4, -h / 4, h / 16, -h / 16])
    points = np.stack([p] * BATCH)
    for row, s in enumerate(places):
        points[(row, *index)] = s
    found = step * values(regularizer, points)[: len(places)]
    center, entry = float(x[index]), float(p[index])
    # The squares of the other entries would only round away what is asked.
    found += places * (places / 2 - center)
    mine = step * value(regularizer, p) + entry * (entry / 2 - center)
    rounding = 16 * epsilon(x) * np.sqrt(x.size) * (abs(mine) + abs(found[0]))
    if not found[0] <= mine + rounding:
        return False
    rises = found[1:].reshape(3, 2).min(1) - found[0]
    if np.isinf(rises[2]):  # the edge of a set
        return True
    far, near = rises[int(np.isinf(rises[0])) :][:2]
    return bool(near > max(rounding, far / 12))
