"""Find the structure of a solution that is known: RMDA and its baselines against truth.

Least squares with noise on the inputs and a group lasso on the 40 rows of the params
(see `problem`): which rows of the optimum are zero is certified. RMDA,
RAMDA, ProxSGD, ProxGen and ProxSSI see the same batches and the same noise; each takes
the learning rate that brings it nearest to the optimum.

All come about as near, ProxSGD nearest. But the momentum of the baselines keeps a noise
indefinitely, and with it rows that should be zero. The averaged gradient of RMDA and
RAMDA loses its noise, by sqrt(9 / (8 t)) in the t steps of a stage: they find the 8
rows that are not zero, all of them and no other. A restart forgets the average, and for
some 300 steps the structure with it; without one it stays. (ProxSSI is nearly right for
a while: without bias correction, its metric at first strengthens the regularizer.)

    python -m examples.identification               # 10 seconds; writes under out/
    python -m examples.identification \
        --figure examples/identification/identification.png \
        --json examples/identification/results.jsonl   # what is kept here
    python -m examples.identification --select-rates   # how the rates were chosen

Structure is measured where it lives, and the distance with it: on the structured
iterate of RMDA and RAMDA, on the params of the others.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

import rmda_jax as rj
from examples.identification.methods import (
    DUAL_AVERAGING,
    METHODS,
    MOMENTUM,
    RATES,
    REGULARIZER,
    RUNS,
    Run,
    make_optimizer,
)
from examples.identification.problem import (
    NOISE,
    STRENGTH,
    Problem,
    error_bound,
    gradient_noise,
    make_problem,
    margins,
)
from examples.identification.report import (
    print_tables,
    save_figure,
    summarize,
    summarize_law,
)

BATCH_SIZE = 32
RECORD_EVERY = 10  # steps
SELECTION_SEEDS = tuple(range(100, 110))  # not those of reported figures
console = Console()


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the structures that RMDA and its baselines find with the true one."""

    seeds: int = 10
    """How many runs of each method; they differ in the batches and the noise."""
    steps: int = 6000
    """Per run, in three stages of equal length when the learning rate decays."""
    figure: Path = Path("out/identification.png")
    """Where to save the figure."""
    json: Path | None = None
    """Where to save the results of every seed, as JSON lines."""
    select_rates: bool = False
    """Choose the learning rates on other seeds, in place of the comparison."""


class Record(NamedTuple):
    """What is measured at one step; with leading axes of seeds and time in the end."""

    wrong_groups: jax.Array  # zero in one of iterate and optimum, not in the other
    rows_kept: jax.Array
    distance: jax.Array  # of the structured iterate from the optimum
    params_distance: jax.Array  # of the params: not the same where they are an average
    gradient_error: jax.Array  # |the gradient that the step followed - the true one|
    certificate: jax.Array  # how far from stationary, by the true gradient
    own_certificate: jax.Array  # the same, by the gradient that the step followed
    own_margin: jax.Array  # how safely zero rows stay zero, by that gradient


@functools.partial(jax.jit, static_argnames="n_steps")
def simulate(
    problem: Problem, rates: dict[str, jax.Array], seeds: jax.Array, n_steps: int
) -> dict[Run, Record]:
    """Return the records of RUNS: one program for all methods and all seeds."""
    problem = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), problem)
    optimizers = {run: make_optimizer(*run, rates[run[0]], n_steps) for run in RUNS}

    def run_seed(seed: jax.Array) -> dict[Run, Record]:
        key = jax.random.key(seed)

        def step(carry: Any, t: jax.Array) -> tuple[Any, None]:
            which, noise = jax.random.split(jax.random.fold_in(key, t))
            batch = jax.random.randint(which, (BATCH_SIZE,), 0, len(problem.inputs))
            inputs, targets = problem.inputs[batch], problem.targets[batch]
            inputs += NOISE * jax.random.normal(noise, inputs.shape)
            after = {}
            for run, (_, params, state) in carry.items():
                grads = inputs.T @ (inputs @ params - targets) / BATCH_SIZE
                updates, state = optimizers[run].update(grads, state, params)
                after[run] = (params, optax.apply_updates(params, updates), state)
            return after, None

        def steps(carry: Any, start: jax.Array) -> tuple[Any, dict[Run, Record]]:
            carry, _ = jax.lax.scan(step, carry, start + jnp.arange(RECORD_EVERY))
            return carry, {run: measure(problem, run[0], *carry[run]) for run in RUNS}

        zeros = jnp.zeros_like(problem.optimum)
        carry = {run: (zeros, zeros, optimizers[run].init(zeros)) for run in RUNS}
        starts = RECORD_EVERY * jnp.arange(n_steps // RECORD_EVERY)
        return jax.lax.scan(steps, carry, starts)[1]

    return jax.vmap(run_seed)(seeds)


def measure(
    problem: Problem, method: str, before: jax.Array, params: jax.Array, state: Any
) -> Record:
    """Return the record of the step that led from `before` to `params`."""
    if method in DUAL_AVERAGING:
        iterate = rj.structured_params(state, REGULARIZER)
        followed = state.mean_gradient()
        own_certificate = rj.metrics.stationarity(state, REGULARIZER)
        own_margin = rj.metrics.margin(state, REGULARIZER)
    else:
        iterate = params
        followed = state.mu / (1 - MOMENTUM**state.count)  # its bias corrected
        own_certificate = REGULARIZER.subgradient_distance(iterate, -followed, STRENGTH)
        own_margin = REGULARIZER.margin(iterate, -followed, STRENGTH)
    support = REGULARIZER.support(iterate)
    return Record(
        wrong_groups=rj.metrics.support_distance(
            support, REGULARIZER.support(problem.optimum)
        ),
        rows_kept=jnp.sum(support),
        distance=jnp.linalg.norm(iterate - problem.optimum),
        params_distance=jnp.linalg.norm(params - problem.optimum),
        gradient_error=jnp.linalg.norm(followed - problem.gradient(before)),
        certificate=REGULARIZER.subgradient_distance(
            iterate, -problem.gradient(iterate), STRENGTH
        ),
        own_certificate=own_certificate,
        own_margin=own_margin,
    )


@functools.partial(jax.jit, static_argnames=("n_steps", "n_entries"))
def variance_law(n_steps: int = 1000, n_entries: int = 10_000) -> dict[str, jax.Array]:
    """Return the noise left in the gradients that RMDA and ProxSGD follow, by step.

    The params stay where they are, and the gradient of every entry is 1 + z with a new
    standard normal z at each step. Over the entries, the deviation of RMDA's averaged
    gradient should be sqrt(9 / (8 t)), that of ProxSGD's momentum stay above
    sqrt(rho / (2 - rho)).
    """
    params = jnp.zeros(n_entries)
    rmda = rj.rmda(METHODS["RMDA"], REGULARIZER, STRENGTH)
    proxsgd = rj.proxsgd(1.0, REGULARIZER, STRENGTH, averaging=1 - MOMENTUM)

    def step(states: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        grads = 1 + jax.random.normal(key, params.shape)
        _, dual = rmda.update(grads, states[0], params)
        _, primal = proxsgd.update(grads, states[1], params)
        noise = {"RMDA": jnp.std(dual.mean_gradient()), "ProxSGD": jnp.std(primal.mu)}
        return (dual, primal), noise

    keys = jax.random.split(jax.random.key(0), n_steps)
    return jax.lax.scan(step, (rmda.init(params), proxsgd.init(params)), keys)[1]


def select_rates(problem: Problem, n_steps: int) -> dict[str, float]:
    """Return each method's rate of RATES that, decaying, ends nearest to the optimum.

    The structure takes no part in it, and the seeds are not those of the comparison.
    """
    seeds = jnp.asarray(SELECTION_SEEDS)
    records = jax.vmap(
        lambda rate: simulate(problem, dict.fromkeys(METHODS, rate), seeds, n_steps)
    )(jnp.asarray(RATES))
    selected = {}
    for method in METHODS:
        curves = records[method, True].distance
        distances = curves[..., 3 * curves.shape[-1] // 4 :].mean((1, 2)).tolist()
        row = {str(r): round(d, 4) for r, d in zip(RATES, distances, strict=True)}
        print(json.dumps({"method": method, "distance": row}), flush=True)
        selected[method] = RATES[int(np.argmin(distances))]
    return selected


def main(args: Sequence[str] | None = None) -> None:
    """Run the comparison from the command line."""
    start = time.perf_counter()
    config = tyro.cli(Config, args=args)
    problem = make_problem()
    if config.select_rates:
        print(json.dumps({"selected": select_rates(problem, config.steps)}))
        return
    records = simulate(problem, METHODS, jnp.arange(config.seeds), config.steps)
    records, law = jax.device_get((records, variance_law()))
    records = {run: records[run] for run in RUNS}  # in their order again
    steps = np.arange(RECORD_EVERY, config.steps + 1, RECORD_EVERY)
    rows, law_rows = summarize(records, steps), summarize_law(law)
    print_tables(rows, law_rows, console)
    for path in filter(None, (config.figure, config.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
    noise = gradient_noise(problem, BATCH_SIZE)
    save_figure(records, steps, law, noise, config.figure)
    if config.json is not None:
        bound = error_bound(problem.curvature, problem.linear, problem.optimum)
        truth = {
            "steps": config.steps,
            "optimum_error_bound": bound,
            **margins(problem),
            "gradient_noise": noise,
        }
        lines = [json.dumps(line) for line in (truth, *rows, *law_rows)]
        config.json.write_text("\n".join(lines) + "\n")
    seconds = time.perf_counter() - start
    console.print(f"Saved {config.figure} after {seconds:.0f} seconds.")


if __name__ == "__main__":
    main()
