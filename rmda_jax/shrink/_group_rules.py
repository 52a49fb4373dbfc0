"""From couplings to a RegularizerMap: its groups are the units that can be removed."""

import fnmatch
import glob
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rmda_jax._types import Params, shape_dtype_of
from rmda_jax.regularizers.named._groups import group_lasso
from rmda_jax.regularizers.named._products import tied_group_lasso
from rmda_jax.shrink._checks import check_call
from rmda_jax.shrink._trace import UnitMember, trace
from rmda_jax.specs._map import RegularizerMap
from rmda_jax.specs._names import leaf_names

Side = Literal["consumers", "producers", "all"]


def group_rules(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    side: Side = "consumers",
    where: str | Sequence[str] = "*",
    weighted: bool = True,
    **options: Any,
) -> RegularizerMap:
    r"""Write the rules whose groups are the units of a model that can be removed.

    .. math:: \psi(W) = \sum_u \sqrt{|W_u|}\, \|W_u\|_2

    where :math:`W_u` are the weights of all leaves that read unit :math:`u`: a channel,
    also of a residual stream, a head, a gated unit. When a group is zero the unit is
    read by nothing, and `plan` finds it. Every weight is in at most one group.

    Where two groups of units would share weights (heads and the dimensions inside them,
    producers of one layer and consumers of the next), that of the larger units gets a
    rule, and the other none. Nor do units that cannot be removed, units that lie along
    two axes of one leaf (the kernel of a recurrent state: its rows and columns cross),
    and leaves that no unit touches.

    Args:
      fn: As in `trace`.
      params: As in `trace`; give batch statistics among them, as in ``{"params": ...,
        "batch_stats": ...}``, or they freeze what they normalize.
      *inputs: As in `trace`.
      side: Which members make a group: the ``"consumers"`` of a unit; its
        ``"producers"`` with biases, scales and shifts, whose zero makes a unit constant
        (let ``where`` leave out statistics, which are not trained); or ``"all"``.
      where: Patterns of the leaves that may be regularized.
      weighted: As in `group_lasso`.
      **options: Given to ``fn`` as they are.

    Returns:
      A map of ordinary rules where a group lies in one leaf, and ties where it spans
      several, in the names of ``params`` (without a leading ``params/``).

    Raises:
      ValueError: an unknown side, a pattern that matches nothing, or a model without a
        unit that can be removed; the message says what freezes them.
      TypeError: as in `trace`.

    Examples:
      >>> from rmda_jax import shrink
      >>> def gated(params, x):
      ...     gate = jax.nn.silu(x @ params["gate"])
      ...     return (gate * (x @ params["up"])) @ params["down"]
      >>> shapes = {"gate": (4, 8), "up": (4, 8), "down": (8, 4)}
      >>> params = {name: jnp.ones(shape) for name, shape in shapes.items()}
      >>> rules = shrink.group_rules(gated, params, jnp.ones((2, 4)), side="all").rules
      >>> for rule in rules:
      ...     print(rule.pattern, rule.regularizer)
      ('down', 'gate', 'up') tied_group_lasso(group_axes=(-2, -1, -1))

    References:
      Fang et al., `DepGraph: Towards Any Structural Pruning
      <https://arxiv.org/abs/2301.12900>`_, CVPR 2023, whose groups are coupled layers
      of PyTorch modules.
    """
    if side not in ("consumers", "producers", "all"):
        raise ValueError(
            f"`side` must be 'consumers', 'producers' or 'all', got {side!r}."
        )
    check_call(fn, params, inputs)
    names, leaves = leaf_names(params), jax.tree.leaves(params)
    shapes = {n: shape_dtype_of(x)[0] for n, x in zip(names, leaves, strict=True)}
    allowed = _matching(names, (where,) if isinstance(where, str) else where)
    couplings = trace(fn, params, *inputs, **options)
    places = [
        [_Place(m, shapes[m.leaf]) for m in units.members if _is_on(side, m)]
        for units in couplings.free
    ]
    places = [[p for p in group if p.leaf in allowed] for group in places]
    rules = [_rule(bunch, weighted) for bunch in _bunched(_disjoint(places))]
    if not rules:
        raise ValueError(
            f"the model has no unit whose {side} could be regularized: all are frozen, "
            "or lie along two axes of one leaf. What `trace` found:\n"
            f"{couplings or 'nothing'}"
        )
    return RegularizerMap(rules)


spec = group_rules  # an alias, the name of before


class _Place(NamedTuple):
    """Where the units of one group lie in one leaf."""

    member: UnitMember
    shape: tuple[int, ...]

    @property
    def leaf(self) -> str:
        return self.member.leaf

    @property
    def unit_size(self) -> int:
        n_positions = self.member.positions.shape[1]
        return n_positions * math.prod(self.shape) // self.shape[self.member.axis]


def _is_on(side: Side, member: UnitMember) -> bool:
    if side == "all":
        return True
    if side == "consumers":
        return "consumes" in member.roles
    return bool(member.roles - {"consumes"})


def _matching(names: Sequence[str], patterns: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ValueError(
                f"`where` matches no parameter with '{pattern}'. The names are: "
                f"{', '.join(names)}."
            )
        found.update(matched)
    return found


def _disjoint(sets: list[list[_Place]]) -> list[list[_Place]]:
    """Return the groups that share no weights, chosen from the largest units on."""
    by_size = lambda places: -sum(place.unit_size for place in places)
    taken: dict[str, tuple[int, set[int]]] = {}
    chosen = []
    for places in sorted(filter(None, sets), key=by_size):
        claims = [(p.leaf, p.member.axis, set(p.member.positions.flat)) for p in places]
        free = len({leaf for leaf, _, _ in claims}) == len(claims)
        for leaf, axis, positions in claims:
            # Along one axis other positions are other weights; two axes cross.
            front, before = taken.get(leaf, (axis, set()))
            free &= front == axis and not before & positions
        if free:
            chosen.append(places)
            for leaf, axis, positions in claims:
                taken[leaf] = axis, positions | taken.get(leaf, (axis, set()))[1]
    return chosen


def _bunched(sets: list[list[_Place]]) -> list[list[list[_Place]]]:
    """Merge groups that share a leaf, for a leaf may appear in one rule only."""
    bunches: list[list[list[_Place]]] = []
    leaves = lambda bunch: {place.leaf for places in bunch for place in places}
    for places in sets:
        apart, bunch = [], [places]
        for other in bunches:
            if leaves(other) & leaves([places]):
                bunch = other + bunch
            else:
                apart.append(other)
        bunches = [*apart, bunch]
    return sorted(bunches, key=lambda bunch: min(leaves(bunch)))


def _rule(bunch: list[list[_Place]], weighted: bool) -> tuple:
    axes: dict[str, int] = {}
    ids: dict[str, np.ndarray] = {}
    n_groups = 0
    for places in bunch:
        # Position by position, the number of the unit; -1 where none can be removed.
        size = len(places[0].member.positions)
        for member, shape in places:
            axes[member.leaf] = member.axis - len(shape)
            along = ids.setdefault(member.leaf, np.full(shape[member.axis], -1))
            along[member.positions] = n_groups + np.arange(size)[:, None]
        n_groups += size
    leaves = sorted(axes)
    if len(leaves) == 1:
        (leaf,) = leaves
        # Units that lie in blocks of one length are an ordinary group LASSO.
        block = len(ids[leaf]) // n_groups
        if np.array_equal(ids[leaf], np.repeat(np.arange(n_groups), block)):
            tiles = None if block == 1 else block
            alone = group_lasso(axes[leaf], weighted=weighted, block=tiles)
            return glob.escape(leaf), alone
    groups = [
        None if np.array_equal(ids[leaf], np.arange(n_groups)) else ids[leaf].tolist()
        for leaf in leaves
    ]
    tie = tied_group_lasso([axes[leaf] for leaf in leaves], groups, weighted=weighted)
    return tuple(glob.escape(leaf) for leaf in leaves), tie
