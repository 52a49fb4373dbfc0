r"""Do the data support the size that was asked for?

A unit is alive if its critical strength :math:`\lambda_u` is above the strength
:math:`\lambda`, and how far above says how large it is: that of a group lasso has the
norm :math:`\tau(\lambda_u - \lambda)` in the iterate of `rmda`. Units that only fill a
budget end up just above, whatever is asked for; those that the data are about do not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmda_jax.metrics._text import no_text
from rmda_jax.specs._resolve import RegularizerSpec
from rmda_jax.transforms._structured import iterate_parts

# A gap counts if it is so wide, and if chance would give one seldom enough.
LEAST_GAP, MOST_CHANCE = 3, 0.1


class SupportedSize(NamedTuple):
    """How many units are kept, and how many the data support; by `supported_size`."""

    kept: jax.Array  # int32: k, units above the strength
    supported: jax.Array  # int32: j, the units that the data support; or k
    edge_gap: jax.Array  # floating: critical strength of unit k over that of k + 1
    gap: jax.Array  # floating: the gap that chance explains least, after j if it counts
    chance: jax.Array  # floating: that units without a gap would show one as wide
    multiples: jax.Array  # floating: critical strengths over the strength, descending

    def __str__(self) -> str:
        instead = no_text("SupportedSize", self)
        if instead is not None:
            return instead
        kept, supported = int(self.kept), int(self.supported)
        edge = f"the gap at the edge, {kept} to {kept + 1}, is {self.edge_gap:.3g}"
        if supported == kept:
            return f"{kept} units are kept, nothing says that fewer would do: {edge}"
        return (
            f"{kept} units are kept, the data support {supported}: the gap between "
            f"unit {supported} and the next is {self.gap:.3g}, {edge}"
        )


def supported_size(opt_state: Any, regularizer: RegularizerSpec) -> SupportedSize:
    r"""Return how many units are kept, and how many of them the data support.

    For a run with a `budget` (and for one with a strength, too). With the critical
    strengths :math:`\lambda_1 \ge \lambda_2 \ge \ldots` of the units at the state, of
    which k are above the strength :math:`\lambda`, the gap after unit :math:`j < k - 1`
    and the chance of one as wide are

    .. math:: \text{gap}_j = \frac{\lambda_j - \lambda}{\lambda_{j+1} - \lambda},
        \qquad \text{chance}_j = k\, \text{gap}_j^{-(k-j)}

    for if k - j units lie anywhere below unit j, evenly, all of them lie that low with
    probability :math:`\text{gap}_j^{-(k-j)}`; the k is for the choice of j. The data
    support the j whose chance is least, if that is below 0.1 and the gap above 3; and k
    otherwise.

    The ratio at the edge, :math:`\lambda_k/\lambda_{k+1}`, is 1.1 or more where
    a budget finds the margin that it keeps if it can, and all but 1 where units crowd.
    Alone it says little: as a stage grows, the units that are alive come ever nearer to
    the strength. Gaps above the strength do not shrink with it.

    **What it is worth.** On ``examples.identification``, where 8 of 40 units are true,
    with 20 seeds: if 12 units are asked for, `rmda` at a decaying learning rate and
    `ramda` find 8 in 20 of 20 (`rmda` at a constant rate in 18, and 9 and 12 in the
    others); if 8 are asked for, neither complains at any time. It cannot tell k from
    k - 1, as one unit may lie anywhere. It does not see that too few are kept, and then
    may find a gap among the true ones. Units whose sizes differ by orders of magnitude
    have gaps of their own, and those that ``at_least`` alone keeps look unsupported.
    Early in a stage noise decides.

    Args:
      opt_state: State of `rmda` or `ramda` after at least one update, wrapped or not.
      regularizer: The one the transformation was built with.

    Returns:
      SupportedSize; its ``str`` is a sentence. ``multiples`` are
      :math:`\lambda_u/\lambda`, for each unit with the strength of its own rule.
      ``edge_gap`` is infinite where no unit is zero, or none is alive; it and
      ``chance`` are NaN where a unit holds NaN.

    Raises:
      NotImplementedError: a regularizer has no critical strengths.
      TypeError, ValueError: as in `structured_params`; there are no units.

    Examples:
      >>> rows = jnp.array([9.0, 8.0, 7.0, 0.04, 0.03, 0.02, 0.01, 0.005])[:, None]
      >>> tx = rj.rmda(1.0, rj.group_lasso(0), rj.budget(n_groups=7))
      >>> _, state = tx.update(jnp.zeros((8, 1)), tx.init(rows), rows)
      >>> print(rj.metrics.supported_size(state, rj.group_lasso(0)))
      7 units are kept, the data support 3: the gap between unit 3 and the next is ...
    """
    parts = iterate_parts(opt_state, regularizer)[0]
    found = [part.critical_multiples() for part in parts]
    levels = [jnp.ravel(x) for x in found if x is not None]
    if not levels:
        raise ValueError("there are no units to count: no leaf is regularized.")
    real = jnp.result_type(float)
    multiples = jnp.sort(jnp.concatenate([x.astype(real) for x in levels]))[::-1]
    kept = jnp.sum(multiples > 1, dtype=jnp.int32)
    # In front, a unit that nothing makes zero; behind, one that is zero already.
    ends = jnp.full(1, jnp.inf, real), jnp.zeros(1, real)
    padded = jnp.concatenate([ends[0], multiples, ends[1]])
    edge_gap = _ratio(padded[kept], padded[kept + 1])

    excess = jnp.maximum(padded[1:] - 1, 0)
    gaps = _ratio(excess[:-1], excess[1:])
    below = kept - jnp.arange(1, gaps.size + 1, dtype=jnp.int32)
    # One unit alone may lie anywhere, and a budget sets the strength close to the last.
    inside = (below > 1) & jnp.isfinite(gaps)  # infinite: the strength is 0
    gaps = jnp.where(inside, gaps, 1)
    surprise = below.astype(real) * jnp.log(gaps)
    best = jnp.argmax(surprise).astype(jnp.int32)
    chance = jnp.minimum(kept.astype(real) * jnp.exp(-surprise[best]), 1)
    is_gap = (chance < MOST_CHANCE) & (gaps[best] >= LEAST_GAP)
    spoilt = jnp.any(jnp.isnan(multiples))
    return SupportedSize(
        kept=kept,
        supported=jnp.where(is_gap & ~spoilt, best + 1, kept),
        edge_gap=jnp.where(spoilt, jnp.nan, edge_gap),
        gap=gaps[best],
        chance=jnp.where(spoilt, jnp.nan, chance),
        multiples=multiples,
    )


def _ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x / y, infinite where x is or y is 0."""
    plain = jnp.isfinite(x) & (y > 0)
    return jnp.where(plain, x / jnp.where(plain, y, 1), jnp.inf)
