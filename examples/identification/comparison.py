"""The comparisons: on both sums, when the data drift, and of inner optimizers."""

import concurrent.futures
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from examples.identification.inner import AROUND, INNER, SELECTED, make_inner
from examples.identification.methods import (
    COSINE,
    DUAL_AVERAGING,
    METHODS,
    Run,
    make_optimizer,
    milestones,
)
from examples.identification.problem import as_float32, make_problem
from examples.identification.simulation import Entry, Record, simulate, stack

PANELS = {"infinite sum": make_problem(), "finite sum": make_problem(noise=0.0)}
DRIFTED = make_problem(drifted=True)
# Every method with a constant learning rate, and with one that decays.
RUNS = tuple(
    Run(method, decays)
    for decays in (False, True)
    for method in METHODS
    if decays or method not in COSINE
)
INNER_RUNS = tuple(
    Run(f"{around}, {inner}", decays)
    for around in AROUND
    for inner in INNER
    for decays in (False, True)
)
# What the drift is about: constant rates, and those that can with a restart.
RESTARTED = {"RMDA, restart": "RMDA", "RAMDA, restart": "RAMDA"}
DRIFT_METHODS = (*(run.method for run in RUNS if not run.decays), *RESTARTED)


def entries(n_steps: int, methods: Iterable[str]) -> dict[tuple[Run, ...], Entry]:
    """Return the runs of methods; those which differ in numbers alone are one entry."""
    found = {}
    for method in methods:
        setting, runs = METHODS[method], [run for run in RUNS if run.method == method]
        apart = method in DUAL_AVERAGING
        for group in [(run,) for run in runs] if apart else [tuple(runs)]:
            stages = apart and group[0].decays and method not in COSINE
            make = functools.partial(
                make_optimizer,
                method,
                n_steps=n_steps,
                restart_steps=tuple(milestones(n_steps)) if stages else (),
            )
            settings = [setting._replace(decays=run.decays) for run in group]
            found[group] = Entry(method, make, stack(settings))
    return found


def compare(
    seeds: jax.Array, n_steps: int, methods: Iterable[str] = tuple(METHODS)
) -> dict[str, dict[Run, Record]]:
    """Return the records of RUNS on both PANELS, which share the random numbers.

    Args:
      seeds: Shape (n,).
      n_steps: Of every run.
      methods: Of which of METHODS.

    Returns:
      By panel and run; what is in a record has the shape (n, time).
    """
    problems = jax.tree.map(lambda *x: jnp.stack(x), *map(as_float32, PANELS.values()))

    def run(tried: dict[tuple[Run, ...], Entry]) -> dict[tuple[Run, ...], Record]:
        of_one = lambda problem, seeds: simulate(problem, tried, seeds, n_steps)
        return jax.device_get(jax.jit(jax.vmap(of_one, (0, None)))(problems, seeds))

    # Two programs of about the same length are compiled and run side by side.
    parts: tuple[dict[tuple[Run, ...], Entry], ...] = {}, {}
    for runs, entry in entries(n_steps, methods).items():
        parts[entry.method in DUAL_AVERAGING][runs] = entry
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.map(run, filter(None, parts))
        found = {runs: record for part in done for runs, record in part.items()}
    records = {
        run: jax.tree.map(lambda x: x[:, j], found[runs])  # noqa: B023
        for runs in found
        for j, run in enumerate(runs)
    }
    return {
        panel: {
            run: jax.tree.map(lambda x: x[i], records[run])  # noqa: B023
            for run in RUNS
            if run in records
        }
        for i, panel in enumerate(PANELS)
    }


def drift_step(n_steps: int) -> int:
    """Return the step from which on the data have drifted."""
    return 2 * n_steps // 3


def compare_in_drift(
    seeds: jax.Array, n_steps: int, methods: Iterable[str] = tuple(METHODS)
) -> dict[str, Record]:
    """Return the records of DRIFT_METHODS, at a constant rate, by their names."""
    start = drift_step(n_steps)
    tried = {}
    for name in DRIFT_METHODS:
        method, restarts = RESTARTED.get(name, name), name in RESTARTED
        if method not in methods:
            continue
        make = functools.partial(
            make_optimizer,
            method,
            n_steps=n_steps,
            restart_steps=(start,) if restarts else (),
        )
        tried[name] = Entry(method, make, stack([METHODS[method]]))

    @jax.jit
    def run(before, after, seeds):
        return simulate(before, tried, seeds, n_steps, (after, start))

    problems = as_float32(PANELS["infinite sum"]), as_float32(DRIFTED)
    records = jax.device_get(run(*problems, seeds))
    return {name: jax.tree.map(lambda x: x[0], records[name]) for name in tried}


def compare_inner(seeds: jax.Array, n_steps: int) -> dict[Run, Record]:
    """Return the records of INNER_RUNS on the infinite sum."""
    tried = {}
    for around in AROUND:
        for inner in INNER:
            name = f"{around}, {inner}"
            runs = tuple(run for run in INNER_RUNS if run.method == name)
            make = functools.partial(make_inner, around, inner, n_steps=n_steps)
            settings = [SELECTED[name]._replace(decays=run.decays) for run in runs]
            tried[runs] = Entry(name, make, stack(settings))

    @jax.jit
    def run(problem, seeds):
        return simulate(problem, tried, seeds, n_steps)

    records = jax.device_get(run(as_float32(PANELS["infinite sum"]), seeds))
    return {
        run: jax.tree.map(lambda x: x[j], records[runs])  # noqa: B023
        for runs in tried
        for j, run in enumerate(runs)
    }
