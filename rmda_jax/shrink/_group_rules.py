"""From couplings to a RegularizerMap: its groups are the units that can be removed."""

import dataclasses
import fnmatch
import glob
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, shape_dtype_of
from rmda_jax.regularizers.named._groups import group_lasso
from rmda_jax.regularizers.named._products import tied_group_lasso
from rmda_jax.shrink._branches import branches_and_layers, layers_among
from rmda_jax.shrink._checks import check_call
from rmda_jax.shrink._trace import Couplings, Traced, hold_back, traced
from rmda_jax.shrink._unit_places import Place, Side, is_on, removing
from rmda_jax.shrink.interpret._axes import SCAN
from rmda_jax.specs._leaf_rules import LeafRule
from rmda_jax.specs._map import RegularizerMap
from rmda_jax.specs._names import leaf_names


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class UnitRules(RegularizerMap):
    """The rules that `group_rules` writes.

    Attributes:
      rules: The rules.
      left_out: The groups of units that have none, by their axes, and why; but for what
        is no hidden unit: inputs and outputs, layers of a scan, windows.
    """

    left_out: tuple[str, ...]

    def __init__(self, rules: Iterable[tuple], left_out: Iterable[str] = ()):
        super().__init__(rules)
        object.__setattr__(self, "left_out", tuple(left_out))

    def __str__(self) -> str:
        return "\n".join([repr(self), *self._lines()])

    def _lines(self) -> list[str]:
        return [f"no rule for {line}" for line in self.left_out]

    def _remarks(self, rules: list[LeafRule], params: Params) -> list[str]:
        return [*super()._remarks(rules, params), *self._lines()]


def group_rules(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    side: Side = "consumers",
    where: str | Sequence[str] = "*",
    weighted: bool = True,
    couplings: Couplings | None = None,
    for_program: bool = False,
    depth: bool = False,
    **options: Any,
) -> UnitRules:
    r"""Write the rules whose groups are the units of a model that can be removed.

    .. math:: \psi(W) = \sum_u \sqrt{|W_u|}\, \|W_u\|_2

    where :math:`W_u` are the weights of all leaves that read unit :math:`u`: a channel,
    also of a residual stream, a head, a gated unit, an entry of a recurrent state. A
    kernel may be put together before use, from the gates of an LSTM or the terms of
    LoRA: then these leaves read the unit together. When a group is zero the unit is
    read by nothing, and `plan` finds it: every group is checked by a plan for params
    that have zeros there. Every weight is in at most one group.

    Units have no rule where such zeros do not remove them: a product of activations
    reads them, too, or the function computes with their number. Where two groups of
    units would share weights (heads and the dimensions inside them, producers of one
    layer and consumers of the next), that of the larger units gets a rule, and the
    other none; units inside of a kernel, as the rank of LoRA, come last. The result and
    its report name the units without a rule, and say why.

    Args:
      fn: As in `trace`.
      params: As in `trace`; give batch statistics among them, as in ``{"params": ...,
        "batch_stats": ...}``, or they freeze what they normalize.
      *inputs: As in `trace`.
      side: Which members make a group: the ``"consumers"`` of a unit; its
        ``"producers"`` with biases, scales and shifts, whose zero makes a unit constant
        (let ``where`` leave out statistics, which are not trained); or ``"all"``.
      where: Patterns of the leaves that may be regularized. Units that do not go
        without zeros in others have no rule.
      weighted: As in `group_lasso`.
      couplings: As in `plan`: groups of units that it is to leave have no rule.
      for_program: Whether zeros are to be removed by a plan with ``for_program``. It
        can do more: sums over units can spare those whose producers are zero, and the
        function's own numbers do not matter. A function that keeps a number of heads
        may hold heads back without.
      depth: Whether the groups are branches and layers in place of units. A branch is a
        way around which others lead, as in ``x + mlp(x)``: its group has all weights
        that read its hidden units. A layer of a scan goes when it is the identity: its
        group has the last weights of its branches, with their biases. Only for side
        ``"consumers"``. Of a branch that is zero a plan without ``for_program`` leaves
        one unit.
      **options: Given to ``fn`` as they are.

    Returns:
      A RegularizerMap of ordinary rules where a group lies in one leaf, and of ties
      where it spans several, in the names of ``params`` (without a leading
      ``params/``). Its ``left_out`` says which units have no rule, and why.

    Raises:
      ValueError: an unknown side, or another than consumers with ``depth``; a pattern
        that matches nothing, or a model without a unit that can be removed; the message
        says why, and which side has some.
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
    if side not in get_args(Side):
        raise ValueError(
            f"`side` must be 'consumers', 'producers' or 'all', got {side!r}."
        )
    if depth and side != "consumers":
        raise ValueError(f"`side` must be 'consumers' with `depth`, got {side!r}.")
    check_call(fn, params, inputs)
    names, leaves = leaf_names(params), jax.tree.leaves(params)
    shapes = {n: shape_dtype_of(x)[0] for n, x in zip(names, leaves, strict=True)}
    allowed = _matching(names, (where,) if isinstance(where, str) else where)
    allowed &= _real(names, leaves)
    options["for_program"] = for_program
    traces = traced(fn, params, *inputs, **options)
    hold_back(traces, couplings)

    def chosen(side: Side) -> _Chosen:
        places = [
            [] if u.frozen else [Place(m, shapes[m.leaf]) for m in u.members]
            for u in traces.units.values()
        ]
        places = [
            [p for p in group if is_on(side, p.member) and p.leaf in allowed]
            for group in places
        ]
        given = {"places": places, "couplings": couplings}
        found = removing(fn, params, *inputs, **given, **options)
        if depth:
            found = branches_and_layers(traces, leaves, found, allowed)
            given["places"] = layers_among(traces, found)
            proven = removing(fn, params, *inputs, **given, **options)
            rows = zip(found, given["places"], proven, strict=True)
            found = [new if layers else old for old, layers, new in rows]
        return _Chosen.of(traces, found, with_layers=depth)

    groups, left_out = chosen(side)
    if not groups:
        sides = () if depth else get_args(Side)
        others = (s for s in sides if s != side and chosen(s).groups)
        hint = next((f"; side={s!r} has some" for s in others), "")
        of_side = "members" if side == "all" else side
        what = "branch or layer that" if depth else f"unit whose {of_side}"
        raise ValueError(
            f"the model has no {what} could be regularized{hint}. What "
            f"`trace` found: {'; '.join(left_out) or 'only inputs and outputs'}."
        )
    return UnitRules([_rule(bunch, weighted) for bunch in _bunched(groups)], left_out)


spec = group_rules  # an alias, the name of before

_NOT_HIDDEN = {"an input", "an output", SCAN, "the window of a convolution"}


class _Chosen(NamedTuple):
    """The groups that get rules, and which units have none, and why."""

    groups: list[list[Place]]
    left_out: list[str]

    @classmethod
    def of(
        cls, traces: Traced, found: list[list[Place] | str], *, with_layers: bool
    ) -> "_Chosen":
        sets = [x if isinstance(x, list) else [] for x in found]
        # Units inside of a kernel, such as the rank of LoRA, come after all others.
        outer = {
            atom
            for role in traces.axes.roles
            if role.stage != "building"
            for atom, _ in role.index_set.atoms()
        }
        numbers = _disjoint(sets, [atom in outer for atom in traces.units])
        left_out = []
        skipped = _NOT_HIDDEN - ({SCAN} if with_layers else set())
        rows = zip(traces.units.items(), found, strict=True)
        for number, ((atom, group), places) in enumerate(rows):
            if number in numbers or group.frozen & skipped or group.size == 1:
                continue
            is_read = any(member.roles for member in group.members)
            if not is_read and SCAN not in group.frozen:
                continue  # no output depends on them, as on averages for training
            if group.frozen and not traces.may_lose_layers(atom):
                why = "; ".join(sorted(group.frozen))
            elif isinstance(places, str):
                why = places
            else:
                why = "they share weights with units that have one"
            if why:
                left_out.append(f"{group.size} units {group.name}: {why}")
        return cls([sets[number] for number in numbers], left_out)


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


def _real(names: Sequence[str], leaves: Sequence[Any]) -> set[str]:
    """Return the leaves that a regularizer takes: no quantized or complex kernels."""
    is_real = lambda x: jnp.issubdtype(shape_dtype_of(x)[1], jnp.floating)
    return {name for name, x in zip(names, leaves, strict=True) if is_real(x)}


def _disjoint(sets: list[list[Place]], first: Sequence[bool]) -> list[int]:
    """Return which groups share no weights, chosen from the largest units on."""
    size = lambda number: sum(place.unit_size for place in sets[number])
    by_size = lambda number: (not first[number], -size(number))
    given = [number for number, places in enumerate(sets) if places]
    taken: dict[str, tuple[int, set[int]]] = {}
    chosen = []
    for number in sorted(given, key=by_size):
        claims = [
            (p.leaf, p.member.axis, set(p.member.positions.flat)) for p in sets[number]
        ]
        free = True
        for leaf, axis, positions in claims:
            # Along one axis other positions are other weights; two axes cross.
            front, before = taken.get(leaf, (axis, set()))
            free &= front == axis and not before & positions
        if free:
            chosen.append(number)
            for leaf, axis, positions in claims:
                taken[leaf] = axis, positions | taken.get(leaf, (axis, set()))[1]
    return chosen


def _bunched(sets: list[list[Place]]) -> list[list[list[Place]]]:
    """Merge groups that share a leaf, for a leaf may appear in one rule only."""
    bunches: list[list[list[Place]]] = []
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


def _rule(bunch: list[list[Place]], weighted: bool) -> tuple:
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
