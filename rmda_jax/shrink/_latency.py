r"""How long a model would take without its dead units, fitted to what was measured.

The seconds of a call are modelled by what it does:

.. math:: \operatorname{seconds}(n) = a + b \operatorname{flops}(n)
    + c \operatorname{entries}(n), \qquad a, b, c \ge 0

with the entries of all arrays that its equations read and make. The small programs are
run at some widths, and a, b and c fitted; at other widths the model is compared.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params
from rmda_jax.shrink._alive_costs import Costs
from rmda_jax.shrink._arithmetic import entries, flops
from rmda_jax.shrink._costs import costs_and_trace
from rmda_jax.shrink._lengths import Lengths, Polynomial, Terms, constant, value_at
from rmda_jax.shrink._rule_units import generic_values
from rmda_jax.shrink._timing import Timer, Timing, by_turns
from rmda_jax.shrink._trace import Couplings, Traced
from rmda_jax.shrink.interpret._index_sets import IndexSet
from rmda_jax.shrink.interpret._small import SmallInterpreter
from rmda_jax.specs._resolve import RegularizerSpec

N_FITTED, N_CHECKED = 6, 3


def latency(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    regularizer: RegularizerSpec,
    couplings: Couplings | None = None,
    repeats: int = 10,
    timer: Timer | None = None,
    **options: Any,
) -> Costs:
    r"""Measure what a model would take on this device without the units that died.

    .. math:: \operatorname{seconds}(n) = a + b \operatorname{flops}(n)
        + c \operatorname{entries}(n), \qquad a, b, c \ge 0

    where :math:`n_s` units of group :math:`s` are alive, and entries are those of all
    arrays that the equations read and make. The model without its dead units is run at
    nine widths, by turns: as a whole, at a half and a quarter of the units of every
    group, and at six random widths. To six of them a, b and c are fitted, with the
    least squares of relative errors; the model is compared with the last three, and
    the largest of these errors is ``latency_error``.

    The model is smooth, and hardware is not: a width of 97 may take as long as one of
    128, and a library may take another way at 16 channels than at 17. Where the error
    is large, look for widths that fit by `fastest`. Of latencies only the ratios are of
    use elsewhere, and only those of a machine that did nothing else.

    This compiles nine programs: some seconds for small models, a minute for a ResNet-50
    on two CPU cores.

    Args:
      fn: As in `trace`.
      params: As in `trace`: shapes are enough.
      *inputs: Pytrees of arrays: what to run on. The latency is that of this batch.
      regularizer: As in `costs`.
      couplings: As in `plan`.
      repeats: How often every width is timed; the medians are kept.
      timer: What measures, in place of `by_turns` with the wall clock. The calls that
        it gets have the attribute ``counts``: how many units of each group they have.
      **options: Given to ``fn`` as they are.

    Returns:
      What `costs` returns, with the cost ``"latency"``; ``timings`` has what was
      measured, and ``str`` the error.

    Raises:
      ValueError: as `costs`; ``repeats`` is not positive, or a measured time.
      TypeError: as in `trace`; or an input is no array, but a shape.

    Examples:
      >>> from rmda_jax import shrink
      >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((64, 256)), "out": jnp.ones((256, 10))}
      >>> x = jnp.ones((128, 64))
      >>> rules = shrink.group_rules(mlp, params, x)
      >>> timer = lambda calls: jnp.array([[1e-6 * x.counts[0]] for x in calls])
      >>> costs = shrink.latency(mlp, params, x, regularizer=rules, timer=timer)
      >>> round(costs.share("latency", jnp.array([64])).item(), 6)
      0.25
      >>> budget = rj.budget(latency=0.5, costs=costs)

      Without ``timer`` the programs are timed.
    """
    timer = timer or by_turns(repeats)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(inputs)):
        raise TypeError(
            "`inputs` must be arrays, which the model runs on, got a ShapeDtypeStruct. "
            "Pass a batch."
        )
    costs, found, atoms = costs_and_trace(
        fn, params, *inputs, regularizer=regularizer, couplings=couplings, **options
    )
    sizes = np.array([units.size for units in costs.units])
    widths = _widths(sizes)
    values = generic_values(jax.tree.leaves(params))
    calls = [_SmallCall.of(found, atoms, counts, values, inputs) for counts in widths]
    seconds = np.median(np.asarray(timer(calls)), axis=1)
    if not ((seconds > 0) & np.isfinite(seconds)).all():
        raise ValueError(
            f"`timer` must return positive seconds, got {seconds.tolist()}. Time more "
            "calls in one, if the clock is too coarse for one."
        )
    polynomials = _polynomials(found, Lengths({a: i for i, a in enumerate(atoms)}))
    features = np.array(
        [[value_at(p, counts) for p in polynomials] for counts in widths], float
    )
    weights = _fitted(features[:N_FITTED], seconds[:N_FITTED])
    rows = zip(widths, seconds, features @ weights, strict=True)
    timings = tuple(
        Timing(tuple(map(int, counts)), float(measured), float(modelled), i < N_FITTED)
        for i, (counts, measured, modelled) in enumerate(rows)
    )
    model = _sum(weights, polynomials)
    return dataclasses.replace(
        costs,
        timings=timings,
        _terms={**costs._terms, "latency": Terms.of(model, len(sizes))},
        _totals={**costs._totals, "latency": timings[0].modelled},
    )


def _widths(sizes: np.ndarray) -> list[np.ndarray]:
    """Return the widths to run: first the whole model, last those to check with."""
    rng = np.random.default_rng(0)
    shares = [np.ones(len(sizes)), np.full(len(sizes), 0.5), np.full(len(sizes), 0.25)]
    n_random = N_FITTED + N_CHECKED - len(shares)
    shares += list(rng.uniform(0.1, 1, (n_random, len(sizes))))
    return [np.maximum(np.round(share * sizes), 1).astype(int) for share in shares]


@dataclasses.dataclass(frozen=True, eq=False)
class _SmallCall:
    """A call of the model at some widths, compiled when it is first made."""

    counts: np.ndarray
    _run: Callable[..., Any]
    _args: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        found: Traced,
        atoms: Sequence[IndexSet],
        counts: np.ndarray,
        values: Sequence[Any],
        inputs: Any,
    ) -> "_SmallCall":
        """Return a call of the jaxpr without the last units of every group.

        Args:
          found: The trace.
          atoms: Of the groups of units.
          counts: How many units of each are left.
          values: Of the leaves, at full size.
          inputs: What to run on.
        """
        rows = zip(atoms, counts, strict=True)
        removed = {atom: np.arange(atom.size) >= n for atom, n in rows}
        small = SmallInterpreter(found.axes, removed)
        leaves = [
            jnp.asarray(small.taken(x, value.axes))
            for x, value in zip(values, found.leaves, strict=True)
        ]
        args = (leaves, jax.tree.leaves(inputs))

        def run(leaves: Any, inputs: Any) -> Any:
            interpreter = SmallInterpreter(found.axes, removed).at(())
            return interpreter.eval_closed_jaxpr(found.closed, [*leaves, *inputs])

        return cls(counts, jax.jit(run), args)

    def __call__(self) -> Any:
        return self._run(*self._args)


def _polynomials(found: Traced, lengths: Lengths) -> list[Polynomial]:
    """Return what the seconds are a sum of: a call, its FLOPs, its entries."""
    return [constant(1), flops(found.axes, lengths), entries(found.axes, lengths)]


def _fitted(features: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the weights, none negative, with the least squares of relative errors.

    Those of the best subset of features whose weights are positive: one of few.
    """
    scale = features.max(axis=0)
    rows = features / scale / seconds[:, None]
    best, least = np.zeros(features.shape[1]), np.inf
    subsets = itertools.product([False, True], repeat=features.shape[1])
    for subset in map(np.array, subsets):
        weights = np.zeros(len(subset))
        weights[subset] = np.linalg.lstsq(rows[:, subset], np.ones(len(rows)))[0]
        off = np.sum((rows @ weights - 1) ** 2)
        if (weights >= 0).all() and off < least:
            best, least = weights, off
    return best / scale


def _sum(
    weights: np.ndarray, polynomials: Sequence[Polynomial]
) -> Mapping[tuple[int, ...], float]:
    """Return a sum of polynomials with weights."""
    total: dict[tuple[int, ...], float] = {}
    for weight, polynomial in zip(weights, polynomials, strict=True):
        for product, coefficient in polynomial.items():
            total[product] = total.get(product, 0.0) + float(weight) * coefficient
    return total
