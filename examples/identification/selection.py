"""How the settings were chosen: one rule for all methods, on seeds of its own."""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.identification.inner import AROUND, INNER, make_inner
from examples.identification.methods import (
    COSINE,
    METHODS,
    WITH_FACTOR,
    Setting,
    make_optimizer,
    milestones,
)
from examples.identification.problem import Problem
from examples.identification.simulation import Entry, simulate, stack

SEEDS = tuple(range(100, 110))  # not those of reported figures
# Steps of about the square root of ten.
RATES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5)
FACTORS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def candidates(n_steps: int) -> Iterator[tuple[Entry, list[Setting]]]:
    """Yield the methods with a learning rate that decays, and all their settings."""
    for method in METHODS:
        restarts = () if method in COSINE else tuple(milestones(n_steps))
        make = functools.partial(
            make_optimizer, method, n_steps=n_steps, restart_steps=restarts
        )
        grid = settings(FACTORS if method in WITH_FACTOR else (1.0,))
        yield Entry(method, make, stack(grid)), grid


def inner_candidates(n_steps: int) -> Iterator[tuple[Entry, list[Setting]]]:
    """Yield the same of the inner optimizers, all of them with a factor."""
    for around, inner in itertools.product(AROUND, INNER):
        make = functools.partial(make_inner, around, inner, n_steps=n_steps)
        grid = settings(FACTORS)
        yield Entry(f"{around}, {inner}", make, stack(grid)), grid


def settings(factors: Sequence[float]) -> list[Setting]:
    """Return every factor with every learning rate."""
    return [Setting(rate, factor, True) for factor in factors for rate in RATES]


def distances(
    problem: Problem, entry: Entry, grid: list[Setting], n_steps: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each factor: the distance that every learning rate ends at.

    It is the mean over the seeds and the last quarter of the steps; None if it is not
    finite.
    """
    run = jax.jit(lambda p, seeds: simulate(p, {0: entry}, seeds, n_steps)[0].distance)
    curves = jax.device_get(run(problem, jnp.asarray(SEEDS)))
    ends = curves[..., 3 * curves.shape[-1] // 4 :].mean((1, 2))
    found: dict[float, dict[str, float | None]] = {}
    for setting, end in zip(grid, ends, strict=True):
        row = found.setdefault(setting.factor, {})
        distance = round(float(end), 4) if np.isfinite(end) else None
        row[f"{setting.learning_rate:g}"] = distance
    for factor, row in found.items():
        yield {"method": entry.method, "factor": factor, "distance": row}


def selected(rows: list[Mapping[str, Any]]) -> dict[str, Setting]:
    """Return the setting of every method that ends nearest to the optimum.

    The structure takes no part in it.

    Raises:
      ValueError: a learning rate or a factor lies at the edge of what was tried.
    """
    best: dict[str, tuple[float, Setting]] = {}
    tried: dict[str, set[float]] = {}
    for row in rows:
        tried.setdefault(row["method"], set()).add(row["factor"])
        for rate, distance in row["distance"].items():
            if distance is not None:
                found = distance, Setting(float(rate), row["factor"])
                kept = best.setdefault(row["method"], found)
                best[row["method"]] = min(kept, found, key=lambda pair: pair[0])
    for method, (_, setting) in best.items():
        factors = tried[method]
        inside = len(factors) == 1 or min(factors) < setting.factor < max(factors)
        if not (min(RATES) < setting.learning_rate < max(RATES) and inside):
            raise ValueError(f"{method}: {setting} lies at the edge of the grid")
    return {method: setting for method, (_, setting) in best.items()}


def select(
    problem: Problem, found: Iterable[tuple[Entry, list[Setting]]], n_steps: int
) -> None:
    """Print the rows of all methods, and then what is selected, as JSON lines."""
    rows = []
    for entry, grid in found:
        for row in distances(problem, entry, grid, n_steps):
            rows.append(row)
            print(json.dumps(row), flush=True)
    for method, setting in selected(rows).items():
        line = {"selected": method, **setting._asdict()}
        del line["decays"]
        print(json.dumps(line), flush=True)
