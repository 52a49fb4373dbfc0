"""One run: zeros by one of the methods, the small model, and its recovery.

The loss is the cross-entropy of the text plus the KL divergence from the dense model,
which is the model before training; a mean over tokens. All methods take the same
batches in the same number of steps:

- dense: AdamW all along, without a budget.
- magnitude, taylor, wanda (`criteria`): zeros at once; then AdamW, all along, on the
  small model. What they calibrate on are the first batches, beyond the steps.
- rmda, ramda, proxgen: from the pretrained weights, which are the anchor of dual
  averaging, with a budget that falls along a ramp to the last step of the first half;
  then AdamW on the small model. AdamW starts anew, without the method's moments.

These three take l0 of the norms of units, or the group lasso. That also shrinks what it
keeps, by what it takes to zero the next unit, and pretrained units are almost of one
size: it leaves little of their weights, at once.

Every budget is a share of each layer's groups of heads and of its gated units.
"""

import functools
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmda_jax as rj
from examples.pretrained import corpus, model, shrinking
from examples.pretrained.criteria import CRITERIA, cross_entropy

AT_ONCE = tuple(CRITERIA)
OWN_RATE = ("rmda", "ramda", "proxgen")  # of the half that makes the zeros
METHODS = ("dense", *AT_ONCE, *OWN_RATE)
PRETRAINED = "pretrained"  # no method: the weights as they came, in no steps
CALIBRATION = 8  # batches
AVERAGING = 0.1  # of rmda and ramda
WARM_UP = 0.1  # of the steps of a half, or of all
CLIP = 1.0  # the norm of a gradient at most
PRINT_EVERY = 10  # steps


class DivergedError(Exception):
    """A loss was not finite; the message says at which step."""


class Run(NamedTuple):
    """What makes a run; two runs of the same values are the same."""

    method: str
    keep: float  # of the units; 1 for dense
    seed: int  # of the order of the batches
    steps: int
    rate: float  # of the method that makes the zeros, or of AdamW where none does
    recovery: float  # the rate of AdamW
    penalty: str  # of rmda, ramda and proxgen: l0 or lasso; else empty
    layers: int | None
    batch: int  # windows
    length: int  # tokens of a window
    measured: int  # windows of each text


class Dense(NamedTuple):
    """The pretrained model, and what is compiled once for all runs."""

    config: model.Config
    params: Any
    fn: model.Fn
    rules: dict[str, Any]  # by penalty
    gradient: Any  # of (params, dense params, windows): the loss and its gradient
    likelihood: Any  # of (params, windows): the mean negative log-likelihood


def dense(config: model.Config, params: Any) -> Dense:
    """Return the pretrained model, ready for runs."""
    fn, shapes = model.function(config)
    loss = lambda params, teacher, rows: distilled(fn, params, teacher, rows)
    likelihood = lambda params, rows: cross_entropy(fn, params, rows)
    lasso = shrinking.unit_rules(fn, shapes)
    rules = {"lasso": lasso, "l0": shrinking.without_pull(lasso)}
    gradient = jax.jit(jax.value_and_grad(loss))
    return Dense(config, params, fn, rules, gradient, jax.jit(likelihood))


def distilled(fn: model.Fn, params: Any, teacher: Any, rows: jax.Array) -> jax.Array:
    """Return cross-entropy plus KL divergence from the teacher, a mean over tokens."""
    inputs, labels = rows[:, :-1], rows[:, 1:, None]
    log_p = jax.nn.log_softmax(fn(params, inputs))
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(fn(teacher, inputs)))
    of_text = -jnp.take_along_axis(log_p, labels, axis=-1)[..., 0]
    from_teacher = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
    return jnp.mean(of_text + from_teacher)


def perplexity(of: Dense, params: Any, rows: np.ndarray, batch: int) -> float:
    """Return exp of the mean negative log-likelihood of windows."""
    parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    sums = [len(part) * float(of.likelihood(params, part)) for part in parts]
    return float(np.exp(sum(sums) / len(rows)))


def adamw(rate: Any, steps: int) -> optax.GradientTransformation:
    """Return AdamW with a linear warm-up and a cosine to zero."""
    warm = warm_up(steps)
    of_one = optax.warmup_cosine_decay_schedule(1 / warm, 1.0, warm, steps + 1)
    return clipped(optax.adamw(lambda count: rate * of_one(count)))


def structured(method: str, rate: Any, rules: Any, keep: float, steps: int) -> Any:
    """Return rmda, ramda or proxgen, whose budget is reached at the last step."""
    warm = warm_up(steps)
    of_one = optax.warmup_constant_schedule(1 / warm, 1.0, warm)
    rates = lambda count: rate * of_one(count)
    size = rj.budget(groups=keep, per_rule=True, ramp_steps=steps - 1)
    if method == "proxgen":
        return clipped(rj.proxgen(rates, rules, size))
    make = {"rmda": rj.rmda, "ramda": rj.ramda}[method]
    return clipped(make(rates, rules, size, averaging=AVERAGING))


def warm_up(steps: int) -> int:
    """Return the number of steps of the warm-up."""
    return max(1, round(WARM_UP * steps))


def clipped(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return a method that sees gradients of norm CLIP at most."""
    return optax.chain(optax.clip_by_global_norm(CLIP), tx)


class Optimizer(NamedTuple):
    """A method, compiled for all rates."""

    init: Any  # of params: the state
    update: Any  # of (params, state, gradient, rate): new params and state, in place


@functools.cache
def optimizer(
    method: str, steps: int, keep: float = 1.0, rules: Any = None
) -> Optimizer:
    """Return AdamW, or one of OWN_RATE with a budget."""

    def at(rate: Any) -> optax.GradientTransformation:
        if method in OWN_RATE:
            return structured(method, rate, rules, keep, steps)
        return adamw(rate, steps)

    def step(params: Any, state: Any, grads: Any, rate: Any) -> tuple[Any, Any]:
        updates, state = at(rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return Optimizer(jax.jit(at(1.0).init), jax.jit(step, donate_argnums=(0, 1)))


def train(
    of: Dense, by: Optimizer, rate: float, params: Any, rows: Iterable[np.ndarray]
) -> tuple[Any, Any]:
    """Take a step for each batch of windows.

    Returns:
      The params and the state of the optimizer.

    Raises:
      DivergedError: a loss is not finite.
    """
    params = jax.tree.map(jnp.copy, params)  # of the dense model's memory nothing goes
    state = by.init(params)
    for i, batch in enumerate(rows, 1):
        loss, grads = of.gradient(params, of.params, batch)
        if not np.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {i}")
        if i % PRINT_EVERY == 0:
            print(f"  step {i}: loss {loss:.4g}", flush=True)
        params, state = by.update(params, state, grads, rate)
        del grads  # before the next ones are made
    return params, state


def zeros_of(of: Dense, run: Run, text: corpus.Corpus, rows: Iterator[Any]) -> Any:
    """Return the dense params with zeros, trained with a budget or made at once."""
    if run.method in AT_ONCE:
        calibration = min(CALIBRATION, run.steps)
        some = corpus.batches(text.train, calibration, run.batch, run.seed)
        scores = CRITERIA[run.method](of.config, of.params, some)
        budget = shrinking.budget(run.keep, per_layer=True)
        return shrinking.zeroed(of.params, of.rules["lasso"], budget, scores)
    half = run.steps // 2
    rules = of.rules[run.penalty]
    by = optimizer(run.method, half, run.keep, rules)
    first = itertools.islice(rows, half)
    params, state = train(of, by, run.rate, of.params, first)
    if run.method == "proxgen":  # whose params have the zeros
        return params
    return rj.structured_params(state, rules)


def smaller(of: Dense, zeros: Any) -> Any:
    """Return the small params of params with zeros; the same function takes them."""
    plan = rj.shrink.plan(of.fn, zeros, shrinking.SOME)
    return rj.shrink.apply(plan, zeros)


def trained(
    of: Dense, run: Run, text: corpus.Corpus, parts: tuple[str, ...]
) -> tuple[Any, dict[str, Any]]:
    """Do one run.

    Args:
      of: The pretrained model.
      run: What to do.
      text: The windows.
      parts: The texts whose perplexities are measured.

    Returns:
      The params, and what was measured: the perplexities after the zeros and at the
      end, sizes, and seconds without those of the measurements.

    Raises:
      DivergedError: a loss is not finite.
    """
    measure = lambda params: {
        part: perplexity(of, params, getattr(text, part), run.batch) for part in parts
    }
    rows = corpus.batches(text.train, run.steps, run.batch, run.seed)
    params, zeros, left, start = of.params, None, run.steps, time.perf_counter()
    if run.method in AT_ONCE + OWN_RATE:
        params = smaller(of, zeros_of(of, run, text, rows))
        stop = time.perf_counter()
        zeros = measure(params)
        start += time.perf_counter() - stop  # measuring is not counted
        left -= run.steps // 2 if run.method in OWN_RATE else 0
    if left:
        params, _ = train(of, optimizer("adamw", left), run.recovery, params, rows)
    seconds = time.perf_counter() - start
    return params, {
        "zeros": zeros,
        "end": measure(params),
        "parameters": shrinking.count(params),
        "widths": sorted(set(map(tuple, shrinking.widths(params)))),
        "seconds": round(seconds),
    }
