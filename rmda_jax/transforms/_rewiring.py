"""How the masks of a sparse run move: which weights stay, and which grow."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax._types import wide_dtype
from rmda_jax.regularizers.solvers._top_k import Cut, before, cut_after
from rmda_jax.regularizers.solvers._top_k_together import cuts_after
from rmda_jax.transforms._prox_leaves import GPUS


class Leaf(NamedTuple):
    """What the next mask of a leaf is made of, arrays of one shape."""

    mask: jax.Array  # which weights are there
    w: jax.Array  # the weights
    score: jax.Array  # their scores for growing


class Amounts(NamedTuple):
    """How many weights stay, and how many grow; None if none ever do."""

    kept: jax.Array
    grown: jax.Array | None


class Places(NamedTuple):
    """Which weights stay, and which grow: those before these cuts."""

    kept: Cut
    grown: Cut | None


def next_masks(
    due: jax.Array,
    leaves: Sequence[Leaf],
    amounts: Callable[[Sequence[Leaf]], list[Amounts]],
    *,
    grows: bool,
    draw: Callable[[Sequence[Leaf]], list[Leaf]] | None = None,
) -> list[jax.Array]:
    """Return the masks of an update: others if it is due, else the same.

    A branch that returns masks copies them where it does nothing. On CPU and TPU that
    is little. On a GPU it is a kernel for every leaf in every update, so there only the
    cuts come from the branch, and the masks are computed from them where they are used
    (docs/performance.md, "Masks that seldom move").

    Args:
      due: Whether they move.
      leaves: What they are made of.
      amounts: How many weights of each leaf stay and grow; called in the branch.
      grows: Whether any weights ever grow.
      draw: Scores anew, in the branch.
    """

    def in_a_branch(
        leaves: list[Leaf], find: Callable[..., list[Places]]
    ) -> list[jax.Array]:
        def move() -> list[jax.Array]:
            drawn = draw(leaves) if draw else leaves
            return list(map(rewired, drawn, find(drawn, amounts(drawn))))

        return lax.cond(due, move, lambda: [leaf.mask for leaf in leaves])

    def by_cuts(leaves: list[Leaf]) -> list[jax.Array]:
        find = lambda: _found(leaves, amounts(leaves))
        same = lambda: _as_before(leaves, grows)
        cuts = lax.cond(due, find, same)
        return list(map(rewired, leaves, _each(cuts)))

    # Random scores are drawn in the branch alone, and the masks with them.
    on_gpu = (lambda leaves: in_a_branch(leaves, together)) if draw else by_cuts
    return lax.platform_dependent(
        list(leaves),
        default=lambda leaves: in_a_branch(leaves, in_turn),
        **dict.fromkeys(GPUS, on_gpu),
    )


def rewired(leaf: Leaf, places: Places) -> jax.Array:
    """Return the mask of the weights that stay or grow."""
    kept = _before(places.kept, _staying(leaf.mask, leaf.w))
    if places.grown is None:
        return kept
    return kept | _before(places.grown, _growing(*leaf, *places.kept))


def in_turn(leaves: Sequence[Leaf], amounts: Sequence[Amounts]) -> list[Places]:
    """Return which weights stay and which grow, of one leaf after the other."""
    out = []
    for leaf, amount in zip(leaves, amounts, strict=True):
        kept = cut_after(_staying(leaf.mask, leaf.w), amount.kept, _all(leaf.mask))
        grown = None
        if amount.grown is not None:
            scores = _growing(*leaf, *kept)
            grown = cut_after(scores, amount.grown, _all(scores))
        out.append(Places(kept, grown))
    return out


def together(leaves: Sequence[Leaf], amounts: Sequence[Amounts]) -> list[Places]:
    """Return the same, of all leaves at once."""
    return _each(_found(leaves, amounts))


def _found(leaves: Sequence[Leaf], amounts: Sequence[Amounts]) -> Places:
    """Return the cuts of all leaves, found together, as vectors."""
    given = [(leaf.mask, leaf.w) for leaf in leaves]
    kept = cuts_after(_staying, given, [amount.kept for amount in amounts])
    n_grown = [amount.grown for amount in amounts if amount.grown is not None]
    if not n_grown:
        return Places(kept, None)
    given = [(*leaf, *cut) for leaf, cut in zip(leaves, _rows(kept), strict=True)]
    return Places(kept, cuts_after(_growing, given, n_grown))


def _each(places: Places) -> list[Places]:
    """Return the cuts of each leaf."""
    kept, grown = _rows(places.kept), places.grown
    rows = [None] * len(kept) if grown is None else _rows(grown)
    return list(map(Places, kept, rows))


def _rows(cuts: Cut) -> list[Cut]:
    return [Cut(*row) for row in zip(*cuts, strict=True)]


def _as_before(leaves: Sequence[Leaf], grows: bool) -> Places:
    """Return cuts that keep all weights that are there, and grow none."""
    masks = [leaf.mask for leaf in leaves]
    # Like the masks, so that in `jax.shard_map` they vary over the same devices.
    filled = lambda dtype, value: jnp.stack(
        [jnp.full_like(mask, value, shape=(), dtype=dtype) for mask in masks]
    )
    none = filled(jnp.int32, 0)
    word = jnp.result_type(*(_word(leaf.w) for leaf in leaves))
    kept = Cut(filled(word, 0), none)
    if not grows:
        return Places(kept, None)
    word = jnp.result_type(*(_word(leaf.score) for leaf in leaves))
    return Places(kept, Cut(filled(word, jnp.iinfo(word).max), none))


def _staying(mask: jax.Array, w: jax.Array) -> jax.Array:
    """Return numbers of which the largest are those of the weights K that stay."""
    return _scores_among(w, mask)


def _growing(
    mask: jax.Array, w: jax.Array, score: jax.Array, value: jax.Array, end: jax.Array
) -> jax.Array:
    """Return numbers of which the largest are those of the weights G that grow."""
    # Outside K: what was dropped may come back.
    kept = _before(Cut(value, end), _staying(mask, w))
    return _scores_among(score, ~kept)


def _scores_among(x: jax.Array, candidates: jax.Array) -> jax.Array:
    """Return integers that order candidates like |x|; all others have 0.

    NaN are more than infinity, and all are equal.
    """
    word, wide = _word(x), wide_dtype(x.dtype)
    # Without the sign, the bits order like the magnitudes.
    bits = lax.bitcast_convert_type(x.astype(wide), word) & jnp.iinfo(word).max
    nan = lax.bitcast_convert_type(jnp.full((), jnp.inf, wide), word) + 1
    # One up: a candidate of magnitude 0 still has a positive score.
    return jnp.where(candidates, jnp.minimum(bits, nan) + 1, 0)


def _word(x: jax.Array) -> jnp.dtype:
    """Return the integers that are as wide as the scores of an array."""
    return jnp.dtype("int64" if wide_dtype(x.dtype) == jnp.float64 else "int32")


def _before(cut: Cut, numbers: jax.Array) -> jax.Array:
    return before(cut, numbers.astype(cut.value.dtype), _all(numbers))


def _all(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(x.ndim))
