"""Masks of a sparse run: on which leaves, how many flags, when and how they move."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax._types import Params, ScalarOrSchedule, Shape, shape_dtype_of, wide_dtype
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers.named._entries import l0
from rmda_jax.regularizers.solvers._top_k import keep_largest
from rmda_jax.specs._map import RegularizerMap
from rmda_jax.specs._names import leaf_names
from rmda_jax.transforms._arguments import check_hyperparameter, check_static, evaluate
from rmda_jax.transforms._rewiring import Amounts, Leaf, next_masks
from rmda_jax.transforms._state import state_leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks of one run; the arguments are those of `rigl`."""

    where: str | Sequence[str] | None
    dense: str | Sequence[str]
    sparsity: float
    distribution: str
    update_every: int
    begin_step: int
    end_step: int | None
    drop_fraction: ScalarOrSchedule
    grow: str | None
    gradual: bool
    key: jax.Array | None

    def __post_init__(self):
        for name in ("sparsity", "update_every", "begin_step", "end_step"):
            check_static(name, getattr(self, name))
        check_parameter("sparsity", self.sparsity, at_least=0)
        if self.sparsity >= 1:
            raise ValueError(
                f"`sparsity` must be less than 1, got {self.sparsity}. It is the share "
                "of weights to remove."
            )
        check_parameter("update_every", self.update_every, at_least=1, integer=True)
        check_parameter("begin_step", self.begin_step, at_least=0, integer=True)
        check_hyperparameter("drop_fraction", self.drop_fraction, most=1)
        _check_choice("distribution", self.distribution, tuple(DISTRIBUTIONS))
        _check_choice("grow", self.grow, ("gradient", "random", None))
        if self.end_step is not None:
            check_parameter("end_step", self.end_step, at_least=1, integer=True)
        elif self.gradual or (self.grow and not callable(self.drop_fraction)):
            raise ValueError(
                "`end_step` must be given, got None. The drop fraction falls to 0 "
                "there, and gradual pruning ends."
            )
        if self.end_step is not None and (self.grow or self.gradual):
            self._check_some_step()
        _ = self._rules()

    def _check_some_step(self) -> None:
        # Gradual pruning divides by the last step.
        if self._last_step() < max(self.begin_step, int(self.gradual)):
            raise ValueError(
                "the masks would never change: no multiple of `update_every`, got "
                f"{self.update_every}, lies between `begin_step` and `end_step`, got "
                f"{self.begin_step} and {self.end_step}."
            )

    def first(self, params: Params) -> Params:
        """Return the masks to begin with."""
        leaves, treedef = jax.tree.flatten(params)
        masks = [
            jnp.ones_like(leaf, dtype=bool)
            if target is None or self.gradual
            else _top_k_mask(_random_scores(key, leaf), target)
            for leaf, target, key in zip(
                leaves, self._targets(params), self._keys(len(leaves)), strict=True
            )
        ]
        return treedef.unflatten(masks)

    def is_due(self, count: jax.Array) -> jax.Array:
        """Return whether the masks change in the update with this count."""
        if self.grow is None and not self.gradual:
            return jnp.zeros((), bool)
        due = (count % self.update_every == 0) & (count >= self.begin_step)
        return due if self.end_step is None else due & (count <= self.end_step)

    def next(
        self, due: jax.Array, count: jax.Array, masks: Any, params: Any, grads: Any
    ) -> tuple[Any, Any]:
        """Return the masks of this update, and what of them was in the last ones.

        If not ``due``, all of them are the same.
        """
        leaves = [state_leaves(params, tree) for tree in (masks, params, grads)]
        new = list(leaves[0])
        sizes = enumerate(self._targets(params))
        sparse = {i: target for i, target in sizes if target is not None}

        def amounts(rows: Sequence[Leaf]) -> list[Amounts]:
            excess = self._excess_at(count)
            fraction = self.drop_fraction_at(count) if self.grow else None
            return [
                _amounts(row.mask, target, excess, fraction)
                for target, row in zip(sparse.values(), rows, strict=True)
            ]

        def draw(rows: Sequence[Leaf]) -> list[Leaf]:
            keys = self._keys(len(new), count)
            return [
                row._replace(score=_random_scores(keys[i], row.w))
                for i, row in zip(sparse, rows, strict=True)
            ]

        moved = next_masks(
            due,
            [Leaf(*(tree[i] for tree in leaves)) for i in sparse],
            amounts,
            grows=self.grow is not None,
            draw=draw if self.grow == "random" else None,
        )
        for i, mask in zip(sparse, moved, strict=True):
            new[i] = mask
        staying = [new & old for new, old in zip(new, leaves[0], strict=True)]
        treedef = jax.tree.structure(params)
        return treedef.unflatten(new), treedef.unflatten(staying)

    def drop_fraction_at(self, count: jax.Array) -> jax.Array:
        """Return the share of the weights that gives way to others."""
        value = evaluate(self.drop_fraction, count)
        if callable(self.drop_fraction) or self.end_step is None:
            return value
        # f_t = alpha / 2 (1 + cos(pi t / T))
        t = count.astype(value.dtype)
        return value / 2 * (1 + jnp.cos(jnp.pi * t / self.end_step))

    def _excess_at(self, count: jax.Array) -> jax.Array:
        """Return the share of the weights to be pruned that may stay for now."""
        if not self.gradual:
            return jnp.ones(())
        last = self._last_step()
        # S_t / S_T = 1 - (1 - t / T)^3 of them are gone (Zhu & Gupta, equation 1)
        return jnp.power(1 - jnp.minimum(count, last) / last, 3)

    def _last_step(self) -> int:
        """Return the last count of updates at which the masks change; 0 is never."""
        end = self.end_step or 0
        return end - end % self.update_every

    def _keys(self, n: int, count: jax.Array | None = None) -> jax.Array:
        key = jax.random.key(0) if self.key is None else self.key
        return jax.random.split(
            key if count is None else jax.random.fold_in(key, count), n
        )

    def _targets(self, params: Params) -> list[int | None]:
        """Return how many flags each leaf is to have; None where it is dense."""
        shapes = [shape_dtype_of(leaf)[0] for leaf in jax.tree.leaves(params)]
        sparse = [
            i
            for i, rule in enumerate(self._rules().resolve(params))
            if rule.regularizer is not None
            and math.prod(shapes[i]) > 0
            and (self.where is not None or len(shapes[i]) > 1)
        ]
        if shapes and not sparse:
            raise ValueError(
                "no parameter has two axes, so that nothing would be sparse. The names "
                f"are: {', '.join(leaf_names(params))}. Choose some with `where`."
            )
        chosen = [shapes[i] for i in sparse]
        densities = DISTRIBUTIONS[self.distribution](chosen, self.sparsity)
        targets: list[int | None] = [None] * len(shapes)
        for i, shape, density in zip(sparse, chosen, densities, strict=True):
            size = math.prod(shape)
            targets[i] = min(size, max(1, round(size * density)))
        return targets

    def _rules(self) -> RegularizerMap:
        # A map only for its patterns and their errors: l0 marks the sparse leaves.
        where = "*" if self.where is None else self.where
        rules = [(pattern, None) for pattern in _patterns("dense", self.dense)]
        rules += [(pattern, l0()) for pattern in _patterns("where", where)]
        return RegularizerMap(rules)


def _uniform(shapes: list[Shape], sparsity: float) -> list[float]:
    return [1 - sparsity] * len(shapes)


def _erk(shapes: list[Shape], sparsity: float) -> list[float]:
    """Return densities proportional to sum(shape) / prod(shape), 1 where that is more.

    Leaf by leaf, the weights to remove are rounded down before they are added up.
    """
    sizes = [math.prod(shape) for shape in shapes]
    n_zeros = [math.floor(sparsity * size) for size in sizes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    scale = 0.0
    # A density above 1 is cut off, and the other leaves make up for it: again, until
    # none is above 1.
    while len(dense) < len(shapes):
        rest = [i for i in range(len(shapes)) if i not in dense]
        n_ones = sum(sizes[i] for i in rest) - sum(n_zeros)
        scale = n_ones / sum(raw[i] * sizes[i] for i in rest)
        largest = max(raw[i] for i in rest)
        if scale * largest <= 1:
            break
        dense |= {i for i in rest if raw[i] == largest}
    return [1.0 if i in dense else scale * raw[i] for i in range(len(shapes))]


DISTRIBUTIONS = {"erk": _erk, "uniform": _uniform}


def _amounts(
    mask: jax.Array, target: int, excess: jax.Array, fraction: jax.Array | None
) -> Amounts:
    """Return how many weights stay and grow.

    Args:
      mask: Which weights are there.
      target: How many are there in the end.
      excess: Share of those to be pruned that may stay for now.
      fraction: Share of the weights to exchange; None if none grow.
    """
    # n_1, the number of weights after this: it falls if pruning is gradual
    surplus = jnp.round((mask.size - target) * excess).astype(jnp.int32)
    n_flags = jnp.minimum(jnp.sum(mask, dtype=jnp.int32), target + surplus)
    if fraction is None:
        return Amounts(n_flags, None)
    # k = max(1, round((1 - f_t) n_1)); the others are to grow
    n_kept = jnp.round(n_flags.astype(fraction.dtype) * (1 - fraction))
    n_kept = jnp.clip(n_kept.astype(jnp.int32), 1, n_flags)
    return Amounts(n_kept, n_flags - n_kept)


def _top_k_mask(score: jax.Array, k: Any) -> jax.Array:
    """Return a mask of the ``k`` largest scores; ``k`` may be traced."""
    return keep_largest(score, k, tuple(range(score.ndim)))


def _random_scores(key: jax.Array, like: Any) -> jax.Array:
    """Return uniform scores with the sharding of the array."""
    shape, dtype = shape_dtype_of(like)
    dtype = wide_dtype(dtype)
    # Random numbers have no sharding of their own: the sum takes that of the zeros.
    return jnp.zeros_like(like, dtype=dtype) + jax.random.uniform(key, shape, dtype)


def _patterns(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, Sequence) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        raise TypeError(f"`{name}` must be a pattern or patterns, got {value!r}.")
    return tuple(patterns)


def _check_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")
