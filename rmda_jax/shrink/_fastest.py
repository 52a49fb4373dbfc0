"""Widths that are fast here: plans with several multiples, run against each other."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rmda_jax._text import table_lines
from rmda_jax._types import Params
from rmda_jax.shrink._apply import apply
from rmda_jax.shrink._multiples import MultipleOf
from rmda_jax.shrink._plan import Plan, plan
from rmda_jax.shrink._program import program
from rmda_jax.shrink._timing import Timer, by_turns
from rmda_jax.shrink._trace import Couplings

SLOWER = 1.05  # what is slower by no more is as fast, and the smallest of it is taken


class WidthTrial(NamedTuple):
    """A plan, and how fast its small model is.

    Attributes:
      multiple_of: What its widths are multiples of.
      plan: The plan.
      weights: How many weights are left, as a share.
      seconds: Of the small model, the median.
      latency: Its seconds, as a share of those of the whole model.
    """

    multiple_of: MultipleOf
    plan: Plan
    weights: float
    seconds: float
    latency: float


class Fastest(NamedTuple):
    """What `fastest` found; its ``str`` is a table.

    Attributes:
      plan: The plan to take.
      multiple_of: What its widths are multiples of.
      trials: All that were run, in the order of ``multiples``.
    """

    plan: Plan
    multiple_of: MultipleOf
    trials: tuple[WidthTrial, ...]

    def __str__(self) -> str:
        rows = [
            (
                str(x.multiple_of),
                f"{x.weights:.2f}",
                f"{x.latency:.2f}",
                "taken" if x.plan is self.plan else "",
            )
            for x in self.trials
        ]
        lines, _ = table_lines(("multiple of", "weights", "latency", ""), rows)
        return "\n".join(line.rstrip() for line in lines)


def fastest(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    multiples: Sequence[MultipleOf] = (1, 4, 8, 16, 24, 32),
    couplings: Couplings | None = None,
    for_program: bool = False,
    repeats: int = 20,
    timer: Timer | None = None,
    **options: Any,
) -> Fastest:
    """Find the multiple with which the small model is fastest on this device.

    A narrower layer is not always a faster one: matrix units multiply tiles, and on CPU
    JAX 0.10 leaves a convolution of 16 channels to slower code than one of 17. So
    `plan` is made with each of some multiples, its small model is run, and the fastest
    is taken; of those that are slower than it by 5 % at the most, the one with the
    fewest weights.

    Args:
      fn: As in `plan`.
      params: As in `plan`.
      *inputs: Pytrees of arrays: what to run on. The latency is that of this batch.
      multiples: What to try, each as ``multiple_of`` of `plan`. Plans of equal widths
        are run once.
      couplings: As in `plan`.
      for_program: As in `plan`: then `program` runs the small params, else ``fn`` does.
      repeats: How often each is timed, by turns; the medians are kept.
      timer: What measures, in place of `by_turns` with the wall clock. The first call
        that it gets is one of the whole model.
      **options: Given to ``fn`` as they are.

    Returns:
      The plan, and what was measured.

    Raises:
      ValueError: there are no ``multiples``; as `plan`; as `apply`, where ``fn`` does
        not follow its params.
      TypeError: as `plan`.

    Examples:
      >>> from rmda_jax import shrink
      >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.ones((4, 20)), "out": jnp.ones((20, 3)).at[5:].set(0)}
      >>> x = jnp.ones((2, 4))
      >>> widths = lambda found: [x.plan.widths["in"] for x in found.trials]
      >>> widths(shrink.fastest(mlp, params, x, multiples=(1, 8, 32), repeats=3))
      [(4, 5), (4, 8), (4, 20)]
    """
    if not multiples:
        raise ValueError("`multiples` must have something to try, got none.")
    timer = timer or by_turns(repeats)
    makes = {"couplings": couplings, "for_program": for_program}
    plans = [
        plan(fn, params, *inputs, multiple_of=multiple, **makes, **options)
        for multiple in multiples
    ]
    numbers: dict[tuple[Any, ...], int] = {}
    calls = [_call(lambda p, *x: fn(p, *x, **options), params, inputs)]
    for made in plans:
        if (key := _key(made)) in numbers:
            continue
        numbers[key] = len(calls)
        small_fn = lambda p, *x: fn(p, *x, **options)
        if for_program:
            small_fn = program(made, fn, params, *inputs, **options)
        calls.append(_call(small_fn, apply(made, params), inputs))
    seconds = np.median(np.asarray(timer(calls)), axis=1)
    trials = []
    for multiple, made in zip(multiples, plans, strict=True):
        own = float(seconds[numbers[_key(made)]])
        share = _n_weights(made.widths) / _n_weights(made.shapes)
        trials.append(WidthTrial(multiple, made, share, own, own / float(seconds[0])))
    limit = SLOWER * min(x.seconds for x in trials)
    best = min((x for x in trials if x.seconds <= limit), key=lambda x: x.weights)
    return Fastest(best.plan, best.multiple_of, tuple(trials))


def _key(made: Plan) -> tuple[Any, ...]:
    """Return what plans of the same small model share."""
    return tuple(made.widths.items())


def _n_weights(shapes: Any) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _call(fn: Callable[..., Any], params: Params, inputs: Any) -> Callable[[], Any]:
    """Compile a function, and return a call of it."""
    run = jax.jit(fn).lower(params, *inputs).compile()
    return lambda: run(params, *inputs)
