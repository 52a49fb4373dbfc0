"""Does the growing step of RMDA replace the slope that PARQ anneals?

PARQ makes its prox hard by a schedule. The prox of RMDA takes a step that grows of its
own accord, so that with a fixed strength its map becomes steep and then hard, too. A
network of 64 hidden units learns 8x8 digits with all weights on three or four levels
per layer, estimated by least squares every ten steps:

- PARQ: SGD with momentum, the slope annealed over the first three quarters of the run;
- PARQ, hard: the same without annealing, which is the straight-through estimator;
- RMDA: a fixed strength, with which the map is hard from three quarters of the run on;
- RMDA, hard: from the first step on;
- rounded: SGD with momentum on plain weights, quantized when all is over.

Of each, learning rate and its schedule (constant or a cosine) are those with the best
mean validation accuracy on other seeds. The rule, which was written before anything was
run: the hypothesis holds if RMDA's mean test accuracy is below PARQ's by no more than
two standard errors of the mean difference between runs of one seed.

    python -m examples.quantization --json examples/quantization/results.jsonl
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import rmda_jax as rj
from examples._data import Dataset, Split, load

METHODS = ("PARQ", "PARQ, hard", "RMDA", "RMDA, hard", "rounded")
HARD = ", hard"
LEVELS = {"three": 0, "four": 2}  # and the bits that say so
RATES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
SCHEDULES = ("constant", "cosine")
SELECTION_SEEDS = tuple(range(100, 103))
HARD_FROM = 0.75  # of the run
MOMENTUM, AVERAGING = 0.9, 0.1
HIDDEN, BATCH_SIZE, RENEW_EVERY = 64, 64, 10
KERNELS = ("in", "out")
Params = dict[str, dict[str, jax.Array]]


class Setting(NamedTuple):
    """What is selected, and which of two methods it is."""

    learning_rate: Any
    is_cosine: Any
    is_hard: Any


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the methods on digits."""

    seeds: int = 10
    """How many runs of each; they differ in the first weights and the batches."""
    steps: int = 1000
    """Of every run."""
    levels: tuple[str, ...] = ("three",)
    """How many levels a layer has: "three", "four" or both."""
    json: Path | None = None
    """Where to save the results, as JSON lines."""


def begin(key: jax.Array) -> Params:
    """Return params of a network with one hidden layer."""
    draw = jax.nn.initializers.he_normal()
    keys, shapes = jax.random.split(key), ((64, HIDDEN), (HIDDEN, 10))
    return {
        name: {"kernel": draw(k, shape), "bias": jnp.zeros(shape[1])}
        for name, k, shape in zip(KERNELS, keys, shapes, strict=True)
    }


def predict(params: Params, images: jax.Array) -> jax.Array:
    """Return the logits."""
    hidden = jax.nn.relu(images @ params["in"]["kernel"] + params["in"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def learning_rates(is_cosine: Any, n_steps: int) -> Callable[[Any], Any]:
    """Return one of SCHEDULES, of a learning rate of 1; which may be traced."""
    cosine = lambda count: (1 + jnp.cos(jnp.pi * count / n_steps)) / 2
    return lambda count: jnp.where(is_cosine, cosine(count), 1.0)


def rules(levels: dict[str, jax.Array]) -> rj.RegularizerMap:
    """Return PARQ's regularizer with these levels of every kernel."""
    make = rj.regularizers.piecewise_affine
    return rj.RegularizerMap([(f"{k}/kernel", make(levels[k])) for k in KERNELS])


def make_optimizer(
    method: str, setting: Setting, levels: dict[str, jax.Array], n_steps: int
) -> optax.GradientTransformation:
    """Return the optimizer of one of METHODS; setting and levels may be traced."""
    of_one = learning_rates(setting.is_cosine, n_steps)
    rates = lambda count: setting.learning_rate * of_one(count)
    hard_step = int(HARD_FROM * n_steps)
    if method == "RMDA":
        # The step of the prox after t updates: of a rate of 1, at any time.
        t = jnp.arange(1, n_steps + 1)
        steps = jnp.cumsum(of_one(t - 1) * jnp.sqrt(t)) / jnp.sqrt(t)
        least = jnp.where(setting.is_hard, steps.min(), steps[hard_step:].min())
        # Geometric, and 1 in the last tenth of the steps.
        averaging = lambda k: AVERAGING ** jnp.maximum(1 - k / (0.9 * n_steps), 0)
        strength = 1.001 / (setting.learning_rate * least)
        return rj.rmda(rates, rules(levels), strength, averaging=averaging)
    sgd = optax.sgd(rates, momentum=MOMENTUM)
    if method == "rounded":
        return sgd
    annealed = rj.parq_annealing(0, hard_step)
    slope = lambda count: jnp.where(setting.is_hard, 1.0, annealed(count))
    return rj.latent(sgd, rules(levels), slope)


def centers(state: Any, params: Params) -> dict[str, jax.Array]:
    """Return the kernels that the prox is shown: weights that are not quantized."""
    if isinstance(state, rj.LatentState):
        found = state.latent
    elif isinstance(state, rj.RMDAState):
        # Before the first update it has no anchor.
        found = jax.tree.map(
            lambda w, w0, m: jnp.where(state.count > 0, w0 - m, w),
            *(params, state.anchor, state.grad_sum),
        )
    else:
        found = params
    return {k: found[k]["kernel"] for k in KERNELS}


def estimate(kernels: dict[str, jax.Array], bits: int) -> dict[str, jax.Array]:
    """Return the levels of every kernel."""
    of = rj.regularizers.least_squares_levels
    return {k: of(kernel, bits) for k, kernel in kernels.items()}


def train(
    method: str, bits: int, seed: jax.Array, setting: Setting, data: Split, n: int
) -> Params:
    """Return the quantized params after n steps."""
    images, labels = jnp.asarray(data.images).reshape(-1, 64), jnp.asarray(data.labels)
    key = jax.random.key(seed)

    def loss(params: Params, batch: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels
        return losses(predict(params, images[batch]), labels[batch]).mean()

    def step(carry: Any, count: jax.Array) -> tuple[Any, None]:
        params, state, levels = carry
        renewed = estimate(centers(state, params), bits)
        is_due = count % RENEW_EVERY == 0
        levels = jax.tree.map(lambda a, b: jnp.where(is_due, a, b), renewed, levels)
        drawn = jax.random.fold_in(key, count)
        batch = jax.random.randint(drawn, (BATCH_SIZE,), 0, len(labels))
        grads = jax.grad(loss)(params, batch)
        optimizer = make_optimizer(method, setting, levels, n)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, levels), None

    params = begin(key)
    levels = estimate({k: params[k]["kernel"] for k in KERNELS}, bits)
    start = params, make_optimizer(method, setting, levels, n).init(params), levels
    (params, state, levels), _ = jax.lax.scan(step, start, jnp.arange(n))
    kernels = centers(state, params)
    if method == "rounded":
        levels = estimate(kernels, bits)
    whole = {k: params[k] | {"kernel": kernels[k]} for k in KERNELS}
    return rules(levels).prox(whole, 1.0)  # the nearest level


def accuracies(
    method: str, bits: int, seeds: Sequence[int], settings: list[Setting], n: int
) -> dict[str, np.ndarray]:
    """Return accuracies of validation and test, in percent: (settings, seeds)."""
    data: Dataset = load("digits")

    def run(setting: Setting, seed: jax.Array) -> tuple[jax.Array, ...]:
        params = train(method, bits, seed, setting, data.train, n)
        logits = lambda split: predict(params, split.images.reshape(-1, 64))
        right = lambda split: jnp.argmax(logits(split), axis=1) == split.labels
        return tuple(100 * right(s).mean() for s in (data.validation, data.test))

    each = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    stacked = jax.tree.map(lambda *x: jnp.asarray(x), *settings)
    found = jax.device_get(each(stacked, jnp.asarray(seeds)))
    return dict(zip(("validation", "test"), found, strict=True))


def compare(config: Config) -> list[dict[str, Any]]:
    """Return a row for every method and number of levels."""
    rows = []
    for levels, name in itertools.product(config.levels, METHODS):
        bits = LEVELS[levels]
        method, is_hard = name.removesuffix(HARD), name.endswith(HARD)
        grid = [
            Setting(rate, schedule == "cosine", is_hard)
            for rate, schedule in itertools.product(RATES, SCHEDULES)
        ]
        tried = accuracies(method, bits, SELECTION_SEEDS, grid, config.steps)
        means = tried["validation"].mean(1)
        best = grid[int(means.argmax())]
        seeds = range(config.seeds)
        test = accuracies(method, bits, seeds, [best], config.steps)["test"][0]
        schedules = {setting: SCHEDULES[setting.is_cosine] for setting in grid}
        rows.append(
            {
                "levels": levels,
                "method": name,
                "learning_rate": best.learning_rate,
                "schedule": schedules[best],
                "test": [round(float(x), 2) for x in test],
                "validation": {
                    f"{setting.learning_rate:g}, {schedules[setting]}": round(
                        float(m), 2
                    )
                    for setting, m in zip(grid, means, strict=True)
                },
            }
        )
        print(
            f"{levels:5s}  {name:10s}  {best.learning_rate:<5g}  {schedules[best]:8s}  "
            f"{test.mean():.2f} % (deviation {test.std(ddof=1):.2f})",
            flush=True,
        )
    return rows


def verdict(rows: list[dict[str, Any]], levels: str, one: str, other: str) -> str:
    """Return by how much one method is better than another, and its standard error."""
    test = {r["method"]: np.array(r["test"]) for r in rows if r["levels"] == levels}
    gap = test[one] - test[other]
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    lower = "" if gap.mean() >= -2 * error else "; lower by more than two errors"
    return f"{levels}: {one} - {other}: {gap.mean():+.2f} ± {error:.2f}{lower}"


def main(args: Sequence[str] | None = None) -> None:
    """Run the comparison, and print a line for every method."""
    config = tyro.cli(Config, args=args)
    rows = compare(config)
    pairs = [("RMDA", "PARQ"), ("PARQ", "PARQ, hard"), ("RMDA", "RMDA, hard")]
    for levels, (one, other) in itertools.product(config.levels, pairs):
        print(verdict(rows, levels, one, other))
    if config.json is not None:
        lines = [json.dumps(row) for row in rows]
        _ = config.json.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
