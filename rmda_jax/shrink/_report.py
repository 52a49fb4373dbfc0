"""What became smaller, and how much faster it is here."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, Shape, shape_dtype_of
from rmda_jax.shrink._alive_costs import Costs
from rmda_jax.shrink._checks import check_call
from rmda_jax.shrink._plan import Plan
from rmda_jax.shrink._timing import Timer, by_turns
from rmda_jax.shrink._verify import OutputDifference, verify
from rmda_jax.specs._names import leaf_names, leaves_in_order_of
from rmda_jax.specs._report import called_out, passes_on, warn_of_zeros


@dataclasses.dataclass(frozen=True)
class BeforeAfter:
    """A number before and after."""

    before: float
    after: float

    @property
    def ratio(self) -> float:
        """After over before."""
        return self.after / self.before if self.before else math.nan


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """The leaves that share a parent: ``conv1/kernel`` and ``conv1/bias``."""

    name: str
    before: Shape  # of its largest leaf
    after: Shape
    parameters: BeforeAfter


@dataclasses.dataclass(frozen=True)
class Report:
    """Sizes and speeds before and after; made by `report`, a table as ``str``."""

    layers: tuple[LayerReport, ...]
    parameters: BeforeAfter
    disk_bytes: BeforeAfter  # of the arrays in a file
    # By the compiler's count, in which the body of a loop counts once; NaN if none.
    flops: BeforeAfter
    seconds: BeforeAfter  # medians of a call on this machine
    difference: OutputDifference
    all_zero: tuple[str, ...] = ()  # leaves before through which nothing passes
    gone: tuple[str, ...] = ()  # of the plan: layers of which nothing is left
    faster: float = 1.0  # share of the rounds in which the small one took less time
    latency: BeforeAfter | None = None  # seconds by the model of `latency`, if given

    @property
    def pays(self) -> bool:
        """Whether fewer FLOPs also take less time, in three rounds of four or more."""
        return not self.flops.ratio < 1 or self.faster >= 0.75

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("layer", "before", "after", "parameters", "ratio")
        ]
        for layer in self.layers:
            shapes = ["x".join(map(str, s)) or "1" for s in (layer.before, layer.after)]
            rows.append(
                (layer.name or "-", *shapes, *_cells(layer.parameters, "{:,.0f}"))
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        for name, change, form in (
            ("parameters", self.parameters, "{:,.0f}"),
            ("bytes on disk", self.disk_bytes, "{:,.0f}"),
            ("FLOPs", self.flops, "{:,.0f}"),
            ("seconds here", self.seconds, "{:.2e}"),
            ("seconds by the model", self.latency, "{:.2e}"),
        ):
            if change is not None:
                lines.append(f"{name}: {', '.join(_cells(change, form))}")
        if not self.pays:
            lines.append(
                f"it does not pay here: {self.flops.ratio:.2f} of the FLOPs, "
                f"{self.seconds.ratio:.2f} of the seconds, and faster in "
                f"{self.faster:.0%} of the rounds; `fastest` looks for other widths"
            )
        lines += self.gone
        return "\n".join([*lines, str(self.difference), *called_out(self.all_zero)])


def report(
    fn: Callable[..., Any],
    params: Params,
    small_params: Params,
    *inputs: Any,
    plan: Plan | None = None,
    small_fn: Callable[..., Any] | None = None,
    repeats: int = 20,
    costs: Costs | None = None,
    timer: Timer | None = None,
    **options: Any,
) -> Report:
    """Measure a function before and after: sizes, FLOPs, latency, difference.

    Smaller is not always faster: the report says if FLOPs fall and the time does not.

    Args:
      fn: Function of the params and the inputs.
      params: The params before.
      small_params: Those after, of `apply`.
      *inputs: What to run on. FLOPs and latency are those of this batch.
      plan: What `plan` returned: then layers of which nothing goes are left out, and
        both trees must have its shapes, as in `verify`.
      small_fn: Function of the small params, if it is another one; see `verify`.
      repeats: How often each is timed, by turns so that both meet the same load; the
        medians are kept.
      costs: What `latency` returned: then the report has the seconds by this model,
        too. It needs ``plan``.
      timer: What measures, in place of `by_turns` with the wall clock. The first call
        that it gets is the one before.
      **options: Given to both functions as they are.

    Returns:
      The report; its ``str`` is a table.

    Warns:
      UserWarning: all units of a leaf before are zero: nothing passes through it.

    Raises:
      ValueError: ``repeats`` is not positive, the trees have different leaves, the
        outputs different shapes, or ``costs`` come without a plan, or with another's.

    Examples:
      >>> from rmda_jax import shrink
      >>> mlp = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((4, 3)), "out": jnp.array([[1.0], [0.0], [2.0]])}
      >>> x = jnp.ones((2, 4))
      >>> small = shrink.apply(shrink.plan(mlp, params, x), params)
      >>> print(shrink.report(mlp, params, small, x, repeats=3))
      layer  before  after  parameters    ratio
      ...
      parameters: 15 -> 10, 0.67
      bytes on disk: 60 -> 40, 0.67
      ...
    """
    timer = timer or by_turns(repeats)
    check_call(fn, params, inputs)
    check_call(small_fn or fn, small_params, inputs, names="small_fn small_params")
    layers = _layers(params, small_params, plan)
    runs = [
        jax.jit(lambda p, *x, run=run: run(p, *x, **options))
        .lower(p, *inputs)
        .compile()
        for run, p in ((fn, params), (small_fn or fn, small_params))
    ]
    trees = params, small_params
    pairs = zip(runs, trees, strict=True)
    calls = [lambda run=run, p=p: run(p, *inputs) for run, p in pairs]
    rounds = np.asarray(timer(calls))
    all_zero = tuple(
        name
        for name, x in zip(leaf_names(params), jax.tree.leaves(params), strict=True)
        if passes_on(name, shape_dtype_of(x)[0]) and not np.any(x)
    )
    warn_of_zeros(all_zero, stacklevel=2)
    return Report(
        layers=layers,
        parameters=BeforeAfter(*(sum(map(_size, jax.tree.leaves(t))) for t in trees)),
        disk_bytes=BeforeAfter(
            *(sum(map(_n_bytes, jax.tree.leaves(t))) for t in trees)
        ),
        flops=BeforeAfter(*map(_flops, runs)),
        seconds=BeforeAfter(*map(float, np.median(rounds, axis=1))),
        difference=verify(
            fn, params, small_params, *inputs, small_fn=small_fn, plan=plan, **options
        ),
        all_zero=all_zero,
        gone=() if plan is None else plan.gone,
        faster=float(np.mean(rounds[1] < rounds[0])),
        latency=None if costs is None else _modelled(costs, plan),
    )


def _modelled(costs: Costs, plan: Plan | None) -> BeforeAfter:
    """Return the seconds before and after by the model of `latency`."""
    if plan is None:
        raise ValueError(
            "`costs` need the `plan`, which says how many units are left, got None."
        )
    after = costs.latency(jnp.asarray(costs.counts_of(plan.cuts)))
    return BeforeAfter(costs.total("latency"), float(after))


def _layers(
    params: Params, small: Params, plan: Plan | None
) -> tuple[LayerReport, ...]:
    small_leaves = leaves_in_order_of(
        params,
        small,
        "`small_params` must have the names of `params`",
        "Pass what `apply` returned for these params.",
    )
    rows = zip(leaf_names(params), jax.tree.leaves(params), small_leaves, strict=True)
    layers: dict[str, list[tuple[Shape, Shape]]] = {}
    for name, *pair in rows:
        old, new = (shape_dtype_of(x)[0] for x in pair)
        layers.setdefault(name.rpartition("/")[0], []).append((old, new))
    found = []
    for name, pairs in layers.items():
        if plan is not None and all(old == new for old, new in pairs):
            continue
        old, new = max(pairs, key=lambda pair: math.prod(pair[0]))
        numbers = (sum(math.prod(pair[i]) for pair in pairs) for i in (0, 1))
        found.append(LayerReport(name, old, new, BeforeAfter(*numbers)))
    return tuple(found)


def _flops(compiled: Any) -> float:
    analysis = compiled.cost_analysis()
    # A list of one before JAX 0.5, and nothing on some platforms.
    if isinstance(analysis, list):
        analysis = analysis[0] if analysis else None
    return float((analysis or {}).get("flops", math.nan))


def _size(x: Any) -> int:
    return math.prod(shape_dtype_of(x)[0])


def _n_bytes(x: Any) -> int:
    return _size(x) * shape_dtype_of(x)[1].itemsize


def _cells(change: BeforeAfter, form: str) -> tuple[str, str]:
    return (
        f"{form.format(change.before)} -> {form.format(change.after)}",
        f"{change.ratio:.2f}",
    )
