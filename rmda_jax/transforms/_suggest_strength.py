"""A first guess of the strength, from the params and gradients that a run starts with.

A unit is zero at the end only if the prox has the time to bring it there from where it
starts, and if the gradient does not hold it. Both are critical strengths, and the guess
lies between them.
"""

import dataclasses
import numbers
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, ScalarOrSchedule, wide_dtype
from rmda_jax.specs._leaf_rules import LeafRule, active
from rmda_jax.specs._names import leaf_names
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import (
    check_hyperparameter,
    check_params,
    check_restart_steps,
)

# The metric of a unit step, from the mean of the squared gradients; None: no metric.
_METRICS: dict[str, Callable[[jax.Array], jax.Array] | None] = {
    "rmda": None,
    "ramda": lambda square: jnp.cbrt(square) + 1e-6,
    "proxsgd": None,
    "proxgen": lambda square: jnp.sqrt(square) + 1e-8,
}
_DUAL_AVERAGING = ("rmda", "ramda")
# How near the upper bound, in logarithms: chosen on 20 problems of the tests.
_WEIGHT = 0.75
# Of the mean gradient's energy: with less, its size is all but a guess.
_LEAST_SIGNAL = 0.1
_LEAST_RATIO = 2.0  # of the two bounds: nearer, no strength between them was found


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Strengths to begin with; made by `suggest_strength`, which says more."""

    nothing_dies: float  # the median unit gets to zero within the run only above it
    everything_dies: float  # half of some layer goes at once, and more of it follows
    suggested: float

    def __str__(self) -> str:
        return (
            f"strength {self.suggested:.2g}: below {self.nothing_dies:.2g} the run is "
            f"too short for zeros, near {self.everything_dies:.2g} layers die"
        )


def suggest_strength(
    loss: Callable[..., Any],
    params: Params,
    regularizer: RegularizerSpec,
    batches: Iterable[Any],
    *,
    learning_rate: ScalarOrSchedule,
    total_steps: int,
    method: str = "rmda",
    restart_steps: Sequence[int] = (),
) -> Suggestion:
    r"""Suggest a strength for a run, from its first params and gradients alone.

    Nothing is trained. With :math:`\tau` the step sizes of the prox added up over the
    run, unit u of weight :math:`w_u` gets to zero only at a strength above both of

    .. math:: a_u = \|W_{0,u}\| / (\tau w_u), \qquad
        b_u = \|\bar g_u\| / w_u

    the first for the time that it takes, the second if the mean gradient holds it.
    ``nothing_dies`` is the median of the first over all units. ``everything_dies`` is
    the median of the second, its noise taken off, in the layer (the rule) where that is
    least: half of that layer would go at once, and its gradients carry the others. The
    suggestion is :math:`a^{1/4} b^{3/4}` of these two. Both are
    `Regularizer.critical_strengths`, for the adaptive methods in their metric.

    It is the first value of a search, and no more: how far gradients fall in training
    cannot be seen at the start. Where the size is known, give a `budget` instead.

    How good is it? ``RMDA_LONG=1 python -m pytest -s
    tests/transforms/test_suggest_strength.py`` trains 20 small nets by `rmda` at the
    suggestion. A success has a quarter of the units zero at the end, no layer zero as a
    whole, and an accuracy above the middle between chance and 1. Of 20 that had no part
    in choosing the rule, 15 were successes: all 13 MLPs and CNNs, 2 of 7 transformers.
    All had their accuracy, 0.88 at least. Of the five failures, three kept too many
    units in runs that were too short, of which it warned; in two, branches beside a
    residual stream became zero as a whole.

    Args:
      loss: ``loss(params, *batch)``, a scalar.
      params: The initial params; zeros among them count for nothing.
      regularizer: As the transformation takes it.
      batches: Several batches, at least 2; each is a tuple of arguments, or the only
        one. The 20 nets had 8 of the size that they were trained with.
      learning_rate: Of the run, a number or a schedule.
      total_steps: Updates of the whole run.
      method: ``"rmda"``, ``"ramda"``, ``"proxsgd"`` or ``"proxgen"``.
      restart_steps: Of the run, as `stages` gives them; for the first two only.

    Returns:
      A `Suggestion`; printed, it is a sentence.

    Raises:
      NotImplementedError: a regularizer has no critical strengths.
      TypeError: an argument is of another kind than it must be.
      ValueError: there are less than two batches, a number is out of range, the method
        is unknown, has no restarts, or moves nothing, no rule acts, or a gradient is
        not finite.

    Warns:
      UserWarning: the bounds are so near to each other that no strength is likely to
        lie between them; or the noise of the batches hides the gradient.

    Examples:
      >>> loss = lambda w, x, y: jnp.mean((x @ w - y) ** 2)
      >>> keys = jax.random.split(jax.random.key(0), 4)
      >>> inputs = [jax.random.normal(key, (32, 8)) for key in keys]
      >>> batches = [(x, x[:, :2]) for x in inputs]
      >>> guess = rj.suggest_strength(
      ...     loss,
      ...     jnp.full((8, 2), 0.3),
      ...     rj.group_lasso(0),
      ...     batches,
      ...     learning_rate=0.1,
      ...     total_steps=1000,
      ... )
      >>> guess.nothing_dies < guess.suggested < guess.everything_dies
      True
    """
    rules = _checked_rules(params, regularizer)
    reach = _reach(method, learning_rate, total_steps, restart_steps)
    gradients = _gradients(loss, params, batches)
    _check_finite(params, gradients.mean)
    metric = _METRICS[method]
    levels = jax.jit(lambda w, gradients: _levels(rules, w, gradients, reach, metric))
    low, high, signal = _bounds(*levels(params, gradients))
    if not (np.isfinite(low) and np.isfinite(high)):
        name = "the gradients" if np.isfinite(low) else "`params`"
        raise ValueError(
            f"{name} must hold units other than zero where a regularizer acts, got "
            "none. Suggest a strength at the params that training begins with."
        )
    _warn(low, high, signal)
    return Suggestion(low, high, low ** (1 - _WEIGHT) * high**_WEIGHT)


def _checked_rules(params: Params, regularizer: RegularizerSpec) -> list[LeafRule]:
    check_params(params)
    rules = active(resolve(regularizer, params))
    if not rules:
        raise ValueError(
            f"`regularizer` must act on some leaf, got {regularizer!r}, which leaves "
            "all alone. Give a rule for the leaves that are to have zeros."
        )
    return rules


def _reach(
    method: str,
    learning_rate: ScalarOrSchedule,
    total_steps: int,
    restart_steps: Sequence[int],
) -> float:
    r"""Return the step sizes of the prox of a whole run, added up over its stages.

    One stage of `rmda` ends at :math:`\tau_t`. In one of `ramda` the metric grows to
    :math:`\sqrt[3]{\alpha_t}` times its unit: there remains :math:`\alpha_t^{2/3}`.
    """
    if method not in _METRICS:
        raise ValueError(
            f"`method` must be one of {', '.join(_METRICS)}, got {method!r}."
        )
    if isinstance(total_steps, bool) or not isinstance(total_steps, numbers.Integral):
        raise TypeError(f"`total_steps` must be an integer, got {total_steps!r}.")
    if total_steps < 1:
        raise ValueError(f"`total_steps` must be positive, got {total_steps}.")
    check_hyperparameter("learning_rate", learning_rate)
    restarts = check_restart_steps(restart_steps)
    if restarts and method not in _DUAL_AVERAGING:
        raise ValueError(
            f"`restart_steps` must be empty for {method}, which has no restarts, got "
            f"{restarts}. They belong to {' and '.join(_DUAL_AVERAGING)}."
        )
    counts = jnp.arange(int(total_steps))
    rates = (
        jax.vmap(learning_rate)(counts) if callable(learning_rate) else learning_rate
    )
    rates = np.broadcast_to(np.asarray(rates, np.float64), counts.shape)
    reach = 0.0
    for stage in np.split(rates, [step for step in restarts if 0 < step < total_steps]):
        t = np.arange(1, len(stage) + 1)
        if method == "rmda":
            reach += np.sum(stage * np.sqrt(t)) / np.sqrt(len(stage))
        elif method == "ramda":
            reach += np.sum(stage * np.sqrt(t)) ** (2 / 3)
        else:
            reach += np.sum(stage)
    if not (reach > 0 and np.isfinite(reach)):
        raise ValueError(
            "`learning_rate` must be positive somewhere in the run and finite, got one "
            f"whose steps add up to {reach} in {total_steps} updates."
        )
    return float(reach)


class _Gradients(NamedTuple):
    """The gradients of several batches at the same params."""

    mean: Params
    square: Params  # the mean of the squares, entry by entry
    noise: Params  # standard deviation of the mean


def _gradients(
    loss: Callable[..., Any], params: Params, batches: Iterable[Any]
) -> _Gradients:
    """Return mean and spread of the gradients; no more than three trees are held."""
    if not isinstance(batches, Iterable) or isinstance(batches, jax.Array | np.ndarray):
        raise TypeError(
            "`batches` must be an iterable of batches, got "
            f"{type(batches).__name__}. Put them into a list: [(x, y), ...]."
        )

    @jax.jit
    def add(sums: Any, params: Params, *batch: Any) -> Any:
        grads = jax.grad(loss)(params, *batch)
        grads = jax.tree.map(lambda g: g.astype(wide_dtype(g.dtype)), grads)
        squares = jax.tree.map(jnp.square, grads)
        return jax.tree.map(jnp.add, sums, (grads, squares))

    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, wide_dtype(w.dtype)), params)
    sums, n = (zeros, zeros), 0
    for batch in batches:
        arguments = batch if isinstance(batch, tuple | list) else (batch,)
        sums = add(sums, params, *arguments)
        n += 1
    if n < 2:
        raise ValueError(
            f"`batches` must hold at least 2 batches, got {n}: the spread of their "
            "gradients is needed. 8 are a good number."
        )
    mean, square = jax.tree.map(lambda total: total / n, sums)
    noise = jax.tree.map(
        lambda m, s: jnp.sqrt(jnp.maximum(s - jnp.square(m), 0) / (n - 1)), mean, square
    )
    return _Gradients(mean, square, noise)


def _check_finite(params: Params, mean: Params) -> None:
    for tree, what in ((params, "`params`"), (mean, "the gradients of `loss`")):
        for name, x in zip(leaf_names(tree), jax.tree.leaves(tree), strict=True):
            if not jnp.all(jnp.isfinite(x)):
                raise ValueError(
                    f"{what} must be finite, got NaN or infinity in parameter "
                    f"'{name}'. Look at the loss on each of the batches."
                )


def _levels(
    rules: Sequence[LeafRule],
    params: Params,
    gradients: _Gradients,
    reach: float,
    metric_of: Callable[[jax.Array], jax.Array] | None,
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """Return per rule the critical strengths of start, mean gradient and noise."""
    leaves, mean, square, noise = map(jax.tree.leaves, (params, *gradients))
    metric = None if metric_of is None else [metric_of(s) for s in square]

    def away(grads: list[jax.Array]) -> list[jax.Array]:
        """Return the centre of the prox where it is the gradient alone that holds."""
        if metric is None:
            return [reach * g for g in grads]
        return [reach * g / d for g, d in zip(grads, metric, strict=True)]

    def levels(center: list[jax.Array]) -> list[jax.Array]:
        return [
            rule.regularizer.critical_strengths(
                rule.take(center),
                reach * rule.multiplier,
                None if metric is None else rule.take(metric),
            ).ravel()
            for rule in rules
        ]

    return levels(leaves), levels(away(mean)), levels(away(noise))


def _bounds(
    starts: list[jax.Array], means: list[jax.Array], noises: list[jax.Array]
) -> tuple[float, float, float]:
    """Return the two bounds, and the least share of signal in a rule's gradient.

    A bound is infinite where no unit has a level.
    """
    held, signals = [np.inf], []
    for mean, noise in zip(map(_nonzero, means), map(_nonzero, noises), strict=True):
        if not mean.size:
            signals.append(0.0)
            continue
        # The noise of the mean is in its norm as well: the squares add up.
        signals.append(1 - np.sum(np.square(noise)) / np.sum(np.square(mean)))
        share = np.sqrt(max(signals[-1], _LEAST_SIGNAL))
        held.append(float(share * np.median(mean)))
    start = np.concatenate([_nonzero(levels) for levels in starts])
    low = float(np.median(start)) if start.size else np.inf
    return low, min(held), min(signals)


def _nonzero(levels: jax.Array) -> np.ndarray:
    """Return the levels but those of zero units and of units that never vanish."""
    array = np.asarray(levels, np.float64)
    return array[(array > 0) & np.isfinite(array)]


def _warn(low: float, high: float, signal: float) -> None:
    if signal < _LEAST_SIGNAL:
        warnings.warn(
            "the mean gradient of some leaf is zero, or hidden by the noise of the "
            "batches, so that the suggestion may be far off. Pass more or larger "
            "`batches`; where the gradient is zero at the start, params of later on.",
            UserWarning,
            stacklevel=3,
        )
    if high < _LEAST_RATIO * low:
        warnings.warn(
            f"no strength is likely to make zeros and to leave a net: below {low:.2g} "
            f"the run is too short for zeros, near {high:.2g} layers die. "
            "Raise `total_steps` or `learning_rate`, or give a budget.",
            UserWarning,
            stacklevel=3,
        )
